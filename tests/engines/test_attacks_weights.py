"""Damaged weights and cards: one line that names the file, whatever the damage; never an answer."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from terraprompt.engines.registry import load_engine
from terraprompt.engines.weights import packaged
from terraprompt.errors import TerrapromptError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for ending in (".safetensors", ".json"):
        shutil.copy(packaged("nano").with_suffix(ending), tmp_path / f"own{ending}")
        (tmp_path / f"own{ending}").chmod(0o644)
    return tmp_path / "own.safetensors"


def card(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    held = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(change(held) or held))


def signed(path: Path) -> None:
    card(path, lambda held: held | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


def tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        state = dict(load_file(path))
        change(state)
        save_file(state, path)
        signed(path)

    return damage


def data(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))
        signed(path)

    return damage


def first(state: dict[str, np.ndarray]) -> str:
    return next(name for name, value in sorted(state.items()) if value.dtype.kind == "f" and value.ndim > 1)


def spoilt(value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(state: dict[str, np.ndarray]) -> None:
        state[first(state)] = np.full_like(state[first(state)], value)

    return change


def without_first(state: dict[str, np.ndarray]) -> None:
    del state[first(state)]


def reshaped(state: dict[str, np.ndarray]) -> None:
    state[first(state)] = state[first(state)].reshape(-1)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "header longer than the file": data(lambda d: struct.pack("<Q", len(d)) + d[8:]),
    "header of 2^63 bytes": data(lambda d: struct.pack("<Q", 1 << 63) + d[8:]),
    "header of no bytes": data(lambda d: struct.pack("<Q", 0) + d[8:]),
    "header no JSON": data(lambda d: d[:8] + b"?" + d[9:]),
    "cut": data(lambda d: d[:-1000]),
    "longer": data(lambda d: d + b"\0" * 8),
    "empty": data(lambda d: b""),
    "another file": data(lambda d: b"PK\x03\x04" + d[:100]),
    "not a number": tensors(spoilt(np.nan)),
    "infinite": tensors(spoilt(np.inf)),
    "a tensor missing": tensors(without_first),
    "another shape": tensors(reshaped),
    "no tensor": tensors(lambda state: state.clear()),
    "card a list": lambda p: card(p, lambda held: [held]),
    "card a number": lambda p: p.with_suffix(".json").write_text("7"),
    "card null": lambda p: p.with_suffix(".json").write_text("null"),
    "card without end": lambda p: p.with_suffix(".json").write_text('{"sha256": "'),
    "card of brackets": lambda p: p.with_suffix(".json").write_text("[" * 100_000),
    "card in UTF-16": lambda p: p.with_suffix(".json").write_bytes(p.with_suffix(".json").read_text().encode("utf-16")),
    "card a folder": lambda p: (p.with_suffix(".json").unlink(), p.with_suffix(".json").mkdir()),
    "gsd_m a word": lambda p: card(p, lambda held: held | {"gsd_m": "fine"}),
    "gsd_m null": lambda p: card(p, lambda held: held | {"gsd_m": None}),
    "categories a number": lambda p: card(p, lambda held: held | {"categories": 5}),
    "categories unknown": lambda p: card(p, lambda held: held | {"categories": ["unicorn"]}),
    "model a list": lambda p: card(p, lambda held: held | {"model": []}),
    "model missing": lambda p: card(p, lambda held: {k: v for k, v in held.items() if k != "model"}),
    "model of words": lambda p: card(p, lambda held: held | {"model": dict.fromkeys(held["model"], "x")}),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_one_line(weights: Path, kind: str) -> None:
    DAMAGE[kind](weights)
    with pytest.raises(TerrapromptError) as error:
        load_engine("nano", weights=weights)
    assert "\n" not in str(error.value)
    assert "own." in str(error.value)
