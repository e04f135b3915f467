"""The pack reader: what a record says, and every way in which a pack can be broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from terraprompt.datasets import find_pack, read_pack
from terraprompt.errors import DatasetError


def line(name: str = "a", **changes: Any) -> dict[str, Any]:
    record = {
        "id": f"src/{name}",
        "source": "src",
        "image": f"src/images/{name}.png",
        "width": 12,
        "height": 8,
        "gsd_m": 0.3,
        "split": "train",
        "licence": "CC-BY-4.0",
        "label_kind": "mask",
        "labelled": ["building", "road"],
        "regions": [{"category": "building", "mask": f"src/masks/{name}.png", "value": 1, "box": None}],
        "crs": None,
        "transform": None,
        "group": "g",
        "scale_variant": False,
        "origin": [],
    }
    return record | changes


def boxes(name: str = "a", *found: tuple[str, list[float]]) -> dict[str, Any]:
    regions = [{"category": c, "mask": None, "value": None, "box": b} for c, b in found]
    return line(name, label_kind="box", labelled=["car", "bus"], regions=regions)


def write(root: Path, *records: dict[str, Any]) -> Path:
    for record in records:
        picture = root / record["image"]
        picture.parent.mkdir(parents=True, exist_ok=True)
        (root / "src" / "masks").mkdir(parents=True, exist_ok=True)
        rgb = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(8, 12, 3)
        Image.fromarray(rgb).save(picture)
        grey = np.zeros((8, 12), np.uint8)
        grey[2:5, 3:9] = 1
        Image.fromarray(grey).save(root / "src" / "masks" / f"{picture.stem}.png")
    (root / "annotations.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def test_a_mask_record_is_read_as_it_is(tmp_path: Path) -> None:
    (record,) = read_pack(write(tmp_path, line()))
    assert (record.id, record.source, record.split, record.gsd_m) == ("src/a", "src", "train", 0.3)
    assert (record.labelled, record.present) == (("building", "road"), ("building",))
    image = record.load_image()
    assert image.shape == (8, 12, 3)
    assert image.dtype == np.uint8
    assert image[0, 1].tolist() == [3, 4, 5]
    mask = record.load_mask("building")
    assert mask.dtype == np.uint8
    assert mask.sum() == 18
    assert mask[2, 3] == 1
    assert not record.load_mask("road").any()


def test_boxes_are_read_per_category(tmp_path: Path) -> None:
    (record,) = read_pack(write(tmp_path, boxes("a", ("car", [1, 2, 5, 6]), ("car", [0.5, 0, 3, 3]))))
    assert record.boxes("car").tolist() == [[1, 2, 5, 6], [0.5, 0, 3, 3]]
    assert record.boxes("bus").shape == (0, 4)


def test_asking_for_the_wrong_kind_of_label_says_which_is_there(tmp_path: Path) -> None:
    mask, box = read_pack(write(tmp_path, line("a"), boxes("b", ("car", [1, 2, 5, 6]))))
    with pytest.raises(DatasetError, match="masks, no boxes"):
        mask.boxes("building")
    with pytest.raises(DatasetError, match="boxes, no masks"):
        box.load_mask("car")
    with pytest.raises(DatasetError, match="Nobody looked for"):
        mask.load_mask("lake")


def test_split_sources_and_scale_variants_filter(tmp_path: Path) -> None:
    write(tmp_path, line("a"), line("b", split="val"), line("c", scale_variant=True), line("d", source="other"))
    assert [r.id for r in read_pack(tmp_path)] == ["src/a", "src/b", "src/c", "src/d"]
    assert [r.id for r in read_pack(tmp_path, "val")] == ["src/b"]
    assert [r.id for r in read_pack(tmp_path, scale_variants=False)] == ["src/a", "src/b", "src/d"]
    assert [r.id for r in read_pack(tmp_path, sources=["other"])] == ["src/d"]
    with pytest.raises(DatasetError, match="Unknown source"):
        read_pack(tmp_path, sources=["nowhere"])
    with pytest.raises(DatasetError, match="train or val"):
        read_pack(tmp_path, "test")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "dev"}, "split 'dev'"),
        ({"label_kind": "dots"}, "label_kind 'dots'"),
        ({"width": "wide"}, "wrong kind"),
        ({"labelled": ["road"]}, "not among the labelled"),
        ({"label_kind": "box"}, "does not fit label_kind"),
        ({"regions": [{"category": "building"}]}, "lacks the field"),
    ],
)
def test_a_broken_record_names_file_line_and_fault(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write(tmp_path, line("ok"), line("bad", **change))
    with pytest.raises(DatasetError, match=said) as caught:
        read_pack(tmp_path)
    assert "line 2" in str(caught.value)
    assert "annotations.jsonl" in str(caught.value)


def test_an_empty_box_is_broken(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="empty box"):
        read_pack(write(tmp_path, boxes("a", ("car", [5, 2, 5, 6]))))


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    index = write(tmp_path, line()) / "annotations.jsonl"
    index.write_text(index.read_text() + "\n{oops\n")
    with pytest.raises(DatasetError, match="not JSON") as caught:
        read_pack(tmp_path)
    assert "line 3" in str(caught.value)


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="one id"):
        read_pack(write(tmp_path, line("a"), line("a")))


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no index"):
        read_pack(tmp_path)


@pytest.mark.parametrize("name", ["images", "masks"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, line())
    (tmp_path / "src" / name / "a.png").unlink()
    with pytest.raises(DatasetError, match="missing") as caught:
        read_pack(tmp_path)
    assert f"{name}/a.png" in str(caught.value)


@pytest.mark.parametrize("name", ["images", "masks"])
def test_a_file_of_the_wrong_size_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, line())
    Image.new("L", (12, 9)).save(tmp_path / "src" / name / "a.png")
    with pytest.raises(DatasetError, match="wrong size: expected 12 x 8") as caught:
        read_pack(tmp_path)
    assert f"{name}/a.png" in str(caught.value)
    assert "12 x 9" in str(caught.value)


def test_a_truncated_image_is_an_error_not_a_black_picture(tmp_path: Path) -> None:
    (record,) = read_pack(write(tmp_path, line()))
    data = record.image.read_bytes()
    record.image.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match="cannot be read"):
        record.load_image()


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    write(tmp_path, line())
    (tmp_path / "src/images/a.png").write_text("not an image")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_pack(tmp_path)


def test_the_environment_names_the_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAPROMPT_DATA", str(write(tmp_path, line())))
    assert find_pack() == tmp_path
    monkeypatch.setenv("TERRAPROMPT_DATA", str(tmp_path / "src"))
    with pytest.raises(DatasetError, match="TERRAPROMPT_DATA"):
        find_pack()


@pytest.mark.data
def test_the_real_pack_is_whole() -> None:
    root = find_pack()
    if root is None:
        pytest.skip("no imagery pack: set TERRAPROMPT_DATA or put it at ../shared/data")
    records = read_pack(root)
    assert {r.split for r in records} == {"train", "val"}
    groups = {split: {r.group for r in records if r.split == split} for split in ("train", "val")}
    assert not groups["train"] & groups["val"]
    for record in {r.source: r for r in records}.values():
        assert record.load_image().shape == (record.height, record.width, 3)
        for name in record.present:
            if record.label_kind == "box":
                assert len(record.boxes(name))
            else:
                assert record.load_mask(name).any()


def test_pixels_that_nobody_labelled_are_told_apart(tmp_path: Path) -> None:
    found = line(ignore_mask="src/masks/a.png", ignore_value=1)
    known = read_pack(write(tmp_path, found))[0].load_known()
    assert known is not None
    assert known.sum() == 12 * 8 - 3 * 6
    assert not known[2:5, 3:9].any()
    assert read_pack(write(tmp_path, line()))[0].load_known() is None
    for broken, said in (
        (found | {"ignore_value": 300}, "0 to 255"),
        (found | {"ignore_value": None}, "wrong kind"),
        (found | {"ignore_mask": "src/masks/none.png"}, "missing"),
        (found | {"ignore_mask": "../a.png"}, "out of the folder"),
    ):
        with pytest.raises(DatasetError, match=said):
            read_pack(write(tmp_path, broken))
