"""Labels in the formats that people export: what each says in pixels, and what one bad annotation costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from codings import on_ground, recipe_text, save
from PIL import Image

from terraprompt.datasets.pack import read_pack
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.forge import forge, read_recipe
from terraprompt.forge.inspect import inspect_folder
from terraprompt.forge.patches import decode_mask
from terraprompt.forge.stages import Parts
from terraprompt.io.rle import RunLengths

SIDE = 256
GOOD = {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [[120, 120, 190, 120, 190, 190, 120, 190]]}
BOX = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [20, 20, 60, 60]}
SQUARE = np.zeros((SIDE, SIDE), np.uint8)
SQUARE[20:80, 20:80] = 1


class Copy:
    """Two pictures of 256 px with labels beside them, and what a run makes of them."""

    def __init__(self, folder: Path, codec: str, layout: str, code: str = "") -> None:
        self.folder, self.root = folder, folder / "root"
        for number in range(2):
            noise = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
            save(self.root / "images" / f"tile_{number}.tif", noise, **on_ground(number, 0.5))
        (self.root / "labels").mkdir()
        (folder / "own.toml").write_text(
            f'title = "Own"\nlicence = "ours"\ncodec = "{codec}"\nconfirmed = true\n'
            f'[layout]\nimage = "images/{{stem}}.tif"\n{layout}\n[[class]]\n{code}\nlabel = "building"\n'
            'category = "building"\n'
        )

    def write(self, name: str, data: Any) -> None:
        (self.root / name).write_text(data if isinstance(data, str) else json.dumps(data))

    def areas(self, broken: str = "skip", segmenter: str | None = None) -> dict[str, int]:
        """Pixels of buildings by image; images without any are left out."""
        source = {"table": "own.toml", "root": "root", **({"segmenter": segmenter} if segmenter else {})}
        text = recipe_text([source], patches={"size": SIDE, "stride": SIDE}, on_broken_file=broken)
        (self.folder / "recipe.yaml").write_text(text)
        out = self.folder / f"out_{broken}_{segmenter}"
        self.notes = forge(read_recipe(self.folder / "recipe.yaml"), out, until="patches").notes
        rows = Parts(out / "work" / "patches").rows()
        masks = {row["image"][-10:-4]: decode_mask(row["mask"], SIDE, SIDE) for row in rows}
        return {name: int((mask > 0).sum()) for name, mask in masks.items()}


@pytest.fixture
def coco(tmp_path: Path) -> Copy:
    return Copy(tmp_path, "polygons", 'label = "labels.json"\npolygons = "coco"')


def coco_file(*annotations: Any) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"tile_{n}.tif", "width": SIDE, "height": SIDE} for n in range(2)]
    return {"images": images, "annotations": [*annotations, GOOD], "categories": [{"id": 1, "name": "building"}]}


@pytest.mark.parametrize("more", [{}, {"segmentation": []}, {"segmentation": None}])
def test_coco_box_without_outline_is_its_box_or_told_of(coco: Copy, more: dict[str, Any]) -> None:
    coco.write("labels.json", coco_file({**BOX, **more}))
    assert coco.areas(segmenter="fill") == {"tile_0": 3600, "tile_1": 4900}
    assert coco.areas() == {"tile_1": 4900}
    with pytest.raises(DatasetError, match=r"annotation 1 has a box but no outline.*segmenter: fill"):
        coco.areas("error")


@pytest.mark.parametrize(
    "segmentation",
    [
        RunLengths.encode(SQUARE).runs().tolist(),
        RunLengths.encode(SQUARE).counts,
    ],
    ids=["list of runs", "compressed"],
)
def test_coco_run_lengths_of_both_kinds(coco: Copy, segmentation: Any) -> None:
    coco.write("labels.json", coco_file({**BOX, "segmentation": {"size": [SIDE, SIDE], "counts": segmentation}}))
    assert coco.areas("error") == {"tile_0": 3600, "tile_1": 4900}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segmentation": [[20, 20, 80, 20]]}, "annotation 1 has an outline of 2 points"),
        ({"segmentation": [[20, 20, 80, 20, 80]]}, "annotation 1 has an outline that is not made of pairs"),
        ({"segmentation": [[20, 20, 80, 20, 50, 20]]}, "annotation 1 has an outline without area"),
        ({"segmentation": [[20, 20, 80, "x", 80, 80]]}, "annotation 1 has an outline that is not made of pairs"),
        (
            {"segmentation": {"size": [SIDE, SIDE], "counts": [5, 5]}},
            "annotation 1 has a run-length mask that does not",
        ),
        ({"segmentation": {"size": [9, 9], "counts": [40, 41]}}, "annotation 1 has a mask of 9 x 9 pixels"),
        ({"segmentation": 7}, "annotation 1 lacks or breaks a field"),
        ({"image_id": 99}, "annotation 1 belongs to image 99, which is not listed"),
        ({"category_id": 5}, "annotation 1 has category 5, which is not listed"),
        ({"bbox": [20, 20, 0, 60]}, "annotation 1 has neither an outline nor a box with an area"),
        ({"bbox": [20, 20]}, "annotation 1 has"),
        ({"bbox": None}, "annotation 1 lacks or breaks a field"),
    ],
)
def test_one_bad_coco_annotation_costs_itself_only(coco: Copy, change: dict[str, Any], said: str) -> None:
    coco.write("labels.json", coco_file({**BOX, **change}))
    assert coco.areas(segmenter="fill") == {"tile_1": 4900}
    assert coco.notes["own: annotation left out, broken"] == 1
    with pytest.raises(DatasetError, match=said):
        coco.areas("error", segmenter="fill")


@pytest.fixture
def yolo(tmp_path: Path) -> Copy:
    return Copy(tmp_path, "yolo", 'label = "labels/{stem}.txt"', "code = 0")


@pytest.mark.parametrize(
    ("text", "area"),
    [
        ("0 0.078 0.078 0.3125 0.078 0.3125 0.3125 0.078 0.3125", 3600),
        ("0 0.5 0.5 0.25 0.25", 4096),
        ("\ufeff0 0.5 0.5 0.25 0.25 0.93\n\n", 4096),
        ("0 0.25 0.25 0.25 0.25\n0 0.5 0.5 0.75 0.5 0.75 0.75 0.5 0.75", 8192),
        ("0 0.0 0.5 0.5 0.25", 4096),
    ],
)
def test_yolo_text_in_pixels(yolo: Copy, text: str, area: int) -> None:
    yolo.write("labels/tile_0.txt", text)
    yolo.write("labels/tile_1.txt", "")
    assert yolo.areas("error", segmenter="fill") == {"tile_0": area}
    assert yolo.notes["own: patch with an empty mask"] == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5", "line 1 has 3 words"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1", "line 1 has 8 words"),
        ("0 96 96 64 64", "line 1 has numbers outside 0 to 1"),
        ("0 nan 0.5 0.2 0.2", "line 1 has numbers outside"),
        ("0 0.5 0.5 0 0.2", "line 1 has an outline without area"),
        ("house 0.5 0.5 0.2 0.2", "line 1 has invalid literal"),
    ],
)
def test_one_bad_yolo_line_costs_itself_only(yolo: Copy, line: str, said: str) -> None:
    yolo.write("labels/tile_0.txt", f"{line}\n0 0.5 0.5 0.25 0.25\n")
    yolo.write("labels/tile_1.txt", "")
    assert yolo.areas(segmenter="fill") == {"tile_0": 4096}
    with pytest.raises(DatasetError, match=rf"{said}.*tile_0\.txt"):
        yolo.areas("error", segmenter="fill")


def test_inspect_drafts_a_yolo_table_that_works(yolo: Copy) -> None:
    yolo.write("labels/tile_0.txt", "0 0.078 0.078 0.3125 0.078 0.3125 0.3125 0.078 0.3125")
    yolo.write("labels/tile_1.txt", "0 0.5 0.5 0.25 0.25")
    yolo.write("data.yaml", "names: [building]\n")
    found = inspect_folder(yolo.root)
    assert (found.codec, found.codes, found.guesses) == ("yolo", {"0": 2}, {"0": "building"})
    (yolo.folder / "own.toml").write_text(found.table)
    assert yolo.areas("error", segmenter="fill") == {"tile_0": 3600, "tile_1": 4096}


def test_labelme_shapes_in_pixels(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "polygons", 'label = "labels/{stem}.json"\npolygons = "labelme"')
    square = {"label": "building", "shape_type": "polygon", "points": [[20, 20], [80, 20], [80, 80], [20, 80]]}
    wire = {"label": "building", "shape_type": "line", "points": [[0, 0], [9, 9]]}
    box = {"label": "building", "shape_type": "rectangle", "points": [[100, 90], [40, 30]]}
    copy.write("labels/tile_0.json", {"shapes": [square, wire]})
    copy.write("labels/tile_1.json", {"shapes": [box]})
    assert inspect_folder(copy.root).codec == "polygons"
    assert copy.areas(segmenter="fill") == {"tile_0": 3600, "tile_1": 3600}
    assert copy.notes["own: annotation left out, broken"] == 1
    with pytest.raises(DatasetError, match=r"shape 2 has the type 'line'.*tile_0\.json"):
        copy.areas("error", segmenter="fill")


@pytest.mark.parametrize(("kind", "driver"), [("geojson", "GeoJSON"), ("gpkg", "GPKG"), ("shp", "ESRI Shapefile")])
def test_vector_files_over_rasters(tmp_path: Path, kind: str, driver: str) -> None:
    copy = Copy(tmp_path, "polygons", f'label = "labels/{{stem}}.{kind}"\npolygons = "vector"')
    for number in range(2):
        where = on_ground(number, 0.5)["transform"]
        left, top = where.c + 10, where.f - 10
        shapes = [shapely.box(left, top - 30, left + 30, top), None]
        pyogrio.raw.write(
            copy.root / "labels" / f"tile_{number}.{kind}", shapely.to_wkb(np.array(shapes, object)),
            [np.array(["building", "building"], object)], ["class"], driver=driver, crs="EPSG:32633",
            geometry_type="Polygon",
        )  # fmt: skip
    assert copy.areas() == {"tile_0": 3600, "tile_1": 3600}
    with pytest.raises(DatasetError, match=r"feature 2 has no geometry"):
        copy.areas("error")


@pytest.mark.parametrize(("kind", "driver"), [("geojson", "GeoJSON"), ("gpkg", "GPKG"), ("shp", "ESRI Shapefile")])
def test_inspect_drafts_a_table_of_vector_files_that_works(tmp_path: Path, kind: str, driver: str) -> None:
    copy = Copy(tmp_path, "polygons", "")
    for number in range(2):
        where = on_ground(number, 0.5)["transform"]
        shape = shapely.box(where.c + 10, where.f - 40, where.c + 40, where.f - 10)
        words = [np.array([word], object) for word in ("seen 2020", "building")]
        pyogrio.raw.write(
            copy.root / "labels" / f"tile_{number}.{kind}", shapely.to_wkb(np.array([shape], object)), words,
            ["remark", "category"], driver=driver, crs="EPSG:32633", geometry_type="Polygon",
        )  # fmt: skip
    found = inspect_folder(copy.root)
    assert (found.codec, found.codes, found.guesses) == ("polygons", {"building": 2}, {"building": "building"})
    (copy.folder / "own.toml").write_text(found.table.replace("confirmed = false", "confirmed = true"))
    assert copy.areas("error") == {"tile_0": 3600, "tile_1": 3600}


def test_inspect_drafts_a_table_of_a_coco_file_that_works(coco: Copy) -> None:
    coco.write("labels.json", coco_file({**GOOD, "id": 1, "image_id": 0}))
    found = inspect_folder(coco.root)
    assert (found.label, found.pairs, found.codes) == ("labels.json", 2, {"building": 2})
    (coco.folder / "own.toml").write_text(found.table.replace("confirmed = false", "confirmed = true"))
    assert coco.areas("error") == {"tile_0": 4900, "tile_1": 4900}


def test_a_vector_file_of_several_layers_asks_which(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "polygons", 'label = "labels/{stem}.gpkg"\npolygons = "vector"')
    for number in range(2):
        for layer in ("notes", "roofs"):
            pyogrio.raw.write(
                copy.root / "labels" / f"tile_{number}.gpkg", shapely.to_wkb(np.array([shapely.box(0, 0, 9, 9)])),
                [np.array(["building"], object)], ["class"], driver="GPKG", layer=layer, crs="EPSG:32633",
                geometry_type="Polygon", append=layer == "roofs",
            )  # fmt: skip
    with pytest.raises(DatasetError, match=r"several layers.*notes, roofs"):
        copy.areas("error")


def test_one_bad_voc_object_costs_itself_only(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "boxes", 'label = "labels/{stem}.xml"\nboxes = "voc"')
    box = "<bndbox><xmin>20</xmin><ymin>20</ymin><xmax>{}</xmax><ymax>80</ymax></bndbox>"
    things = "".join(f"<object><name>building</name>{box.format(x)}</object>" for x in (80, "wide"))
    for number in range(2):
        copy.write(f"labels/tile_{number}.xml", f"<annotation>{things}</annotation>")
    assert copy.areas(segmenter="fill") == {"tile_0": 3600, "tile_1": 3600}
    with pytest.raises(DatasetError, match=r"object 2 has a coordinate that is no number.*tile_0\.xml"):
        copy.areas("error", segmenter="fill")


def test_an_unknown_format_lists_the_known_ones(yolo: Copy) -> None:
    for number in range(2):
        yolo.write(f"labels/tile_{number}.txt", "roof at the left\n")
    with pytest.raises(DatasetError, match=r"no known format.*YOLO text, Pascal VOC.*LabelMe JSON.*Shapefile"):
        inspect_folder(yolo.root)


def pack(folder: Path, **change: Any) -> dict[str, Any]:
    for name in ("a.png", "m.png"):
        save(folder / name, SQUARE * 7)
    region = {"category": "building", "mask": "m.png", "value": 7, "box": None}
    record = {
        "id": "own/a", "source": "own", "split": "train", "image": "a.png", "width": SIDE, "height": SIDE,
        "gsd_m": 0.5, "label_kind": "mask", "labelled": ["building"], "licence": "für alle", "group": "a",
        "scale_variant": False, "regions": [{**region, **change.pop("region", {})}],
    }  # fmt: skip
    return {**record, **change}


@pytest.mark.parametrize(
    ("coding", "said"), [("utf-8-sig", ""), ("latin-1", "annotations.jsonl, line 2"), ("utf-16", "iconv -f UTF-16")]
)
def test_the_coding_of_an_index(tmp_path: Path, coding: str, said: str) -> None:
    record = pack(tmp_path)
    text = "".join(json.dumps({**record, "id": f"own/{n}"}, ensure_ascii=n == 0) + "\n" for n in range(2))
    (tmp_path / "annotations.jsonl").write_bytes(text.encode(coding))
    if not said:
        assert len(read_pack(tmp_path)) == 2
        return
    with pytest.raises(DatasetError, match=said) as caught:
        read_pack(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "../a.png"}, "leads out of the folder"),
        ({"image": "/etc/a.png"}, "leads out of the folder"),
        ({"region": {"mask": "b/../../m.png"}}, "leads out of the folder"),
        ({"region": {"value": 300}}, "mask value 300"),
        ({"region": {"value": -1}}, "mask value -1"),
        ({"region": {"value": 1.5}}, r"mask value 1\.5"),
    ],
)
def test_paths_and_values_of_an_index(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "annotations.jsonl").write_text(json.dumps(pack(tmp_path, **change)))
    with pytest.raises(DatasetError, match=said):
        read_pack(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("value", [1, 300, 65535])
def test_masks_of_16_bits(tmp_path: Path, suffix: str, value: int) -> None:
    record = pack(tmp_path, region={"mask": f"deep{suffix}", "value": value})
    Image.fromarray(SQUARE.astype(np.uint16) * value + (1 - SQUARE.astype(np.uint16)) * 40_000).save(
        tmp_path / f"deep{suffix}"
    )
    (tmp_path / "annotations.jsonl").write_text(json.dumps(record))
    [read] = read_pack(tmp_path)
    assert np.array_equal(read.load_mask("building"), SQUARE)


@pytest.mark.parametrize("value", [65536, 300.5, 1e9])
def test_a_value_that_16_bits_cannot_hold(tmp_path: Path, value: float) -> None:
    record = pack(tmp_path, region={"mask": "deep.png", "value": value})
    Image.fromarray(SQUARE.astype(np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "annotations.jsonl").write_text(json.dumps(record))
    with pytest.raises(DatasetError, match=r"mask value .* holds whole numbers from 0 to 65535"):
        read_pack(tmp_path)


def test_the_coding_of_recipes_and_coco_files(coco: Copy) -> None:
    coco.write("labels.json", "\ufeff" + json.dumps(coco_file({**GOOD, "image_id": 0})))
    assert coco.areas("error") == {"tile_0": 4900, "tile_1": 4900}
    (coco.root / "labels.json").write_bytes(b'{"info": "caf\xe9"}')
    with pytest.raises(DatasetError, match=r"labels\.json, line 1"):
        coco.areas("error", segmenter="fill")
    recipe = coco.folder / "recipe.yaml"
    recipe.write_bytes(b"\xef\xbb\xbf" + recipe.read_bytes())
    assert read_recipe(recipe).name == "made-up"
    recipe.write_text("name: café\n# one\n", "latin-1")
    with pytest.raises(ConfigError, match=r"recipe\.yaml, line 1"):
        read_recipe(recipe)
