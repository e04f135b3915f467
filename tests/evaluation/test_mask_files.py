"""Masks of another program: read by sample id in every form, scored under every protocol, faults said clearly."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from evaluation_grounds import make_dataset
from PIL import Image

from terraprompt.datasets.registry import Dataset
from terraprompt.errors import DatasetError
from terraprompt.evaluation.harness import EvalOptions, score_again, score_masks, write_report
from terraprompt.evaluation.protocols import PROTOCOLS, protocol
from terraprompt.io.rle import RunLengths

NATIVE = protocol("native")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "data", 2)


def answers(dataset: Dataset) -> dict[str, np.ndarray]:
    """The truth, a row of pixels short."""
    out = {}
    for sample in dataset.samples:
        mask = sample.load_mask().copy()
        mask[8] = 0
        out[sample.id] = mask
    return out


def score(dataset: Dataset, masks: Path, out: Path, *, rules=NATIVE, limit=None, keep_going=False):
    options = EvalOptions(limit=limit)
    return score_masks(dataset, masks, rules, out, options, lambda _: nullcontext(), keep_going=keep_going)


def write_png(folder: Path, dataset: Dataset, *, name=lambda id: id, value: int = 255) -> Path:
    for sample, mask in answers(dataset).items():
        path = folder / f"{name(sample)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask * np.uint8(value)).save(path)
    return folder


def write_other(folder: Path, dataset: Dataset, form: str) -> Path:
    folder.mkdir()
    runs = {}
    for sample, mask in answers(dataset).items():
        plain = sample.replace("/", "__")
        rle = RunLengths.encode(mask)
        runs[sample] = {"size": [rle.height, rle.width], "counts": rle.counts}
        if form == "npy":
            np.save(folder / plain, mask.astype(bool))
        elif form == "float.npy":
            np.save(folder / plain, mask[None].astype(np.float32))
        elif form == "tif":
            Image.fromarray(mask).save(folder / f"{plain}.tif")
        elif form == "rgb.png":
            Image.fromarray(mask[..., None].repeat(3, 2) * np.uint8(200)).save(folder / f"{plain}.png")
        elif form == "one json each":
            (folder / f"{plain}.json").write_text(json.dumps(runs[sample]))
    if form == "mapping":
        (folder / "all.json").write_text(json.dumps(runs))
    elif form == "list":
        rows = [{"id": sample, "segmentation": rle} for sample, rle in runs.items()]
        (folder / "all.json").write_text(json.dumps(rows))
    elif form == "file":
        (folder / "all.json").write_text(json.dumps([{"sample_id": sample, **rle} for sample, rle in runs.items()]))
        return folder / "all.json"
    return folder


FORMS = ["npy", "float.npy", "tif", "rgb.png", "one json each", "mapping", "list", "file"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(tmp_path, dataset, form):
    pngs = score(dataset, write_png(tmp_path / "png", dataset), tmp_path / "out")
    other = score(dataset, write_other(tmp_path / "masks", dataset, form), tmp_path / "other")
    assert 0 < pngs.scores.overall.metrics["gIoU"].value < 1
    assert [one.iou for one in other.scored] == [one.iou for one in pngs.scored]
    assert other.settings.checksum == pngs.settings.checksum


@pytest.mark.parametrize("rules", PROTOCOLS)
def test_they_are_scored_under_every_protocol_as_kept_answers_are(tmp_path, dataset, rules):
    folder = write_png(tmp_path / "png", dataset, value=1, name=lambda id: id.upper().replace("/", "-"))
    report = score(dataset, folder, tmp_path / "out", rules=protocol(rules))
    write_report(report, tmp_path / "out", pictures=False)
    again = score_again(dataset, tmp_path / "out", protocol(rules), EvalOptions(), lambda _: nullcontext())
    assert [one.iou for one in again.scored] == [one.iou for one in report.scored]
    assert {one.prediction.status for one in report.scored if one.truth == 0} == {"no_target"}
    assert "another program's" in " ".join(report.warnings)


def broken(folder: Path, kind: str) -> None:
    path = folder / "0/box.png"
    if kind == "missing":
        path.unlink()
    elif kind == "size":
        Image.new("L", (95, 64)).save(path)
    elif kind == "classes":
        Image.fromarray(np.arange(64 * 96, dtype=np.uint8).reshape(64, 96) % 5).save(path)
    elif kind == "no picture":
        path.write_bytes(b"not a picture")
    else:
        path.unlink()
        values = np.random.default_rng(0).random((64, 96), np.float32)
        np.save(path.with_suffix(""), {"probabilities": values, "cube": values[None, None].repeat(3, 0)}[kind])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "1 missing: 0/box"),
        ("size", r"1 of the wrong size: 0/box \(95 x 64 in place of 96 x 64\)"),
        ("classes", "1 of the wrong type: 0/box .*5 values from 0 to 4"),
        ("no picture", "1 of the wrong type: 0/box .*cannot be read"),
        ("probabilities", "1 of the wrong type: 0/box .*look like probabilities"),
        ("cube", r"1 of the wrong type: 0/box .*must be \(height, width\)"),
    ],
)
def test_what_is_wrong_with_masks_is_said_and_may_be_left_out(tmp_path, dataset, kind, said):
    folder = write_png(tmp_path / "png", dataset)
    broken(folder, kind)
    with pytest.raises(DatasetError, match=said):
        score(dataset, folder, tmp_path / "out")
    report = score(dataset, folder, tmp_path / "kept", keep_going=True)
    assert [sample for sample, _ in report.skipped] == ["0/box"]
    assert len(report.scored) == 7
    assert "1 broken samples were left out" in " ".join(report.warnings)


def test_masks_of_nobody_are_named_and_those_of_samples_that_are_not_scored_are_not(tmp_path, dataset):
    folder = write_png(tmp_path / "png", dataset)
    Image.new("L", (96, 64)).save(folder / "stranger.png")
    report = score(dataset, folder, tmp_path / "out", limit=3)
    assert "1 masks belong to no sample that was scored: stranger." in report.warnings
    assert len(report.scored) == 3


def test_folders_without_masks_of_these_samples_are_refused(tmp_path, dataset):
    with pytest.raises(DatasetError, match="no such folder"):
        score(dataset, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no masks"):
        score(dataset, tmp_path / "empty", tmp_path / "out")
    Image.new("L", (96, 64)).save(tmp_path / "empty" / "x.png")
    with pytest.raises(DatasetError, match=r'8 missing: .* and 3 more(.|\n)*e.g. "0/text-0.png"'):
        score(dataset, tmp_path / "empty", tmp_path / "out", keep_going=True)
    folder = write_png(tmp_path / "png", dataset)
    np.save(folder / "0/box.npy", np.zeros((64, 96), bool))
    with pytest.raises(DatasetError, match="two masks"):
        score(dataset, folder, tmp_path / "out")
