"""``terraprompt train grpo`` and ``train sft`` as a user meets them, and that ``train`` alone is what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layout_copies import dior_rsvg, earthreason
from terraprompt.datasets.registry import open_dataset
from terraprompt.segmenters import load as loading
from tiny_lvlm import write_tiny
from tiny_policy import SIDE, BoxFiller, questions


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Three labelled images, split train."""
    root = tmp_path / "pack"
    root.mkdir()
    lines = []
    for i, question in enumerate(questions(3)):
        Image.fromarray(question.pixels).save(root / f"{i}.png")
        Image.fromarray(question.load_mask()).save(root / f"{i}_mask.png")
        record = {
            "id": f"s/{i}", "source": "s", "split": "train", "image": f"{i}.png", "width": SIDE, "height": SIDE,
            "gsd_m": 0.3, "label_kind": "mask", "labelled": ["building"], "licence": "CC0", "group": str(i),
            "scale_variant": False,
            "regions": [{"category": "building", "mask": f"{i}_mask.png", "value": 1, "box": None}],
        }  # fmt: skip
        lines.append(json.dumps(record))
    (root / "annotations.jsonl").write_text("\n".join(lines) + "\n")
    return root


def test_warm_up_then_grpo_in_two_commands(
    run: Callable[..., Any], pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = BoxFiller()
    monkeypatch.setattr(loading, "_from_engine", lambda *_, **__: segmenter)
    monkeypatch.setattr("terraprompt.segmenters.load_segmenter", lambda *_, **__: segmenter)
    start = write_tiny(tmp_path / "start", "qwen2_5_vl")
    small = ("--units", "pixels", "--side", SIDE, "--steps", 1, "--micro-batch-size", 2, "--device", "cpu", "-q")
    warm = run("train", "sft", "--data", pack, "--start", start, "--run", tmp_path / "warm", "--batch", 2, *small)
    assert (warm.code, warm.out.strip()) == (0, str(tmp_path / "warm" / "weights"))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'start = "{tmp_path / "warm" / "weights"}"\nsegmenter = "nano"\n'
        '[grpo]\ngenerations = 2\nprompts = 1\nmax_tokens = 4\nterms = ["format"]\ntemplate = "{instruction}"\n'
    )
    options = ("--data", pack, "--recipe", recipe, "--run", tmp_path / "run", *small)
    done = run("train", "grpo", *options, "--held-out", 1, "--evaluate-every", 1)
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "run" / "weights"))
    assert (tmp_path / "run" / "curves.png").is_file()
    said = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (said["generations"], said["precision"], said["samples"]) == (2, "fp32", 2)
    again = run("train", "grpo", *options)
    assert again.code == 1
    assert "The run folder holds a training already." in again.said


def test_grpo_from_a_copy_of_earthreason(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout as it is: several wordings of an image are prompts, no-target images too; the budget is printed."""
    copy = earthreason(tmp_path / "copy", split="train")
    monkeypatch.setattr("terraprompt.segmenters.load_segmenter", lambda *_, **__: BoxFiller())
    start = write_tiny(tmp_path / "start", "qwen2_5_vl")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'start = "{start}"\nsegmenter = "nano"\n[grpo]\ngenerations = 2\nprompts = 1\nmax_tokens = 4\n'
        'epochs = 2.0\nmicro_batch_size = 2\ntemplate = "{instruction}"\npoints = 1\n'
    )
    options = ("train", "grpo", "--questions", copy, "--recipe", recipe, "--run", tmp_path / "run")
    planned = run(*options, "--dry-run")
    samples = open_dataset("earthreason", copy, split="train").samples
    prompts = sum(len(sample.instructions) for sample in samples)
    assert prompts > len(samples) > 1
    assert any(not sample.load_mask().any() for sample in samples)
    assert f"{len(samples)} samples, {prompts} prompts; {2 * prompts} steps of 1 prompts x 2 answers" in planned.out
    assert not (tmp_path / "run").exists()
    drawn = run(*options, "--dry-run", "--wordings", "one")
    assert f"{len(samples)} prompts; {2 * len(samples)} steps" in drawn.out
    small = ("--units", "pixels", "--side", SIDE, "--device", "cpu", "-q")
    done = run(*options, *small)
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "run" / "weights"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 2 * prompts, "as many as were announced"
    said = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (said["samples"], said["wordings"], said["points"]) == (len(samples), "each", 1)
    mixed = run(*options[:3], f"{copy}:0.5", *options[4:])
    assert "have no weights" in mixed.said
    boxes = dior_rsvg(tmp_path / "boxes")
    (boxes / "test.txt").rename(boxes / "train.txt")
    none = run(*options[:3], f"dior-rsvg={boxes}", *options[4:], "--dry-run")
    assert "no question in words has a mask" in none.said


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("grpo",), 1, "There is no reasoner to train. Name one with --start, or a --recipe."),
        (("grpo", "--recipe", "think4seg"), 1, "There is no such recipe. Received: think4seg."),
        (("grpo", "--start", "here"), 1, "GRPO needs a frozen segmenter. Name one with --segmenter"),
        (
            ("grpo", "--recipe", "think2seg-3b"),
            1,
            "nothing to train on. Give --questions, --data or --rendered.",
        ),
        (
            ("grpo", "--start", "here", "--segmenter", "sam9", "--rendered", "1"),
            1,
            "Unknown segmenter. Received: sam9.",
        ),
        (("sft", "--start", "absent/x/y", "--rendered", "1"), 1, "neither a folder nor to be had from the hub"),
        (("sft", "--start", "here"), 1, "There is nothing to train on."),
        (("grpo", "--device", "abacus", "--start", "here"), 1, "The device cannot be used"),
        (("--steps", "3", "grpo"), 2, "Options come after the verb: train grpo --steps"),
        ((), 2, "Missing option '--data' (or '--questions')."),
        (("--rate", "1e-3"), 2, "--rate is now --lr."),
        (("sft", "--micro=2"), 2, "--micro is now --micro-batch-size."),
        (("ppo",), 2, "No such command 'ppo'"),
    ],
)
def test_what_is_missing_is_said(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...], code: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = run("train", *options)
    assert (done.code, done.out) == (code, "")
    assert words in done.said
    assert not list(tmp_path.iterdir())
