"""Every reader on a small copy of its public layout, and on copies with the traps that such copies have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layout_copies as copies
from terraprompt.datasets.layouts import LAYOUTS, BrokenItemError
from terraprompt.datasets.questions import Plan
from terraprompt.datasets.registry import Dataset, dataset_names, open_dataset
from terraprompt.errors import DatasetError
from terraprompt.prompt import Task

HEIGHT, WIDTH = copies.HEIGHT, copies.WIDTH


def whole(name: str, folder: Path) -> Path:
    return copies.MAKERS[name][0](folder)


def opened(name: str, root: Path, **options: Any) -> Dataset:
    return open_dataset(name, root, split=options.pop("split", copies.MAKERS[name][1]), **options)


def by_id(found: Dataset) -> dict[str, Any]:
    return {sample.id: sample for sample in found.samples}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("folder", ["plain", "ref/reason/my interactive copy"])
def test_every_layout_is_read_wherever_the_copy_lies(tmp_path: Path, name: str, folder: str) -> None:
    found = opened(name, whole(name, tmp_path / folder))
    assert found.name == name
    assert found.problems == ()
    assert len(found.samples) >= 2
    assert len({sample.id for sample in found.samples}) == len(found.samples)
    for sample in found.samples:
        assert sample.split == found.split
        assert sample.load_image().shape == (HEIGHT, WIDTH, 3)
        assert sample.prompt().task is sample.task
        if sample.box is None:
            mask = sample.load_mask()
            assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH), np.uint8)
            assert set(np.unique(mask)) <= {0, 1}
    plain = opened(name, whole(name, tmp_path / "again"))
    assert [(s.id, s.task, s.instructions, s.level) for s in found.samples] == [
        (s.id, s.task, s.instructions, s.level) for s in plain.samples
    ]


def test_every_layout_has_a_copy() -> None:
    assert sorted(copies.MAKERS) == sorted(LAYOUTS) == list(dataset_names())


# GeoSeg-Bench


def test_geoseg_bench_tasks_come_from_the_manifest(tmp_path: Path) -> None:
    samples = by_id(opened("geoseg-bench-1m", copies.geoseg_bench(tmp_path / "reasoning" / "ref")))
    assert {name: sample.task.value for name, sample in samples.items()} == {
        "interactive/jsons/point 1": "interactive",
        "interactive/jsons/box_2": "interactive",
        "referring/jsons/r3": "referring",
        "reasoning/attribute/jsons/q4": "reasoning",
        "reasoning/contextual/jsons/q5": "reasoning",
    }
    assert [sample.level for sample in samples.values()] == ["point", "box", None, "attribute", "contextual"]
    referring = samples["referring/jsons/r3"]
    assert referring.instructions == ("the long roof", "the roof beside the road")
    assert referring.answer == ("It is a roof.",)
    assert (referring.load_mask() == copies.target(2)).all()


def test_geoseg_bench_coordinates_become_pixels(tmp_path: Path) -> None:
    samples = by_id(opened("geoseg-bench-1m", copies.geoseg_bench(tmp_path)))
    point, box = samples["interactive/jsons/point 1"], samples["interactive/jsons/box_2"]
    assert np.allclose(point.points, ((0.25 * WIDTH, 0.2 * HEIGHT), (0.3 * WIDTH, 0.3 * HEIGHT)))
    assert (point.labels, point.boxes) == ((1, 1), ())
    assert box.boxes[0] == pytest.approx((0.175 * WIDTH, 0.13 * HEIGHT, 0.425 * WIDTH, 0.4 * HEIGHT))
    assert "x0,y0=[0.175, 0.13]" in box.instructions[0]


def test_geoseg_bench_with_a_manifest_in_every_task_folder(tmp_path: Path) -> None:
    found = opened("geoseg-bench-1m", copies.geoseg_bench_by_task(tmp_path / "interactive"))
    assert {s.id: s.task for s in found.samples} == {
        "interactive/json/a": Task.INTERACTIVE,
        "reason/json/a": Task.REASONING,
        "ref/json/a": Task.REFERRING,
    }


def test_several_interactive_questions_are_several_samples(tmp_path: Path) -> None:
    root = copies.geoseg_bench(tmp_path)
    asked = [f"Please segment the region corresponding to the points {{({v}, 0.5)}}." for v in (0.25, 0.75)]
    copies.text(root / "interactive/jsons/point 1.json", {"question": asked, "reason": []})
    samples = by_id(opened("geoseg-bench-1m", root))
    assert samples["interactive/jsons/point 1#0"].points == ((10.0, 15.0),)
    assert samples["interactive/jsons/point 1#1"].points == ((30.0, 15.0),)


def test_an_unknown_task_folder_can_be_told(tmp_path: Path) -> None:
    root = copies.geoseg_bench_by_task(tmp_path)
    (root / "ref").rename(root / "seg_b")
    with pytest.raises(BrokenItemError, match="No folder of its path is named after a task") as caught:
        opened("geoseg-bench-1m", root)
    assert "seg_b/json/a.json" in str(caught.value)
    found = opened("geoseg-bench-1m", root, folders={"seg_b": "referring"})
    assert [s.task for s in found.samples] == [Task.INTERACTIVE, Task.REASONING, Task.REFERRING]
    with pytest.raises(DatasetError, match="Unknown task"):
        opened("geoseg-bench-1m", root, folders={"seg_b": "swimming"})


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("Please segment the region corresponding to the points {(1.25, 0.5)}.", r"outside \[0, 1\]"),
        ("Please segment the roof.", "without points or box"),
        ("… the box x0,y0=[0.5, 0.5], x1,y1=[0.5].", "do not make boxes"),
        ("… the points [0.5, 0.5, 0.1].", "do not make points"),
    ],
)
def test_an_interactive_question_that_points_nowhere(tmp_path: Path, sentence: str, said: str) -> None:
    root = copies.geoseg_bench(tmp_path)
    copies.text(root / "interactive/jsons/box_2.json", {"question": [sentence], "reason": []})
    with pytest.raises(BrokenItemError, match=said) as caught:
        opened("geoseg-bench-1m", root)
    assert "box_2.json" in caught.value.problem.file


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "C:\\pictures\\a.png"])
def test_a_manifest_cannot_leave_the_copy(tmp_path: Path, path: str) -> None:
    root = copies.geoseg_bench(tmp_path / "copy")
    copies.picture(tmp_path / "outside.png")
    manifest = json.loads((root / "test.json").read_text())
    manifest[2]["img"] = path
    copies.text(root / "test.json", manifest)
    with pytest.raises(BrokenItemError, match="leaves the data set"):
        opened("geoseg-bench-1m", root)


def test_a_manifest_written_on_windows(tmp_path: Path) -> None:
    root = copies.geoseg_bench(tmp_path)
    manifest = [{k: v.replace("/", "\\") for k, v in e.items()} for e in json.loads((root / "test.json").read_text())]
    copies.text(root / "test.json", manifest)
    assert len(opened("geoseg-bench-1m", root).samples) == 5


# EarthReason


def test_an_empty_answer_means_no_target(tmp_path: Path) -> None:
    root = copies.earthreason(tmp_path)
    samples = by_id(opened("earthreason", root))
    assert list(samples) == ["airport 1", "b_2", "c.3"]
    assert (samples["b_2"].answer, samples["b_2"].load_mask().any()) == ((), False)
    assert (samples["c.3"].load_mask() == copies.target(2)).all()
    (root / "test/labels/b_2.png").unlink()
    assert not by_id(opened("earthreason", root))["b_2"].load_mask().any()
    for blank in ([""], ["  "], []):
        copies.text(root / "test/QAs/b_2.json", {"questions": ["Where?"], "answer": blank})
        assert by_id(opened("earthreason", root))["b_2"].answer == ()


def test_an_empty_answer_with_a_target_is_a_contradiction(tmp_path: Path) -> None:
    root = copies.earthreason(tmp_path)
    copies.mask(root / "test/labels/b_2.png", copies.target(1) * 255)
    sample = by_id(opened("earthreason", root))["b_2"]
    with pytest.raises(DatasetError, match="although the answer is") as caught:
        sample.load_mask()
    assert "b_2.png" in str(caught.value)


@pytest.mark.parametrize(("folder", "suffix"), [("images", ".jpg"), ("labels", ".png"), ("QAs", ".json")])
def test_a_missing_file_in_the_middle_shifts_nothing(tmp_path: Path, folder: str, suffix: str) -> None:
    """Joined by position, every later image would get another's mask."""
    root = copies.earthreason(tmp_path)
    for k, stem in enumerate(("b_2", "d", "e")):
        copies.picture(root / "test/images" / f"{stem}.jpg", k)
        copies.mask(root / "test/labels" / f"{stem}.png", copies.target(k + 3) * 255)
        copies.text(root / "test/QAs" / f"{stem}.json", {"questions": [f"{stem}?"], "answer": [stem]})
    (root / "test" / folder / f"b_2{suffix}").unlink()
    with pytest.raises(BrokenItemError, match="missing") as caught:
        opened("earthreason", root)
    assert f"{folder}/b_2" in str(caught.value)
    found = opened("earthreason", root, keep_going=True)
    assert [problem.file for problem in found.problems] == [caught.value.problem.file]
    samples = by_id(found)
    assert list(samples) == ["airport 1", "c.3", "d", "e"]
    assert samples["e"].instructions == ("e?",)
    assert (samples["e"].load_mask() == copies.target(5)).all()


def test_two_files_of_one_stem_are_a_question(tmp_path: Path) -> None:
    root = copies.earthreason(tmp_path)
    copies.picture(root / "test/images/b_2.png")
    with pytest.raises(BrokenItemError, match="nobody can tell which"):
        opened("earthreason", root)


# RRSIS-D


def test_rrsis_d_masks_in_every_coding(tmp_path: Path) -> None:
    root = copies.rrsis_d(tmp_path)
    test = by_id(opened("rrsis-d", root))
    assert list(test) == ["0", "1", "3", "5"]
    for k in (0, 1, 3):
        assert (test[str(k)].load_mask() == copies.target(k)).all(), k
    assert not test["5"].load_mask().any()  # the published empty one
    (val,) = opened("rrsis-d", root, split="val").samples
    assert (val.load_mask() == copies.target(2)).all()
    assert test["1"].category == "harbor"
    assert test["0"].instructions == ("the ship number 0",)


def test_remotesam_as_it_is_unpacked(tmp_path: Path) -> None:
    """The files stand in the folder, or in one of their own below it."""
    root = copies.remotesam(tmp_path / "data" / "RemoteSAM-270K")
    for where in (root, root.parent):
        (sample,) = opened("remotesam-270k", where, split="train").samples
        assert (sample.source, sample.instructions) == ("remotesam-270k", ("the ship number 4",))
        assert sample.image.parent == root / "JPEGImages"
        assert (sample.load_mask() == copies.target(4)).all()


def test_geoseg_bench_810_as_released(tmp_path: Path) -> None:
    """``annotations/*.json`` with the published fields; a list, one record, records by name."""
    records = []
    for k in range(3):
        copies.picture(tmp_path / "images" / f"p{k}.png", k)
        copies.mask(tmp_path / "masks" / f"p{k}.png", copies.target(k) * 255)
        mask_path = f"masks/p{k}.png" if k else "p0.png"
        records.append(
            {"file_name": f"p{k}.png", "mask_path": mask_path, "question": f"Which is {k}?", "difficulty": "hard"}
        )
    copies.text(tmp_path / "annotations/airport.json", records[:1])
    copies.text(tmp_path / "annotations/harbour.json", records[1])
    copies.text(tmp_path / "annotations/road.json", {"a": records[2]})
    found = opened("geoseg-bench-810", tmp_path)
    assert [(s.id, s.category, s.level, s.instructions) for s in found.samples] == [
        ("airport/0", "airport", "hard", ("Which is 0?",)),
        ("harbour/0", "harbour", "hard", ("Which is 1?",)),
        ("road/0", "road", "hard", ("Which is 2?",)),
    ]
    for k, sample in enumerate(found.samples):
        assert (sample.load_mask() == copies.target(k)).all()


def change(path: Path, edit: Any) -> None:
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda raw: raw["annotations"][1].update(segmentation={"size": [8, 8], "counts": [60, 4]}),
            "(?i)another size",
        ),
        (lambda raw: raw["annotations"][1].update(segmentation=[[1, 1, 5, 5]]), "without three corners"),
        (lambda raw: raw["annotations"][1].update(segmentation={"size": [30, 40], "counts": "o"}), "run-length mask"),
        (lambda raw: raw["annotations"].pop(1), "(?i)nothing in 'annotations'"),
        (lambda raw: raw["images"][1].update(file_name="../a.jpg"), "leaves the data set"),
        (lambda raw: raw["images"][1].update(file_name="nobody.jpg"), "(?i)the image is missing"),
    ],
)
def test_a_broken_annotation_of_rrsis_d(tmp_path: Path, edit: Any, said: str) -> None:
    root = copies.rrsis_d(tmp_path)
    change(root / "rrsisd/instances.json", edit)
    with pytest.raises(DatasetError, match=said):
        opened("rrsis-d", root)
    found = opened("rrsis-d", root, keep_going=True)
    assert list(by_id(found)) == ["0", "3", "5"]
    assert len(found.problems) == 1


# lists of phrases


def test_names_with_blanks_in_lists_of_phrases(tmp_path: Path) -> None:
    samples = by_id(opened("refsegrs", copies.refsegrs(tmp_path)))
    assert {name: sample.instructions[0] for name, sample in samples.items()} == {
        "0001": "the vehicle in the parking area 0",
        "road 2": "the vehicle in the parking area 1",
        "0003": "the vehicle in the parking area 2",
        "road 2#2": "a road along the trees",
    }
    assert (samples["road 2#2"].load_mask() == copies.target(1)).all()


def test_risbench_joins_by_stem(tmp_path: Path) -> None:
    samples = by_id(opened("risbench", copies.risbench(tmp_path)))
    assert [s.instructions[0] for s in samples.values()] == ["the plane at the top", "the smallest of two ships"]
    assert (samples["00002"].load_mask() == copies.target(1)).all()


@pytest.mark.parametrize(
    ("gone", "said"),
    [("images/road 2.tif", "(?i)the image is missing"), ("masks/road 2.tif", "(?i)the mask is missing")],
)
def test_a_phrase_without_its_picture(tmp_path: Path, gone: str, said: str) -> None:
    root = copies.refsegrs(tmp_path)
    (root / gone).unlink()
    with pytest.raises(BrokenItemError, match=said) as caught:
        opened("refsegrs", root)
    assert "line 2" in str(caught.value)
    found = opened("refsegrs", root, keep_going=True)
    assert list(by_id(found)) == ["0001", "0003"]
    assert len(found.problems) == 2


def test_a_line_without_a_phrase(tmp_path: Path) -> None:
    root = copies.refsegrs(tmp_path)
    copies.text(root / "output_phrase_test.txt", "0001\n")
    with pytest.raises(BrokenItemError, match="Line 1 has no phrase"):
        opened("refsegrs", root)


# DIOR-RSVG


def test_dior_rsvg_numbers_count_objects_not_images(tmp_path: Path) -> None:
    root = copies.dior_rsvg(tmp_path)
    test = by_id(opened("dior-rsvg", root))
    assert {name: (s.instructions, s.box, s.image.name) for name, s in test.items()} == {
        "1": (("ship number 1",), copies.box(1), "00001.jpg"),
        "4": (("ship number 4",), copies.box(4), "00007.jpg"),
    }
    with pytest.raises(DatasetError, match="has no mask"):
        test["1"].load_mask()


def test_a_gap_in_dior_rsvg_is_an_error_even_when_keeping_going(tmp_path: Path) -> None:
    """Number 4 would silently mean another object."""
    root = copies.dior_rsvg(tmp_path)
    (root / "Annotations/00004.xml").unlink()
    for keep_going in (False, True):
        with pytest.raises(DatasetError, match=r"Annotation files are missing: the lists count to 4, .* 4 objects"):
            opened("dior-rsvg", root, keep_going=keep_going)
    (root / "Annotations/00004.xml").write_text("<annotation><object>")
    with pytest.raises(DatasetError, match="cannot be read"):
        opened("dior-rsvg", root, keep_going=True)


def test_the_old_lists_of_dior_rsvg_are_reported(tmp_path: Path) -> None:
    root = copies.dior_rsvg(tmp_path)
    copies.text(root / "train.txt", "0\n1\n3\n")
    with pytest.raises(BrokenItemError, match=r"1 numbers are also in train\.txt, e\.g\. 1"):
        opened("dior-rsvg", root)
    found = opened("dior-rsvg", root, keep_going=True)
    assert (len(found.samples), len(found.problems)) == (2, 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<xmax>15</xmax>", "", "has no 'bndbox/xmax'"),
        (">15<", ">wide<", "not made of numbers"),
        (">15<", ">1<", "empty box"),
        ("ship number 1", " ", "has no 'description'"),
    ],
)
def test_a_broken_object_of_dior_rsvg(tmp_path: Path, old: str, new: str, said: str) -> None:
    root = copies.dior_rsvg(tmp_path)
    path = root / "Annotations/00001.xml"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    with pytest.raises(BrokenItemError, match=said):
        opened("dior-rsvg", root)
    found = opened("dior-rsvg", root, keep_going=True)
    assert [s.instructions for s in found.samples] == [("ship number 4",)]


# SIOR, GeoSeg-Bench-810, LaSeRS


def test_sior_asks_a_box_and_a_point_for_each_instance(tmp_path: Path) -> None:
    root = copies.sior(tmp_path)
    samples = by_id(opened("sior", root))
    assert list(samples) == [
        f"{stem}/{k}/{kind}" for stem, k in (("00000", 0), ("00000", 1), ("00001", 0)) for kind in ("box", "point")
    ]
    box, point = samples["00000/1/box"], samples["00000/1/point"]
    assert box.boxes == (tuple(float(v) for v in copies.box(1)),)
    x, y = point.points[0]
    assert copies.target(1)[int(y), int(x)] == 1
    assert (point.load_mask() == copies.target(1)).all()
    assert point.category == "windmill"
    few = opened("sior", root, prompts=1)
    assert len(few.samples) == 2
    assert [s.id for s in opened("sior", root, prompts=1).samples] == [s.id for s in few.samples]


def test_geoseg_bench_810_lists_what_a_record_holds(tmp_path: Path) -> None:
    root = copies.geoseg_bench_810(tmp_path)
    samples = by_id(opened("geoseg-bench-810", root))
    assert [(s.category, s.level) for s in samples.values()] == [("airport", "L1"), ("airport", "L3"), ("harbor", "2")]
    assert (samples["airport/1"].load_mask() == copies.target(1)).all()
    assert (samples["harbor/0"].load_mask() == copies.target(0)).all()
    change(root / "harbor.json", lambda raw: raw[0].update(frage=raw[0].pop("query")))
    with pytest.raises(BrokenItemError, match="Record 0 has no query; its fields are image, mask, level, frage"):
        opened("geoseg-bench-810", root)
    (root / "airport.json").unlink()
    assert opened("geoseg-bench-810", root, fields={"query": "frage"}).samples[0].instructions == (
        "Where do ships lie?",
    )


def test_lasers_joins_the_masks_of_an_instruction(tmp_path: Path) -> None:
    root = copies.lasers(tmp_path)
    samples = by_id(opened("lasers", root))
    assert [s.level for s in samples.values()] == ["one mask", "several masks", "no target"]
    assert (samples["1"].load_mask() == (copies.target(1) | copies.target(5))).all()
    assert samples["1"].answer == ("They are here: a roof , a roof",)
    assert (samples["2"].answer, samples["2"].load_mask().any()) == ((), False)
    change(root / "test/annotations/test_ann.json", lambda raw: raw[1]["mask"].pop())
    with pytest.raises(BrokenItemError, match="Record 1 has 1 masks for 2 places"):
        opened("lasers", root)
    change(root / "test/annotations/test_ann.json", lambda raw: raw[1].pop("mask"))
    with pytest.raises(BrokenItemError, match="Record 1 lacks mask"):
        opened("lasers", root)


# the pack


def test_the_pack_is_asked_by_the_instruction_writer(tmp_path: Path) -> None:
    root = copies.pack(tmp_path)
    found = opened("pack", root, plan=Plan(texts=1, objects=2))
    kinds = {}
    for sample in found.samples:
        kinds.setdefault(sample.level, []).append(sample)
    assert {"text, trained", "text, held back", "box", "point", "absent, verified", "weak text, trained"} <= set(kinds)
    assert all(not s.load_mask().any() for s in kinds["absent, verified"])
    for point in kinds["point"]:
        x, y = point.points[0]
        assert point.load_mask()[int(y), int(x)] == 1
    for weak in kinds["weak text, trained"]:
        assert (weak.box, weak.truth) == ((1.5, 2.0, 9.0, 11.0), None)
    assert {s.licence for s in found.samples} == {"CC-BY-SA-4.0"}
    assert found.samples == opened("pack", root, plan=Plan(texts=1, objects=2)).samples
    other = opened("pack", root, plan=Plan(texts=1, objects=2, seed=1))
    assert [s.instructions for s in other.samples] != [s.instructions for s in found.samples]


def test_a_broken_record_of_the_pack_is_left_out(tmp_path: Path) -> None:
    root = copies.pack(tmp_path)
    (root / "vegas_road/masks/a.png").unlink()
    with (root / "annotations.jsonl").open("a") as lines:
        lines.write("{oops\n")
    with pytest.raises(DatasetError):
        opened("pack", root)
    found = opened("pack", root, keep_going=True)
    assert {sample.image.name for sample in found.samples} == {"c.png", "d 4.png"}
    assert len(found.problems) == 2
    assert "a.png" in found.problems[1].reason


# all of them


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"pack"}))
def test_a_missing_image_is_named_or_left_out(tmp_path: Path, name: str) -> None:
    root = whole(name, tmp_path)
    before = opened(name, root)
    gone = before.samples[-1].image
    gone.unlink()
    with pytest.raises(BrokenItemError, match="missing") as caught:
        opened(name, root)
    assert gone.stem in str(caught.value)
    if name == "geoseg-bench-810":  # all of its samples are about one image
        return
    found = opened(name, root, keep_going=True)
    assert found.problems
    assert [s.id for s in found.samples] == [s.id for s in before.samples if s.image != gone]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_split_that_is_not_there(tmp_path: Path, name: str) -> None:
    root = whole(name, tmp_path)
    with pytest.raises(DatasetError, match="has no such split") as caught:
        open_dataset(name, root, split="holdout")
    assert all(split in str(caught.value) for split in LAYOUTS[name].splits)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError):
        open_dataset(name, empty, split=LAYOUTS[name].splits[0])


def test_what_open_dataset_says_to_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Unknown data set") as caught:
        open_dataset("rrsisd", tmp_path)
    assert "rrsis-d" in str(caught.value)
    with pytest.raises(DatasetError, match="no copy of RRSIS-D here") as caught:
        open_dataset("rrsis-d", tmp_path / "nowhere")
    assert "github.com/Lsan2401/RMSIN" in str(caught.value)
    with pytest.raises(DatasetError, match="no such option") as caught:
        open_dataset("sior", copies.sior(tmp_path / "sior"), prompt=3)
    assert "prompts, seed" in str(caught.value)
    with pytest.raises(DatasetError, match="no such option"):
        open_dataset("risbench", copies.risbench(tmp_path / "ris"), masks="elsewhere")
    shutil.rmtree(tmp_path / "ris/mask")
    with pytest.raises(DatasetError, match="folder of the data set is missing"):
        open_dataset("risbench", tmp_path / "ris")
