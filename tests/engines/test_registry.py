"""Engines by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from terraprompt.engines import registry
from terraprompt.engines.base import Answer, Embedding, Engine, ModelInfo, TileSpec
from terraprompt.errors import EngineError
from terraprompt.io.entry_points import installed
from terraprompt.prompt import Prompt, Task


class Tiny:
    """The smallest thing that is an engine."""

    name = "tiny"
    tile = TileSpec()
    tasks = frozenset(Task)

    def __init__(self, *, device: str = "cpu") -> None:
        self.info = ModelInfo("tiny", "1", settings={"device": device})

    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        return []

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        return []


def not_an_engine() -> int:
    return 3


@pytest.fixture(autouse=True)
def _installed(declare: Callable[..., None]) -> None:
    tiny, number = f"{__name__}:Tiny", f"{__name__}:not_an_engine"
    declare(registry.GROUP, only=True, tiny=tiny, number=number, broken="no_such_module_anywhere:load")


def test_names_are_sorted_and_the_mapping_cannot_change():
    assert registry.engine_names() == ("broken", "number", "tiny")
    with pytest.raises(TypeError):
        installed(registry.GROUP)["other"] = None  # type: ignore[index]


def test_loading_hands_over_options():
    engine = registry.load_engine("tiny", device="cuda")
    assert isinstance(engine, Engine)
    assert engine.info.settings == {"device": "cuda"}


def test_unknown_engine_names_the_closest():
    with pytest.raises(EngineError, match=r'Did you mean "tiny"\? Engines: broken, number, tiny'):
        registry.load_engine("tinny")


def test_bad_options_broken_imports_and_non_engines():
    with pytest.raises(EngineError, match="options"):
        registry.load_engine("tiny", colour="blue")
    with pytest.raises(EngineError, match="cannot be imported"):
        registry.load_engine("broken")
    with pytest.raises(EngineError, match="did not return an engine"):
        registry.load_engine("number")


def test_nano_is_installed(declare):
    declare(registry.GROUP)
    assert "nano" in registry.engine_names()


def test_no_engines_at_all(declare):
    declare(registry.GROUP, only=True)
    assert registry.engine_names() == ()
    with pytest.raises(EngineError, match="Engines: none are installed"):
        registry.load_engine("nano")


def test_a_name_like_no_other_is_not_guessed():
    with pytest.raises(EngineError, match=r"Received: qqqq\. Engines: broken, number, tiny"):
        registry.load_engine("qqqq")


def test_an_attribute_that_is_gone(declare):
    declare(registry.GROUP, gone=f"{__name__}:NoSuchThing")
    with pytest.raises(EngineError, match=r"cannot be imported .*Install what it needs"):
        registry.load_engine("gone")


def test_a_fault_inside_a_loader_is_not_taken_for_bad_options(monkeypatch):
    def faulty(self, *, device="cpu"):
        raise TypeError("inside the loader")

    monkeypatch.setattr(Tiny, "__init__", faulty)
    with pytest.raises(TypeError, match="inside the loader"):
        registry.load_engine("tiny")


def test_an_engine_that_lacks_a_part_is_not_one(monkeypatch):
    monkeypatch.delattr(Tiny, "predict")
    with pytest.raises(EngineError, match=r"did not return an engine.*Tiny"):
        registry.load_engine("tiny")
