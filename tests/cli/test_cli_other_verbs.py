"""The other verbs, and what all of them share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layout_copies import geoseg_bench, remotesam
from terraprompt import __version__
from terraprompt.engines.weights import packaged

VERBS = ("segment", "info", "models", "train", "dataset", "evaluate", "demo")


def test_the_program_runs_as_a_module_and_as_a_script() -> None:
    for program in ([sys.executable, "-m", "terraprompt"], [str(Path(sys.executable).with_name("terraprompt"))]):
        done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")


def test_help_names_every_verb_and_the_exit_codes(run: Callable[..., Any]) -> None:
    done = run("--help")
    assert done.code == 0
    assert all(verb in done.out for verb in VERBS)
    assert "0 done, 1 error, 2 wrong usage, 3 ran and found nothing" in done.out
    for verb in VERBS:
        assert run(verb, "--help").code == 0


@pytest.mark.parametrize("arguments", [("segmint",), ("--colour",), ("info",), ("models", "a", "b"), ("evaluate",)])
def test_wrong_usage_is_code_2(run: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Usage: " in done.said


# info


def test_info_tells_what_a_scene_is(run: Callable[..., Any], town: Any) -> None:
    said = run("info", town.path, "--json")
    facts = said.json
    height, width = town.truth.shape
    assert (said.code, facts["width"], facts["height"], facts["dtype"]) == (0, width, height, "uint8")
    assert facts["bands_used"] == [1, 2, 3]
    assert facts["crs"] == town.truth.crs
    assert facts["gsd_m"] == pytest.approx(0.3, rel=1e-2)
    x, y = town.house.point
    assert facts["extent"][0] < x < facts["extent"][2]
    assert facts["extent"][1] < y < facts["extent"][3]
    plain = run("info", town.path)
    assert plain.code == 0
    assert all(name in plain.out for name in facts)
    assert town.truth.crs in plain.out


def test_info_json_is_valid_with_nan_as_nodata(
    run: Callable[..., Any], tmp_path: Path, write_raster: Callable[..., Path]
) -> None:
    values = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(1, 64, 64)
    values[:, :9] = np.nan
    path = write_raster(tmp_path / "f.tif", values, nodata=float("nan"), crs="EPSG:32633")
    done = run("info", path, "--json")
    assert done.code == 0
    assert done.json["nodata"] == "nan"
    assert done.json["stretch"]["mode"] == "percentile"


def test_info_of_a_picture_and_of_nothing(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    Image.fromarray(town.truth.rgb).save(tmp_path / "photo.png")
    facts = run("info", tmp_path / "photo.png", "--json").json
    assert (facts["crs"], facts["gsd_m"]) == (None, None)
    done = run("info", tmp_path / "none.tif", "--json")
    assert (done.code, done.out) == (1, "")
    assert "The scene does not exist. Received: " in done.said


# models


def test_models_lists_and_describes(run: Callable[..., Any]) -> None:
    assert "nano" in run("models").out.split()
    assert "nano" in run("models", "--json").json
    facts = run("models", "nano", "--json").json
    assert facts["sha256"] == json.loads(packaged("nano").with_suffix(".json").read_text())["sha256"]
    assert facts["tasks"] == ["interactive", "reasoning", "referring"]
    card = json.loads(packaged("nano").with_suffix(".json").read_text())
    assert sorted(facts["categories"]) == sorted(card["categories"])
    assert facts["gsd_m"] == card["gsd_m"]
    assert facts["limits"] == card["limits"]
    assert set(facts["min_area_m2"]) <= set(card["categories"])
    shown = run("models", "show", "nano").out
    assert all(word in shown for word in (facts["sha256"], *card["categories"], *card["limits"], card["gsd_note"]))
    done = run("models", "mega", "--json")
    assert (done.code, done.out) == (1, "")
    assert "Unknown engine. Received: mega." in done.said


# train


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data", "nowhere"), "The pack has no index. Received: nowhere/annotations.jsonl."),
        ((), "There is nothing to train on. Received: split train of"),
        (("--device", "abacus"), "The device cannot be used"),
    ],
)
def test_train_says_what_it_lacks_and_makes_no_folder(
    run: Callable[..., Any], pack: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    data = () if "--data" in options else ("--data", pack)  # it may be given several times
    done = run("train", *data, "--run", tmp_path / "run", *options)
    assert (done.code, done.out) == (1, "")
    assert words in done.said
    assert not (tmp_path / "run").exists()


def test_train_does_not_write_over_a_training(run: Callable[..., Any], pack: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "last.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"precious")
    done = run("train", "--data", pack, "--run", checkpoint.parent)
    assert done.code == 1
    assert f"The run folder holds a training already. Received: {checkpoint.parent}. Add --resume" in done.said
    assert [(p.name, p.read_bytes()) for p in checkpoint.parent.iterdir()] == [("last.pt", b"precious")]


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "curves.png", "nano.safetensors", "nano.json", "weights"]
)
def test_train_does_not_write_over_files_of_others(run: Callable[..., Any], pack: Path, tmp_path: Path, name: str):
    (tmp_path / name).write_text('{"mine": 1}')
    done = run("train", "--data", pack, "--run", tmp_path)
    assert done.code == 1
    assert f"files that the training would replace. Received: {tmp_path}: {name}. Choose another --run." in done.said
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_inspect_does_not_write_over_a_file(run: Callable[..., Any], pack: Path, tmp_path: Path) -> None:
    (table := tmp_path / "table.toml").write_text("dear")
    for name, folder in (("a.png", "images"), ("a_mask.png", "labels")):
        (tmp_path / "set" / folder).mkdir(parents=True)
        (tmp_path / "set" / folder / "a.png").write_bytes((pack / "src" / name).read_bytes())
    done = run("dataset", "forge", "inspect", tmp_path / "set", "-o", table)
    assert (done.code, table.read_text()) == (1, "dear")
    assert f"The output is already there. Received: {table}." in done.said
    assert run("dataset", "forge", "inspect", tmp_path / "set", "-o", table, "--overwrite").code == 0
    assert table.read_text() != "dear"


def test_train_from_labelled_questions(run: Callable[..., Any], tmp_path: Path) -> None:
    asked = geoseg_bench(tmp_path / "asked", split="train")
    common = ("--questions", asked, "--preset", "tiny", "--steps", "1", "--batch", "1", "-j", "0")
    done = run("train", *common, "--run", tmp_path / "run")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "run" / "weights"))
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1

    for options, words in (
        (("--layout", "rrsis"), "Unknown data set. Received: rrsis."),
        (("--questions", tmp_path / "run"), "he manifest is missing"),
    ):
        done = run("train", *common, *options, "--run", tmp_path / "none")
        assert (done.code, done.out) == (1, "")
        assert words in done.said
    assert not (tmp_path / "none").exists()
    done = run("train", "--run", tmp_path / "none")
    assert done.code == 2
    assert "Missing option '--data' (or '--questions')." in done.said


def test_the_published_training(run: Callable[..., Any], tmp_path: Path) -> None:
    """Three epochs of GeoSeg-1M on eight ranks, planned on the small member without a copy of the data."""
    done = run(
        "train", "--questions", f"geoseg-1m={tmp_path / 'absent'}", "--preset", "tiny", "--epochs", "3",
        "--batch", "16", "--micro-batch-size", "2", "--dry-run", "--launch", "zero2", "--run", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0
    assert "1,148,504" in done.out
    assert "215,345 of 16" in done.out, "3 x 1,148,504 / 16"
    assert "8 ranks x 2 samples x 1 passes" in done.out
    assert "as published" in done.out
    assert not (tmp_path / "run").exists()


def test_train_on_sets_mixed_by_weight_for_epochs(run: Callable[..., Any], tmp_path: Path) -> None:
    first, second = geoseg_bench(tmp_path / "a", split="train"), remotesam(tmp_path / "b")
    sets = ("--questions", f"geoseg-1m={first}:0.8", "--questions", f"remotesam-270k={second}:0.2")
    common = ("--preset", "tiny", "--batch", "2", "-j", "0")
    done = run("train", *sets, *common, "--epochs", "1", "--run", tmp_path / "run", "--sampling", "shares")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "run" / "weights"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["steps"] == 3, "6 questions, 2 a step"
    assert sorted(path.name for path in (tmp_path / "run").glob("*.parquet")) == [
        "questions-0.parquet", "questions-1.parquet"
    ]  # fmt: skip
    for options, words in (
        ((*sets[:3], f"remotesam-270k={second}"), "mix by weights above 0"),
        ((*sets, "--epochs", "1", "--steps", "2"), "Epochs are passes over --questions"),
        ((*sets, "--sampling", "turns"), "Unknown sampling of tasks. Received: turns."),
        ((*sets, "--start", tmp_path / "run" / "weights", "--language", tmp_path), "cannot be read"),
    ):
        done = run("train", *options, *common, "--run", tmp_path / "none")
        assert (done.code, done.out) == (1, "")
        assert words in done.said
        assert not (tmp_path / "none" / "weights").exists()


def test_train_a_causal_member_in_one_command(run: Callable[..., Any], pack: Path, tmp_path: Path) -> None:
    """A row of the ablation tables, on the image of the pack; what comes out is an engine."""
    index = pack / "annotations.jsonl"
    index.write_text(index.read_text().replace('"split": "val"', '"split": "train"'))
    folder = tmp_path / "run"
    options = ("--data", pack, "--run", folder, "--preset", "tiny", "--steps", "2", "--batch", "2", "--rendered", "0")
    done = run("train", *options, "--ablation", "memory", "-j", "0")
    assert (done.code, done.out.strip()) == (0, str(folder / "weights"))
    config = json.loads((folder / "weights" / "config.json").read_text())
    assert config["tate"] is None
    assert config["memory"]["slots"] == 4
    assert (folder / "curves.png").is_file()
    asked = run("segment", pack / "src" / "a.png", "the buildings", "--engine", "unigeoseg", "--weights",
                folder / "weights", "-o", tmp_path / "mask.tif")  # fmt: skip
    assert asked.code in (0, 3)
    again = run("train", *options)
    assert "The run folder holds a training already." in again.said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "unigeoseg-official"), "The language model needs its tokenizer. Received: unigeoseg-official"),
        (("--preset", "tiny", "--ablation", "all"), "Unknown ablation. Received: all."),
        (("--preset", "nano", "--ablation", "none"), "These options are of causal members. Received: nano."),
        (("--preset", "tiny", "--batch", "9", "--micro-batch-size", "2"), "must be a multiple of the micro batch"),
        (("--preset", "tiny", "--mask2former", "absent.pkl"), "The file is missing. Received: absent.pkl."),
        (("--preset", "nano", "--mask2former", "absent.pkl"), "These options are of causal members. Received: nano."),
    ],
)
def test_train_a_causal_member_says_what_it_lacks(
    run: Callable[..., Any], pack: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    index = pack / "annotations.jsonl"
    index.write_text(index.read_text().replace('"split": "val"', '"split": "train"'))
    done = run("train", "--data", pack, "--run", tmp_path / "run", *options)
    assert (done.code, done.out) == (1, "")
    assert words in done.said


@pytest.mark.parametrize(
    ("command", "new"),
    [
        (("dataset", "review", "export", ".", "-o", "sheet"), "--max-samples"),
        (("reasoner", "calibrate", "--data", "."), "--max-objects"),
    ],
)
def test_old_options_of_other_verbs_name_the_new_ones(
    run: Callable[..., Any], command: tuple[str, ...], new: str
) -> None:
    done = run(*command, "--most", 3)
    assert done.code == 2
    assert f"called {new} now" in done.said
