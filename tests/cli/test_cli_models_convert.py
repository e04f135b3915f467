"""``terraprompt models convert``: from a released layout to an engine that answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from released import released_state, tiny_model, write_released, write_tokenizer


def test_convert_then_segment(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    source = write_released(tmp_path / "src", released_state(tiny_model()))
    write_tokenizer(source)
    done = run("models", "convert", source, tmp_path / "dst", "--preset", "tiny", "--json")
    assert done.code == 0
    assert done.json["preset"] == "tiny"
    assert done.json["tokenizer"] is True
    written = {path.name for path in (tmp_path / "dst").iterdir()}
    assert written >= {"config.json", "provenance.json", "model.safetensors.index.json", "tokenizer.json"}
    again = run("models", "convert", source, tmp_path / "dst", "--preset", "tiny")
    assert (again.code, again.out) == (1, "")
    assert "--overwrite" in again.said
    asked = ("segment", town.path, "the roof", "--engine", "unigeoseg", "--weights", tmp_path / "dst")
    made = run(*asked, "--box", "10,10,60,60", "-o", tmp_path / "mask.tif")
    assert made.code in (0, 3), made.said
    assert (tmp_path / "mask.tif").exists()


def test_what_cannot_be_converted(run: Callable[..., Any], tmp_path: Path) -> None:
    state = released_state(tiny_model())
    del state["global_latents"]
    source = write_released(tmp_path / "src", state)
    done = run("models", "convert", source, tmp_path / "dst", "--preset", "tiny")
    assert (done.code, done.out) == (1, "")
    assert "missing tensors" in done.said
    assert "global_latents" in done.said
    assert not (tmp_path / "dst").exists()
    done = run("models", "convert", tmp_path / "nothing", tmp_path / "dst")
    assert (done.code, done.out) == (1, "")
    assert "no such folder" in done.said
    assert run("models", "convert", source).code == 2
    assert run("models", "convert", "--help").code == 0


def test_the_engine_without_weights_says_what_to_do(run: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.delenv("TERRAPROMPT_UNIGEOSEG", raising=False)
    assert "unigeoseg" in run("models").out.split()
    done = run("models", "unigeoseg")
    assert (done.code, done.out) == (1, "")
    assert "terraprompt models convert SRC DST" in done.said
