"""A check of a copy finds what reading alone does not: pixels that do not decode, sizes, boxes, empty sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import layout_copies as copies
from terraprompt.datasets.check import check_dataset, check_samples
from terraprompt.datasets.layouts import LAYOUTS
from terraprompt.datasets.registry import open_dataset
from terraprompt.datasets.sample import RunLengths, Sample
from terraprompt.errors import DatasetError
from terraprompt.prompt import Task


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_whole_copy_is_whole(tmp_path: Path, name: str, jobs: int) -> None:
    make, split = copies.MAKERS[name]
    root = make(tmp_path)
    report = check_dataset(name, root, jobs=jobs)
    assert report.problems == ()
    assert report.is_whole
    assert report.samples[split] == len(open_dataset(name, root, split=split).samples)
    assert {*report.samples, *report.absent} == set(LAYOUTS[name].splits)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_undecodable_pictures_are_named(tmp_path: Path) -> None:
    root = copies.earthreason(tmp_path)
    cut(root / "test/images/c.3.jpg")
    cut(root / "test/labels/airport 1.png")
    report = check_dataset("earthreason", root)
    assert [Path(p.file).name for p in report.problems] == ["airport 1.png", "c.3.jpg"]
    assert all("cannot be read" in p.reason for p in report.problems)
    assert report.samples == {"test": 3}


def test_everything_broken_is_named_at_once(tmp_path: Path) -> None:
    root = copies.geoseg_bench(tmp_path)
    copies.mask(root / "referring/masks/r3.png", np.zeros((9, 9), np.uint8))
    values = copies.target(3) * 255
    values[0, 0] = 7
    copies.mask(root / "reasoning/attribute/masks/q4.png", values)
    copies.mask(root / "interactive/masks/box_2.png", copies.target(1) * 0)
    (root / "reasoning/contextual/jsons/q5.json").unlink()
    found = {Path(p.file).name: p.reason for p in check_dataset("geoseg-bench-1m", root).problems}
    assert sorted(found) == ["box_2.png", "q4.png", "q5.json", "r3.png"]
    assert "the mask has 9 x 9 pixels, the image 40 x 30" in found["r3.png"]
    assert "other values than 0 and 255, e.g. 7" in found["q4.png"]
    assert "ask for an empty mask" in found["box_2.png"]
    assert "missing" in found["q5.json"]


def test_a_contradiction_between_answer_and_mask_is_named(tmp_path: Path) -> None:
    root = copies.earthreason(tmp_path)
    copies.mask(root / "test/labels/b_2.png", copies.target(1) * 255)
    (problem,) = check_dataset("earthreason", root).problems
    assert problem.file.endswith("b_2.png")
    assert "although the answer is" in problem.reason


def test_faults_of_single_samples(tmp_path: Path) -> None:
    image = copies.picture(tmp_path / "a.png")
    truth = RunLengths.encode(copies.target(0))
    good = Sample("good", image, Task.REFERRING, ("the roof",), truth)
    samples = [
        good,
        replace(good, id="no words", instructions=()),
        replace(good, id="blank", instructions=("the roof", " ")),
        replace(good, id="nothing to score", truth=None),
        replace(good, id="outside", truth=None, box=(30.0, 1.0, 41.0, 9.0)),
        replace(good, id="far point", task=Task.INTERACTIVE, instructions=(), points=((41.0, 1.0),), labels=(1,)),
        replace(good, id="runs", truth=RunLengths(30, 40, "99")),
        replace(good, id="no prompt", task=Task.INTERACTIVE),
        replace(good, id="at the edge", truth=None, box=(30.0, 1.0, 40.0, 30.0)),
    ]
    found = check_samples(samples)
    named = {s.id: [p.reason for p in found if f"(sample {s.id})" in p.reason] for s in samples}
    assert {name: len(reasons) for name, reasons in named.items()} == {
        "good": 0, "no words": 2, "blank": 1, "nothing to score": 1, "outside": 1, "far point": 1, "runs": 1,
        "no prompt": 1, "at the edge": 0,
    }  # fmt: skip
    assert "not inside the image of 40 x 30" in named["outside"][0]
    assert "empty" in named["blank"][0]
    assert all(p.file == str(image) for p in found)


def test_an_image_is_decoded_once_for_all_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = copies.picture(tmp_path / "a.png")
    truth = RunLengths.encode(copies.target(0))
    opened, real = [], Image.open

    def counting(path, *rest):
        opened.append(path)
        return real(path, *rest)

    monkeypatch.setattr(Image, "open", counting)
    told: list[tuple[int, int]] = []
    samples = [Sample(f"s{i}", image, Task.REFERRING, ("x",), truth) for i in range(20)]
    assert check_samples(samples, progress=lambda done, total: told.append((done, total))) == []
    assert (len(opened), told) == (1, [(1, 1)])


def test_a_broken_manifest_is_a_problem_of_its_split(tmp_path: Path) -> None:
    root = copies.geoseg_bench(tmp_path)
    copies.text(root / "train.json", "[{")
    report = check_dataset("geoseg-bench-1m", root)
    assert (report.samples, report.absent) == ({"test": 5, "train": 0}, ("val",))
    (problem,) = report.problems
    assert problem.file.endswith("train.json")


def test_a_folder_with_nothing_of_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="This is no copy of EarthReason") as caught:
        check_dataset("earthreason", tmp_path)
    assert "QAs/<stem>.json" in str(caught.value)
    with pytest.raises(DatasetError, match="folder of the split is missing"):
        check_dataset("earthreason", tmp_path, split="val")
