"""The parts of the forge one by one: relations against brute force, codecs, boxes, duplicates, splits, wording."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from codings import MAKERS, dota, ground, indexed, loveda, on_ground, picture, polygons, recipe_text, save
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from terraprompt.cli import app
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.forge import forge, read_recipe
from terraprompt.forge.agreement import cohens_kappa
from terraprompt.forge.constraints import broken_rules
from terraprompt.forge.cues import Scene, cues_of, least_ordered
from terraprompt.forge.fingerprints import eighth, fingerprint, fingerprints
from terraprompt.forge.image_dedup import repeated
from terraprompt.forge.inspect import inspect_folder
from terraprompt.forge.items import starts
from terraprompt.forge.layout import fill, match
from terraprompt.forge.patches import decode_mask
from terraprompt.forge.pixels import RollingRows, read_window
from terraprompt.forge.plots import distribution_svg
from terraprompt.forge.recipe import Recipe, RegionRules
from terraprompt.forge.records import rng_of
from terraprompt.forge.regions import regions_of
from terraprompt.forge.review import export_sheet, import_verdicts
from terraprompt.forge.select import assign_splits
from terraprompt.forge.stages import Parts
from terraprompt.forge.statistics import Statistics
from terraprompt.forge.tables import load_table
from terraprompt.forge.writer import _points
from terraprompt.io.rle import RunLengths
from terraprompt.language.categories import forge_vocabulary
from terraprompt.language.object_relations import direction, nearest_of_kind, outlines, related
from terraprompt.language.writer import function_instruction


def drawing(seed: int, kinds: int = 3, side: int = 96) -> np.ndarray:
    """A mask of category numbers with many small regions."""
    return ground(seed, kinds, side).astype(np.uint8)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_gaps_and_neighbours_equal_brute_force(seed: int) -> None:
    from terraprompt.language.object_geometry import components

    rng = np.random.default_rng(seed)
    numbers = (rng.random((40, 44)) < 0.06).astype(np.uint8) * rng.integers(1, 3, (40, 44)).astype(np.uint8)
    labels, kinds, items = np.zeros(numbers.shape, np.int32), [], []
    for value in (1, 2):
        found = components(numbers == value, min_area=1)
        np.copyto(labels, found.labels + len(items), where=found.labels > 0)
        items += found.items
        kinds += [str(value)] * len(found.items)
    edges = outlines(labels, len(items))
    spots = [np.stack(np.nonzero(labels == i + 1), 1) for i in range(len(items))]
    gaps = np.array(
        [[np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1).min()) for b in spots] for a in spots], np.float64
    ).reshape(len(items), len(items))
    for i, found in enumerate(nearest_of_kind(items, kinds, edges)):
        same = [gaps[i, j] for j in range(len(items)) if j != i and kinds[j] == kinds[i]]
        assert (found is None) == (not same)
        if found is not None:
            assert found == pytest.approx(min(same), abs=1e-5)
    for i, near in enumerate(related(items, edges, reach=9.0, max_count=10_000)):
        assert {r.other for r in near} == {j for j in range(len(items)) if j != i and gaps[i, j] <= 9.0}
        for relation in near:
            assert relation.gap == pytest.approx(gaps[i, relation.other], abs=1e-5)
            assert relation.adjacent == (relation.gap <= 2.0)


def test_directions_are_those_of_a_map() -> None:
    assert direction((0, 0), (0, -5)) == "north"
    assert direction((0, 0), (5, 5)) == "southeast"
    assert direction((0, 0), (-5, 0)) == "west"


def test_regions_carry_their_exact_masks_and_metres() -> None:
    numbers = np.zeros((60, 80), np.uint8)
    numbers[5:15, 5:25] = forge_vocabulary()["lake"].number
    numbers[40:50, 5:25] = forge_vocabulary()["lake"].number
    numbers[15:20, 5:25] = forge_vocabulary()["forest"].number
    numbers[0, 79] = forge_vocabulary()["lake"].number
    found, specks = regions_of(numbers, 0.5, RegionRules())
    assert specks == Counter({"lake": 1})
    by_name = [(r["category"], r["area"], r["box"]) for r in found]
    assert by_name == [
        ("lake", 200, [5.0, 5.0, 25.0, 15.0]),
        ("lake", 200, [5.0, 40.0, 25.0, 50.0]),
        ("forest", 100, [5.0, 15.0, 25.0, 20.0]),
    ]
    union = sum(RunLengths(60, 80, r["counts"]).load() * forge_vocabulary()[r["category"]].number for r in found)
    numbers[0, 79] = 0
    assert np.array_equal(union, numbers)
    assert found[0]["nearest"] == 26.0  # rows 14 and 40
    touching = {r["other"]: r for r in found[0]["relations"]}
    assert touching[2]["adjacent"]
    assert touching[2]["direction"] == "south"
    assert touching[1]["metres"] == 13.0
    assert not any(r["border"] for r in found)


@given(length=st.integers(1, 3000), size=st.integers(32, 600), part=st.floats(0.1, 1))
def test_windows_cover_everything_and_stay_inside(length: int, size: int, part: float) -> None:
    stride = max(1, int(size * part))
    found = starts(length, size, stride)
    covered = np.zeros(length, bool)
    for start in found:
        assert 0 <= start < length
        covered[start : start + size] = True
        assert length <= size or start + size <= length
    assert covered.all()
    assert found == sorted(set(found))


def test_rows_are_read_once_and_never_backwards() -> None:
    data, asked = np.arange(100, dtype=np.uint8)[:, None], []

    def fill(first: int, end: int, out: np.ndarray) -> None:
        asked.extend(range(first, end))
        out[:] = data[first:end]

    rows = RollingRows(fill, 100, 1)
    for first in range(0, 81, 10):
        assert rows.get(first, first + 20)[:, 0].tolist() == list(range(first, first + 20))
    assert asked == list(range(100))
    with pytest.raises(ValueError, match="held from 80"):
        rows.get(10, 20)


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_an_eighth_is_the_mean_of_squares(height: int, width: int, seed: int) -> None:
    bands = np.random.default_rng(seed).integers(0, 256, (3, height, width)).astype(np.uint8)
    whole = np.pad(bands, ((0, 0), (0, -height % 8), (0, -width % 8)), mode="edge").astype(float)
    means = whole.reshape(3, whole.shape[1] // 8, 8, -1, 8).mean((2, 4))
    assert np.array_equal(eighth(bands), np.floor(means + 0.5))


@pytest.mark.parametrize("side", [64, 96, 512])
def test_fingerprints_of_a_row_are_those_of_its_patches(side: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side + 64, 3)).astype(np.uint8)
    columns = [0, 8, 64]
    small = eighth(np.moveaxis(pixels, -1, 0))
    found = fingerprints(small, [column // 8 for column in columns], side, side)
    assert found == [fingerprint(pixels[:, column : column + side]) for column in columns]
    assert len({sha for sha, _, _ in found}) == 3
    even = fingerprint(np.full((side, side, 3), 77, np.uint8))
    assert even[1:] == (0x8000000000000000, bytes([77]) * 192)  # the mean alone: no other frequency is above the median


def test_windows_off_the_grid_of_eight_pixels_give_the_same_prints(tmp_path: Path) -> None:
    loveda(tmp_path / "copy", images=1)
    out = run_of(tmp_path, {"table": "loveda", "root": str(tmp_path / "copy")}, patches={"size": 203, "stride": 101})
    rows = list(Parts(out / "work" / "patches").rows())
    assert any(row["column"] % 8 for row in rows)
    for row in rows:
        box = (row["column"], row["row"], row["width"], row["height"])
        assert fingerprint(read_window(tmp_path / "copy" / row["image"], box))[0] == row["sha"]


def mask_of(row: dict) -> np.ndarray:
    return decode_mask(row["mask"], row["width"], row["height"])


def run_of(folder: Path, source: dict[str, object], until: str = "patches", **more: object) -> Path:
    (folder / "recipe.yaml").write_text(recipe_text([source], **more))
    forge(read_recipe(folder / "recipe.yaml"), folder / "out", until=until)
    return folder / "out"


@pytest.mark.parametrize("name", ["loveda", "deepglobe_land_cover", "potsdam", "flair"])
def test_masks_of_patches_are_the_ground_truth_in_categories(tmp_path: Path, name: str) -> None:
    make = MAKERS[name]
    seed = {"loveda": 1, "deepglobe_land_cover": 20, "potsdam": 40, "flair": 60}[name]
    make(tmp_path / "copy", images=1)
    table, vocabulary = load_table(name), forge_vocabulary()
    wanted = [row.category for row in table.classes if row.category is not None]
    lookup = np.array([0, *(vocabulary[category].number for category in wanted)], np.uint8)
    size = {"flair": (18, 512)}.get(name, (len(wanted), 560))
    truth = lookup[ground(seed, *size)]
    out = run_of(tmp_path, {"table": name, "root": str(tmp_path / "copy")})
    rows = list(Parts(out / "work" / "patches").rows())
    assert rows
    for row in rows:
        y, x = row["row"], row["column"]
        assert np.array_equal(mask_of(row), truth[y : y + 512, x : x + 512])
        box = (x, y, row["width"], row["height"])
        pixels = read_window(tmp_path / "copy" / row["image"], box, bands=row["bands"], stretch=row["stretch"])
        assert fingerprint(pixels)[0] == row["sha"]  # what is exported later is what was looked at


def test_ground_size_comes_from_the_raster_where_the_table_has_none(tmp_path: Path) -> None:
    polygons(tmp_path / "copy", images=1)
    out = run_of(tmp_path, {"table": str(tmp_path / "copy" / "own.toml"), "root": str(tmp_path / "copy")}, "items")
    (row,) = Parts(out / "work" / "items").rows()
    assert row["gsd_m"] == pytest.approx(0.5, rel=0.005)


def test_polygons_in_degrees_fall_on_their_pixels(tmp_path: Path) -> None:
    polygons(tmp_path / "copy", images=1)
    out = run_of(tmp_path, {"table": str(tmp_path / "copy" / "own.toml"), "root": str(tmp_path / "copy")})
    vocabulary = forge_vocabulary()
    lookup = np.array([0, *(vocabulary[name].number for name in ("building", "lake", "forest"))], np.uint8)
    truth = lookup[ground(220, 3)]
    for row in Parts(out / "work" / "patches").rows():
        part = truth[row["row"] : row["row"] + 512, row["column"] : row["column"] + 512]
        assert (mask_of(row) != part).mean() < 1e-3


def test_coco_polygons_and_run_lengths(tmp_path: Path) -> None:
    drawn = ground(3, 1)
    save(tmp_path / "copy" / "img" / "a.png", picture(drawn, 3))
    mask = (drawn == 1).astype(np.uint8)
    rle = RunLengths.encode(mask)
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 560, "height": 560}],
        "categories": [{"id": 1, "name": "lake"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"size": [560, 560], "counts": rle.counts}},
            {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]]},
        ],
    }
    (tmp_path / "copy" / "all.json").write_text(json.dumps(document))
    table = tmp_path / "own.toml"
    table.write_text(
        'title = "Own"\nlicence = "ours"\ncodec = "polygons"\nconfirmed = true\n'
        '[layout]\nimage = "img/{stem}.png"\nlabel = "all.json"\npolygons = "coco"\n'
        '[[class]]\nlabel = "lake"\ncategory = "lake"\n[[class]]\nlabel = "car"\ncategory = "car"\n'
    )
    out = run_of(tmp_path, {"table": str(table), "root": str(tmp_path / "copy")})
    truth = mask * forge_vocabulary()["lake"].number
    truth[10:30, 10:40] = forge_vocabulary()["car"].number
    for row in Parts(out / "work" / "patches").rows():
        part = truth[row["row"] : row["row"] + 512, row["column"] : row["column"] + 512]
        assert np.array_equal(mask_of(row), part)


def test_rotated_boxes_become_masks_through_a_segmenter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Round:
        """Draws the ellipse in each box."""

        def embed(self, images: list[np.ndarray]) -> list[SimpleNamespace]:
            return [SimpleNamespace(size=image.shape[:2]) for image in images]

        def predict(self, embedding: SimpleNamespace, prompts: list) -> list[SimpleNamespace]:
            out = []
            for prompt in prompts:
                ((x0, y0, x1, y1),) = prompt.boxes
                asked.append((x0, y0, x1, y1))
                yy, xx = np.mgrid[: embedding.size[0], : embedding.size[1]] + 0.5
                far = ((xx - (x0 + x1) / 2) / (x1 - x0) * 2) ** 2 + ((yy - (y0 + y1) / 2) / (y1 - y0) * 2) ** 2
                out.append(SimpleNamespace(logits=(1 - far).astype(np.float32)))
            return out

    from terraprompt.forge import patches

    monkeypatch.setattr(patches, "segmenter_of", lambda name: Round())
    dota(tmp_path / "copy", images=1)
    out = run_of(tmp_path, {"table": "dota", "root": str(tmp_path / "copy"), "segmenter": "round"})
    filled = tmp_path / "filled"
    filled.mkdir()
    monkeypatch.undo()
    other = run_of(filled, {"table": "dota", "root": str(tmp_path / "copy"), "segmenter": "fill"})
    by_name = {row["patch"]: mask_of(row) for row in Parts(other / "work" / "patches").rows()}
    assert asked
    for row in Parts(out / "work" / "patches").rows():
        round_one, box = mask_of(row) > 0, by_name[row["patch"]] > 0
        assert 0.5 * box.sum() < round_one.sum() < 1.05 * box.sum()
        assert (round_one & ~box).sum() < 0.12 * box.sum()  # only a little over the rotated boxes


def test_the_shipped_model_is_a_segmenter_for_boxes(tmp_path: Path) -> None:
    dota(tmp_path / "copy", images=1)
    source = {"table": "dota", "root": str(tmp_path / "copy"), "segmenter": "nano"}
    out = run_of(tmp_path, source, patches={"size": 560, "stride": 280})
    (row,) = Parts(out / "work" / "patches").rows()
    assert mask_of(row).any()


def test_layout_patterns() -> None:
    assert fill("{a}/x/{b}_m.png", {"a": "1", "b": "2"}) == "1/x/2_m.png"
    with pytest.raises(ConfigError, match="Parts: a"):
        fill("{c}", {"a": "1"})


def test_layout_patterns_find_files(tmp_path: Path) -> None:
    for name in ("a/one/x.png", "a/two/y.png", "b/x.txt", "a/one/.z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [parts for _, parts in match(tmp_path, "{top}/{mid}/{stem}.png")]
    assert found == [{"top": "a", "mid": "one", "stem": "x"}, {"top": "a", "mid": "two", "stem": "y"}]
    assert [parts for _, parts in match(tmp_path, "{all**}/{stem}.png")] == [
        {"all": "a/one", "stem": "x"},
        {"all": "a/two", "stem": "y"},
    ]


def test_near_duplicates_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    base = [np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(20)]
    noisy = [np.clip(p.astype(int) + rng.integers(-4, 5, p.shape), 0, 255).astype(np.uint8) for p in base[:7]]
    pictures = [*base, *noisy, base[3].copy()]
    prints = [fingerprint(p) for p in pictures]
    exact, near = repeated(
        [p[0] for p in prints],
        np.array([p[1] for p in prints], np.uint64),
        np.stack([np.frombuffer(p[2], np.uint8) for p in prints]),
        bits=3,
        levels=4.0,
    )
    assert exact == [27]
    assert near == [20, 21, 22, 23, 24, 25, 26]


def test_repeated_images_are_kept_once(tmp_path: Path) -> None:
    loveda(tmp_path / "copy", images=1)
    folder = tmp_path / "copy" / "Train" / "Rural"
    for kind in ("images_png", "masks_png"):
        (folder / kind / "7.png").write_bytes((folder / kind / "0.png").read_bytes())
    out = run_of(tmp_path, {"table": "loveda", "root": str(tmp_path / "copy")}, "select")
    items = {row["item"] for row in Parts(out / "work" / "select").rows()}
    assert items == {"loveda/Train/Rural/images_png/0"}


def test_images_that_overlap_on_the_ground_share_a_split(tmp_path: Path) -> None:
    for i in range(6):  # pairs of images overlap by half
        drawn = ground(i, 14)
        shift = on_ground(0, 0.5)
        origin = shift["transform"].__class__.translation(140.0 * (i % 2) + 5000.0 * (i // 2), 0) @ shift["transform"]
        where = {"crs": "EPSG:32633", "transform": origin}
        save(tmp_path / "copy" / "labeled_train" / "Nice" / "BDORTHO" / f"{i}.tif", picture(drawn, i), **where)
        save(
            tmp_path / "copy" / "labeled_train" / "Nice" / "UrbanAtlas" / f"{i}_UA2012.tif",
            indexed("minifrance", drawn),
            **where,
        )
    shares = {"shares": {"train": 0.34, "val": 0.33, "test": 0.33}}
    whole = {"size": 560, "stride": 280}
    source = {"table": "minifrance", "root": str(tmp_path / "copy")}
    out = run_of(tmp_path, source, "select", splits=shares, patches=whole)
    splits: dict[int, set[str]] = {}
    for row in Parts(out / "work" / "select").rows():
        splits.setdefault(int(Path(row["image"]).stem) // 2, set()).add(row["split"])
    assert [len(found) for found in splits.values()] == [1, 1, 1]
    assert {split for found in splits.values() for split in found} == {"train", "val", "test"}


@given(st.lists(st.integers(1, 40), min_size=60, max_size=200), st.integers(0, 99))
@settings(max_examples=20)
def test_splits_come_near_the_wanted_shares(weights: list[int], seed: int) -> None:
    recipe = Recipe.model_validate({"name": "a", "seed": seed, "sources": [{"table": "loveda", "root": "."}]})
    found = assign_splits(Counter({f"p{i}": weight for i, weight in enumerate(weights)}), recipe)
    total = sum(weights)
    for split, share in recipe.splits.shares.items():
        have = sum(weights[int(place[1:])] for place, name in found.items() if name == split)
        assert abs(have / total - share) <= 40 / total + 0.01


@given(st.integers(0, 5000))
@settings(max_examples=25)
def test_points_lie_inside_and_apart(seed: int) -> None:
    numbers = drawing(seed, 2)
    mask = (numbers == 1).astype(np.uint8)
    if mask.sum() < 20:
        return
    spots = _points(mask, 3, rng_of(seed))
    assert len(set(spots)) == 3
    for x, y in spots:
        assert mask[int(y), int(x)] == 1
        assert x % 1 == y % 1 == 0.5


def scene_of(numbers: np.ndarray) -> tuple[Scene, list]:
    regions, specks = regions_of(numbers, 0.5, RegionRules())
    patch = {
        "width": numbers.shape[1],
        "height": numbers.shape[0],
        "gsd_m": 0.5,
        "regions": regions,
        "specks": [{"category": name, "count": count} for name, count in specks.items()],
    }
    return Scene(patch), regions


def square(numbers: np.ndarray, name: str, x: int, y: int, side: int) -> None:
    numbers[y : y + side, x : x + side] = forge_vocabulary()[name].number


def test_a_speck_makes_nothing_the_only_one_nor_the_leftmost() -> None:
    numbers = np.zeros((200, 200), np.uint8)
    square(numbers, "lake", 100, 90, 40)
    scene, regions = scene_of(numbers)
    assert {cue.name for cue in cues_of(scene, regions[0])} >= {"only"}
    square(numbers, "lake", 5, 5, 2)
    scene, regions = scene_of(numbers)
    assert cues_of(scene, regions[0]) == []
    square(numbers, "lake", 40, 150, 12)
    scene, regions = scene_of(numbers)
    assert {cue.name for cue in cues_of(scene, regions[0])} == {"largest"}


def test_a_broad_name_is_unsure_beside_a_narrow_one() -> None:
    numbers = np.zeros((200, 200), np.uint8)
    square(numbers, "car", 20, 20, 30)
    square(numbers, "vehicle", 120, 120, 60)
    scene, regions = scene_of(numbers)
    car = next(region for region in regions if region["category"] == "car")
    assert "only" not in {cue.name for cue in cues_of(scene, car)}
    assert "smallest" in {cue.name for cue in cues_of(scene, car)}
    assert "largest" not in {cue.name for cue in cues_of(scene, car)}


def test_what_touches_another_is_told_apart_from_what_does_not() -> None:
    numbers = np.zeros((200, 200), np.uint8)
    square(numbers, "lake", 20, 20, 40)
    square(numbers, "forest", 60, 20, 40)
    square(numbers, "lake", 20, 150, 40)
    scene, regions = scene_of(numbers)
    first = next(r for r in regions if r["category"] == "lake" and r["box"][1] < 100)
    second = next(r for r in regions if r["category"] == "lake" and r["box"][1] > 100)
    assert "touches:forest" in {cue.name for cue in cues_of(scene, first)}
    assert "nearest:forest" in {cue.name for cue in cues_of(scene, first)}
    assert not {cue.name for cue in cues_of(scene, second)} & {"touches:forest", "nearest:forest"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": "Find the lake."}, "segment is missing"),
        ({"kind": "contextual", "question": "Segment the one that is large.", "reason": "The lake."}, "25 to"),
        (
            {"kind": "contextual", "question": "Segment " + "a word " * 13 + "lakes", "reason": "The lake."},
            "names the category",
        ),
        ({"kind": "attribute", "question": "Segment " + "a word " * 11, "reason": ""}, "reason is missing"),
        ({"kind": "attribute", "question": "Segment " + "a word " * 11, "reason": "It is wet."}, "does not name"),
        ({"kind": "attribute", "question": "Segment " + "a word " * 11, "reason": "The lake " * 16}, "32 words"),
        ({"question": "Segment the lake inside the red outline."}, "marking"),
        ({"kind": "box", "question": "Please segment the region of it.", "box": [0, 0, 1.2, 1]}, "outside"),
    ],
)
def test_rules_of_wording(change: dict[str, object], said: str) -> None:
    sample = {"kind": "referring", "question": "Segment the lake.", "reason": "", "points": [], "box": []}
    assert broken_rules(sample, forge_vocabulary()["lake"]) == []
    assert any(said in fault for fault in broken_rules(sample | change, forge_vocabulary()["lake"]))


def test_no_use_in_the_vocabulary_names_its_category() -> None:
    for kind in forge_vocabulary().categories.values():
        assert len(kind.functions) == 2, kind.name
        for use in kind.functions:
            assert not kind.is_named_in(use), (kind.name, use)
            assert 4 <= len(use.split()) <= 14, (kind.name, use)
    assert len(forge_vocabulary().categories) == 107


def test_every_category_can_be_asked_for_in_the_allowed_words() -> None:
    rng = np.random.default_rng(0)
    for kind in forge_vocabulary().categories.values():
        written = [function_instruction(kind, rng) for _ in range(60)]
        for question, reason in written:
            sample = {"kind": "attribute", "question": question, "reason": reason}
            assert broken_rules(sample, kind) == [], question
        assert len({question for question, _ in written}) > 40, kind.name


def test_one_category_has_hundreds_of_attribute_questions_of_the_papers_length() -> None:
    rng = np.random.default_rng(0)
    for name in ("building", "car", "lake"):
        written = [function_instruction(forge_vocabulary()[name], rng)[0] for _ in range(500)]
        assert len(set(written)) > 300
        assert 20 < np.mean([len(text.split()) for text in written]) < 27


def patch_of(*boxes: tuple[int, int, int, int], size: int = 512) -> dict[str, Any]:
    """A patch of lakes, each a rectangle (x0, y0, x1, y1)."""
    regions = [
        {
            "number": number,
            "category": "lake",
            "area": (x1 - x0) * (y1 - y0),
            "box": [float(x0), float(y0), float(x1), float(y1)],
            "centroid": [(x0 + x1) / 2, (y0 + y1) / 2],
            "relations": [],
        }
        for number, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    return {"width": size, "height": size, "regions": regions, "specks": []}


def cue_names(patch: dict[str, Any], number: int) -> set[str]:
    scene = Scene(patch)
    return {cue.name for cue in cues_of(scene, scene.regions[number])}


def test_an_order_is_counted_from_the_nearer_end() -> None:
    row = [(20 + 110 * i, 200, 80 + 110 * i, 260 + 10 * i) for i in range(4)]
    ranked = [
        {name for name in cue_names(patch_of(*row), i) if name.startswith("extreme") and name[-1] in "23"}
        for i in range(4)
    ]
    assert ranked == [set(), {"extreme:left:2"}, {"extreme:right:2"}, set()]


def test_what_is_easily_missed_makes_every_order_unsure() -> None:
    clear = patch_of((20, 20, 120, 120), (200, 220, 260, 300), (400, 400, 500, 500))
    assert {"extreme:left", "extreme:left:2", "central"} <= set().union(*(cue_names(clear, i) for i in range(3)))
    # 30 x 40 pixels are below 0.5 % of 512 x 512; 19 x 20 are below 400 pixels, though 0.7 % of 230 x 230
    for unsure in (
        patch_of((20, 20, 120, 120), (200, 220, 230, 260), (350, 400, 500, 500)),
        patch_of((2, 2, 40, 40), (100, 105, 119, 125), (170, 170, 229, 229), size=230),
    ):
        said = set().union(*(cue_names(unsure, i) for i in range(3)))
        assert not {name for name in said if name.startswith(("extreme", "smallest", "central")) or name[-1].isdigit()}
        assert "largest" in said
    assert least_ordered(512, 512) == 0.005 * 512 * 512
    assert least_ordered(200, 200) == 400


def test_class_distributions_are_plotted_by_task() -> None:
    statistics = Statistics()
    common = {"words": 9, "characters": 40, "share": 0.1, "area": 500, "split": "train", "source": "a", "licence": None}
    for kind, category, cut in (("point", "lake", True), ("box", "lake", False), ("referring", "road", False)):
        statistics.add({**common, "kind": kind, "category": category, "cut": cut, "patch": kind})
    facts = statistics.facts()
    assert facts["distributions"] == {
        "overall": {"lake": 2, "road": 1}, "interactive": {"lake": 2}, "referring": {"road": 1}, "reasoning": {},
    }  # fmt: skip
    assert (facts["tasks"]["interactive"]["cut_by_the_edge"], facts["geoseg_1m"]["lake"]) == (1, "Lake")
    svg = ElementTree.fromstring(distribution_svg(facts["distributions"]))
    titles = [node.text for node in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["lake: 2", "road: 1", "lake: 2", "road: 1"]
    assert "| lake | Lake | 2 | 2 | 0 | 0 |" in statistics.table()


def test_inspect_drafts_a_table_that_works(tmp_path: Path) -> None:
    loveda(tmp_path / "copy", images=4)
    folder = tmp_path / "copy" / "Train" / "Urban"
    found = inspect_folder(folder)
    assert (found.image, found.label) == ("images_png/{stem}.png", "masks_png/{stem}.png")
    assert found.codec == "index"
    assert set(found.codes) <= {str(code) for code in range(8)}
    table = tmp_path / "draft.toml"
    table.write_text(found.table.replace("ignore = true  # FILL IN: a category", 'category = "lake"  #'))
    (tmp_path / "recipe.yaml").write_text(recipe_text([{"table": str(table), "root": str(folder)}]))
    assert forge(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", until="regions").stages["regions"] == 8


def test_inspect_knows_boxes_and_their_words(tmp_path: Path) -> None:
    dota(tmp_path / "copy", images=3)
    done = CliRunner().invoke(app, ["dataset", "forge", "inspect", str(tmp_path / "copy"), "--json"])
    facts = json.loads(done.stdout)
    assert facts["label"] == "train/labelTxt/P{stem}.txt" or facts["label"] == "train/labelTxt/{stem}.txt"
    assert facts["codec"] == "boxes"
    assert facts["guesses"]["plane"] == "airplane"
    with pytest.raises(DatasetError, match="No images with labels"):
        inspect_folder(tmp_path / "copy" / "train" / "images")


def test_kappa_of_known_tables() -> None:
    # 20 and 15 agreements of 50, marginals 25/25 and 30/20 (the example in Cohen's kappa's usual explanation)
    first = ["keep"] * 25 + ["drop"] * 25
    second = ["keep"] * 20 + ["drop"] * 5 + ["keep"] * 10 + ["drop"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    assert cohens_kappa(["keep"] * 3, ["keep"] * 3) is None
    assert cohens_kappa([], []) is None
    assert cohens_kappa(["keep", "drop"], ["drop", "keep"]) == pytest.approx(-1)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    loveda(folder / "copy", images=2)
    return run_of(folder, {"table": "loveda", "root": str(folder / "copy")}, until="export").parent


def finished(folder: Path) -> Path:
    forge(read_recipe(folder / "recipe.yaml"), folder / "out", resume=True)
    return folder / "out" / "dataset"


def test_a_review_goes_out_and_comes_back(small_set: Path, tmp_path: Path) -> None:
    root = finished(small_set)
    ids = [json.loads(line)["id"] for line in (root / "train.jsonl").open()]
    assert export_sheet(root, tmp_path / "sheet", split="train", max_samples=6, seed=1) == 6
    page = (tmp_path / "sheet" / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    chosen = [sample["id"] for sample in data["samples"]]
    assert set(chosen) <= set(ids)
    assert all((tmp_path / "sheet" / sample["picture"]).is_file() for sample in data["samples"])
    for name, verdicts in {
        "ada": ["keep", "keep", "keep", "drop", "drop", "unsure"],
        "bo": ["keep", "keep", "drop", "drop", "drop", "keep"],
    }.items():
        said = {"reviewer": name, "split": "train", "verdicts": dict(zip(chosen, verdicts, strict=True))}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
    files = [tmp_path / "ada.json", tmp_path / "bo.json"]
    found = import_verdicts(root, files, out=tmp_path / "kept")
    assert found.pairs[0][2:4] == (6, pytest.approx(4 / 6))
    assert set(found.kept) == set(chosen[:2])
    assert len(found.disputed) == 2
    from terraprompt.datasets.registry import open_dataset

    assert len(open_dataset("geoseg-bench-1m", tmp_path / "kept", split="train").samples) == 2
    done = CliRunner().invoke(app, ["dataset", "review", "import", str(root), *map(str, files)])
    assert "Cohen's kappa" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "broken"),
        ('{"reviewer": "", "split": "train", "verdicts": {}}', "who judged"),
        ('{"reviewer": "a", "split": "train", "verdicts": {"x": "keep"}}', "does not have"),
        ('{"reviewer": "a", "split": "train", "verdicts": {"x": "fine"}}', "Known: keep"),
    ],
)
def test_broken_verdicts(small_set: Path, tmp_path: Path, text: str, said: str) -> None:
    root = finished(small_set)
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(DatasetError, match=said):
        import_verdicts(root, [tmp_path / "v.json"])
    with pytest.raises(DatasetError, match="Splits here: train"):
        export_sheet(root, tmp_path / "sheet", split="dev")


def test_the_command_line_runs_a_recipe(tmp_path: Path) -> None:
    loveda(tmp_path / "copy", images=1)
    (tmp_path / "recipe.yaml").write_text(recipe_text([{"table": "loveda", "root": "copy"}]))
    dry = CliRunner().invoke(app, ["dataset", "forge", str(tmp_path / "recipe.yaml"), "--dry-run"])
    assert "loveda: 1 images, up to 4 patches" in dry.stdout
    assert "models: 0 calls" in dry.stdout
    done = CliRunner().invoke(
        app, ["dataset", "forge", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "out"), "--json"]
    )
    assert json.loads(done.stdout)["finished"]
    assert math.isclose(
        json.loads((tmp_path / "out" / "dataset" / "statistics.json").read_text())["images"], 4, abs_tol=3
    )
    assert CliRunner().invoke(app, ["dataset", "forge", str(tmp_path / "recipe.yaml")]).exit_code == 2
