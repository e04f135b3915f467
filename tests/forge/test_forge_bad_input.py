"""Bad input: every case of a broken copy, table, recipe or disk gets an error that says what and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codings import ground, indexed, loveda, on_ground, picture, potsdam, recipe_text, save
from PIL import Image

from terraprompt.errors import ConfigError, DatasetError, OutputError
from terraprompt.forge import Recipe, forge, plan, read_recipe
from terraprompt.forge.tables import load_table
from terraprompt.language.categories import forge_vocabulary


def recipe(folder: Path, table: str = "loveda", source: dict[str, object] | None = None, **settings: object) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(recipe_text([{"table": table, "root": str(folder / "copy"), **(source or {})}], **settings))
    return read_recipe(path)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return loveda(tmp_path / "copy", images=2)


def own_table(folder: Path, classes: str, codec: str = "index", layout: str = "") -> str:
    path = folder / "own.toml"
    path.write_text(
        f'title = "Own"\nlicence = "ours"\ncodec = "{codec}"\nconfirmed = true\n'
        f'[layout]\nimage = "img/{{stem}}.png"\nlabel = "lab/{{stem}}.png"\n{layout}\n{classes}'
    )
    return str(path)


def test_image_and_mask_of_different_size(copy: Path, tmp_path: Path) -> None:
    mask = copy / "Train" / "Urban" / "masks_png" / "1.png"
    save(mask, indexed("loveda", ground(2, 6, 500)))
    with pytest.raises(DatasetError, match=r"560 x 560 and 500 x 500.*1\.png"):
        forge(recipe(tmp_path), tmp_path / "out")
    done = forge(recipe(tmp_path, on_broken_file="skip"), tmp_path / "skipped")
    assert done.notes["loveda: image left out, broken"] == 1
    assert done.finished


def test_an_unknown_index_is_counted_and_named(copy: Path, tmp_path: Path) -> None:
    mask = copy / "Train" / "Rural" / "masks_png" / "0.png"
    values = np.array(Image.open(mask))
    values[:10, :20] = 77
    values[-5:, -3:] = 78
    save(mask, values)
    with pytest.raises(DatasetError, match=r"code 77: 200 pixels, code 78: 15 pixels.*0\.png.*on_unknown_code: skip"):
        forge(recipe(tmp_path), tmp_path / "out")
    done = forge(recipe(tmp_path, on_unknown_code="skip"), tmp_path / "skipped")
    assert done.notes["loveda: unknown code 77"] == 200
    assert done.notes["loveda: unknown code 78"] == 15
    assert done.notes["loveda: patch with unknown codes"] == 2
    assert done.notes["loveda: patches cut"] == 8


def test_an_unknown_colour_is_counted_and_named(tmp_path: Path) -> None:
    potsdam(tmp_path / "copy", images=1)
    label = tmp_path / "copy" / "5_Labels_all" / "top_potsdam_2_10_label.tif"
    import rasterio

    with rasterio.open(label, "r+") as file:
        data = file.read()
        data[:, :4, :4] = np.array([1, 2, 3])[:, None, None]
        file.write(data)
    with pytest.raises(DatasetError, match=r"colour \(1, 2, 3\): 16 pixels"):
        forge(recipe(tmp_path, "potsdam"), tmp_path / "out")


@pytest.mark.parametrize("which", ["images_png", "masks_png"])
def test_a_truncated_file(copy: Path, tmp_path: Path, which: str) -> None:
    path = copy / "Train" / "Rural" / which / "0.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=r"cannot be read.*0\.png"):
        forge(recipe(tmp_path), tmp_path / "out")
    done = forge(recipe(tmp_path, on_broken_file="skip"), tmp_path / "skipped")
    assert done.notes["loveda: image left out, broken"] == 1
    # none of its patches counts, however far it could be read
    assert {row["item"] for row in rows(tmp_path / "skipped", "patches")} == {"loveda/Train/Urban/images_png/1"}


def test_a_truncated_jpeg_is_not_read_as_grey(tmp_path: Path) -> None:
    drawn = ground(5, 6)
    save(tmp_path / "copy" / "train" / "1_sat.jpg", picture(drawn, 5))
    from codings import coloured

    save(tmp_path / "copy" / "train" / "1_mask.png", coloured("deepglobe_land_cover", drawn))
    path = tmp_path / "copy" / "train" / "1_sat.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=r"cannot be read.*1_sat\.jpg"):
        forge(recipe(tmp_path, "deepglobe_land_cover"), tmp_path / "out")


def test_a_file_that_is_no_picture(copy: Path, tmp_path: Path) -> None:
    (copy / "Train" / "Rural" / "images_png" / "0.png").write_bytes(b"hello")
    with pytest.raises(DatasetError, match="cannot be read"):
        plan(recipe(tmp_path))


def test_an_image_without_label(copy: Path, tmp_path: Path) -> None:
    (copy / "Train" / "Rural" / "masks_png" / "0.png").unlink()
    with pytest.raises(DatasetError, match="no label file"):
        plan(recipe(tmp_path))


def test_empty_masks_give_no_patches_and_a_set_of_nothing_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "copy" / "Train" / "Rural" / "images_png" / "0.png", picture(ground(1, 6), 1))
    save(tmp_path / "copy" / "Train" / "Rural" / "masks_png" / "0.png", np.zeros((560, 560), np.uint8))
    with pytest.raises(DatasetError, match=r"No sample is left"):
        forge(recipe(tmp_path), tmp_path / "out")
    notes = json.loads((tmp_path / "out" / "work" / "patches" / "done.json").read_text())["notes"]
    assert notes["loveda: patch with an empty mask"] == 4


def test_a_category_without_a_place_in_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    table = own_table(tmp_path, '[[class]]\ncode = 1\nlabel = "hut"\ncategory = "bilding"\n')
    with pytest.raises(ConfigError, match=r"own, class 'hut'.*bilding.*Near: building"):
        plan(recipe(tmp_path, table))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ('[[class]]\ncode = 1\nlabel = "hut"\n', "either a category or `ignore = true`"),
        ('[[class]]\nlabel = "hut"\ncategory = "building"\n', "needs a code"),
        (
            '[[class]]\ncode = 1\nlabel = "a"\nignore = true\n[[class]]\ncode = 1\nlabel = "b"\nignore = true\n',
            "twice: 1",
        ),
        ('[[class]]\ncode = 1\nlabel = "a"\nignore = true\nsort = 3\n', "sort"),
        ("", "class"),
    ],
)
def test_a_broken_table(tmp_path: Path, classes: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_table(own_table(tmp_path, classes))


def test_a_table_that_matches_no_file(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(DatasetError, match=r"matches no file.*images_png.*inspect"):
        plan(recipe(tmp_path))


def test_a_copy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no copy of source loveda"):
        plan(recipe(tmp_path))


def test_an_unknown_source_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Known: chesapeake, deepglobe_land_cover"):
        plan(recipe(tmp_path, "lovda"))


def test_mixed_reference_systems(tmp_path: Path) -> None:
    potsdam(tmp_path / "copy", images=1)
    drawn = ground(1, 5)
    label = tmp_path / "copy" / "5_Labels_all" / "top_potsdam_2_10_label.tif"
    from codings import coloured

    save(label, coloured("potsdam", drawn), **{**on_ground(0, 0.05), "crs": "EPSG:32632"})
    with pytest.raises(DatasetError, match=r"different reference systems: EPSG:32633 and EPSG:32632"):
        forge(recipe(tmp_path, "potsdam"), tmp_path / "out")
    save(label, coloured("potsdam", drawn), **on_ground(1, 0.05))
    with pytest.raises(DatasetError, match="lie on different ground, 1000 units apart"):
        forge(recipe(tmp_path, "potsdam"), tmp_path / "other")


def test_boxes_need_a_segmenter(tmp_path: Path) -> None:
    from codings import dota

    dota(tmp_path / "copy", images=1)
    with pytest.raises(DatasetError, match='"fill"'):
        forge(recipe(tmp_path, "dota"), tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2 3 4 5 6 7 plane", "line 1 has 8 words"),
        ("1 2 3 4 5 6 7 x plane 0", "line 1 has a coordinate that is no number"),
    ],
)
def test_broken_boxes(tmp_path: Path, text: str, said: str) -> None:
    from codings import dota

    dota(tmp_path / "copy", images=1)
    (tmp_path / "copy" / "train" / "labelTxt" / "P0000.txt").write_text(text)
    with pytest.raises(DatasetError, match=said):
        forge(recipe(tmp_path, "dota", {"segmenter": "fill"}), tmp_path / "out")


def test_labels_that_declare_entities_are_refused(tmp_path: Path) -> None:
    from codings import dior

    dior(tmp_path / "copy", images=1)
    path = tmp_path / "copy" / "Annotations" / "Horizontal Bounding Boxes" / "00000.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b "c">]>' + path.read_text())
    with pytest.raises(DatasetError, match="declares entities"):
        forge(recipe(tmp_path, "dior", {"segmenter": "fill"}), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patchs": {}}, r'unknown key.*patchs.*Did you mean "patches"\? Known: name, seed'),
        ({"patches": {"sise": 3}}, r'patches\.sise.*Did you mean "size"'),
        ({"patches": {"size": 128, "stride": 256}}, "stride is larger than size"),
        ({"regions": {"area": [0.5, 0.1]}}, "rising order"),
        ({"writing": {"points": [1, 1, 1]}}, "add up to 1"),
        ({"splits": {"shares": {"train": 0.5}}}, "add up to 1"),
        ({"subsets": [{"name": "a", "without": ["nobody"]}]}, "which is no source"),
        ({"seed": -1}, "seed"),
        ({"writing": {"kinds": ["points"]}}, "kinds"),
    ],
)
def test_a_broken_recipe(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "key", "name"),
    [
        ({"regions": {"speck": 9}}, "regions.speck", "min_component_px"),
        ({"regions": {"reach": 9}}, "regions.reach", "search_radius_px"),
        ({"regions": {"apart": 9}}, "regions.apart", "min_gap_px"),
        ({"regions": {"instances": 9}}, "regions.instances", "max_instances"),
        ({"patches": {"least": 99}}, "patches.least", "min_size_px"),
        ({"patches": {"nodata": 0.1}}, "patches.nodata", "max_nodata_share"),
        ({"source": {"most": 2}}, "sources.most", "max_images"),
        ({"unknown": "skip"}, "unknown", "on_unknown_code"),
        ({"broken": "skip"}, "broken", "on_broken_file"),
        ({"models": {"dead": "skip"}}, "models.dead", "on_dead_endpoint"),
    ],
)
def test_an_old_key_is_taken_with_a_warning_that_names_the_new_one(
    tmp_path: Path, settings: dict[str, Any], key: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe(tmp_path, **settings)
    (said,) = [record.getMessage() for record in caplog.records]
    assert key.rpartition(".")[2] in said
    assert name in said


def test_recipes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        read_recipe(tmp_path / "none.yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        read_recipe(path)
    path.write_text("- a")
    with pytest.raises(ConfigError, match="mapping"):
        read_recipe(path)


def test_an_unknown_writer_and_executor(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'rules' or 'models'"):
        forge(recipe(tmp_path, writing={"writer": "poet"}), tmp_path / "out")
    with pytest.raises(ConfigError, match="Executors: local, ray"):
        forge(recipe(tmp_path), tmp_path / "other", executor="slurm")


def test_a_folder_with_something_in_it_is_left_alone(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not empty"):
        forge(recipe(tmp_path), copy)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_keeps_what_is_done(copy: Path, tmp_path: Path) -> None:
    recipe(tmp_path, part=1)
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from terraprompt.forge import forge, read_recipe\n"
        "from terraprompt.errors import OutputError\n"
        "made = read_recipe(Path(sys.argv[1])); out = Path(sys.argv[2])\n"
        "forge(made, out, until='write')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: forge(made, out, resume=True)\n"
        "except OutputError as error: print(error); sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "recipe.yaml"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 7, done.stderr
    assert "disk is full or a limit was reached" in done.stdout
    assert not list((tmp_path / "out").rglob(".tmp-*"))
    assert forge(recipe(tmp_path, part=1), tmp_path / "out", resume=True).finished


def test_a_damaged_work_file_is_named(copy: Path, tmp_path: Path) -> None:
    forge(recipe(tmp_path), tmp_path / "out", until="patches")
    part = tmp_path / "out" / "work" / "patches" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-30])
    with pytest.raises(DatasetError, match=r"work file is damaged.*part-00000.*--resume"):
        forge(recipe(tmp_path), tmp_path / "out", resume=True)


def test_splits_of_a_source_that_share_ground_are_refused(tmp_path: Path) -> None:
    drawn = ground(1, 18, 512)
    rgb = picture(drawn, 1)
    for split in ("train", "test"):
        for kind, pixels in (("aerial", rgb), ("labels", indexed("flair", drawn))):
            folder = tmp_path / "copy" / f"flair_{kind}_{split}" / "D004_2021" / "Z1_NN"
            name = f"img/IMG_{split}1.tif" if kind == "aerial" else f"msk/MSK_{split}1.tif"
            shift = {"transform": on_ground(0, 0.2)["transform"], "crs": "EPSG:32633"}
            save(folder / name, pixels + np.uint8(split == "test") if kind == "aerial" else pixels, **shift)
    with pytest.raises(DatasetError, match="same ground in two of its splits"):
        forge(recipe(tmp_path, "flair", splits={"by": "source"}, duplicates={"levels": 0}), tmp_path / "out")


def test_every_table_of_the_package_has_a_place_for_its_categories() -> None:
    from terraprompt.forge.tables import table_names

    vocabulary = forge_vocabulary()
    used = set()
    for name in table_names():
        table = load_table(name)
        table.check(vocabulary)
        used |= {row.category for row in table.classes}
    assert set(vocabulary.categories) == used - {None}


def rows(out: Path, stage: str) -> list[dict[str, object]]:
    from terraprompt.forge.stages import Parts

    return list(Parts(out / "work" / stage).rows())
