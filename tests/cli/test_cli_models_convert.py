"""``terraprompt models convert``: from a released layout to an engine that answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from released import released_state, tiny_model, write_released, write_tokenizer
from small_segmenters import released_mobile_sam
from terraprompt.models.sam.mobile_sam import MobileSam, MobileSamConfig
from terraprompt.segmenters import load_segmenter


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


def test_mobile_sam_becomes_a_segmenter(run: Callable[..., Any], tmp_path: Path) -> None:
    model = MobileSam(MobileSamConfig())
    torch.save(released_mobile_sam(model), tmp_path / "mobile_sam.pt")
    done = run("models", "convert", tmp_path / "mobile_sam.pt", tmp_path / "dst", "--json")
    assert done.code == 0, done.said
    assert done.json == {"written": str(tmp_path / "dst"), "preset": "mobile-sam", "tensors": len(model.state_dict())}
    assert load_segmenter(tmp_path / "dst").info.settings["architecture"] == "mobile_sam"
    again = run("models", "convert", tmp_path, tmp_path / "dst")
    assert (again.code, again.out) == (1, "")
    assert "--overwrite" in again.said


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
