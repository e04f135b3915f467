"""Rasters that are stored south up or mirrored: models see them north up, outputs lie as the raster is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio import Affine

from flow_engines import BoxFilterEngine, PointedEngine
from terraprompt.engines.base import Answer, Embedding, Proposals
from terraprompt.flow.session import segment
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene
from terraprompt.raster.mapping import north_up

PIXEL, WEST, NORTH, HEIGHT, WIDTH = 0.5, 500_000.0, 5_400_000.0, 90, 150


def picture() -> np.ndarray:
    """North up: roofs of different size; one in the upper left, on a dark ground."""
    grey = np.full((HEIGHT, WIDTH), 20, np.uint8)
    grey[8:20, 10:30] = 240
    grey[60:85, 100:140] = 235
    grey[30:36, 120:126] = 230
    return grey


STORED = {
    "north up": (slice(None), slice(None)),
    "south up": (slice(None, None, -1), slice(None)),
    "mirrored": (slice(None), slice(None, None, -1)),
}


def stored(folder: Path, how: str) -> Path:
    rows, columns = STORED[how]
    a, x = (-PIXEL, WEST + WIDTH * PIXEL) if columns.step else (PIXEL, WEST)
    e, y = (PIXEL, NORTH - HEIGHT * PIXEL) if rows.step else (-PIXEL, NORTH)
    path = folder / f"{how}.tif"
    profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": Affine(a, 0, x, 0, e, y), "dtype": "uint8"}
    with rasterio.open(path, "w", width=WIDTH, height=HEIGHT, count=3, **profile) as out:
        out.write(np.stack([picture()[rows, columns]] * 3))
    return path


class Upper(BoxFilterEngine):
    """Sees only what lies in the upper left of a picture, and keeps the pictures."""

    def __init__(self) -> None:
        super().__init__(size=192, overlap=32)
        self.seen: list[np.ndarray] = []

    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        self.seen += [image.copy() for image in images]
        return super().encode(images)

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        answers = super().predict(embeddings, prompts)
        for answer in answers:
            answer.logits[40:], answer.logits[:, 60:] = -9, -9
            coded = RunLengths.encode(answer.logits[:40, :60] > 0)
            answer.notes["target"] = {
                "box": [0, 0, 60, 40], "boxes": [[10, 8, 30, 20]], "points": [[10.5, 8.5, 1]],
                "route": {"box": [0, 0, 60, 40], "mask": {"size": [40, 60], "counts": coded.counts}},
                "map": {"box": [0, 0, 2, 2], "cells": [[1, 2], [3, 4]]},
            }  # fmt: skip
        return answers


class Pointing(PointedEngine):
    """Proposes the roof in the upper left of the overview."""

    def overview(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // 2, size[1] // 2

    def propose(self, image: np.ndarray, instruction: str) -> Proposals:
        assert image[6, 8].min() > 200
        return Proposals("found", (Prompt(points=((8, 6),), boxes=((5, 4, 15, 10),)),), notes={"grounded": []})


def ground(result: Any) -> list[tuple[float, ...]]:
    return sorted(tuple(np.round(shapely.bounds(item.polygon), 3)) for item in result.objects)


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize(
    ("engine", "prompt"),
    [
        (Upper, "roofs"),
        (PointedEngine, Prompt(points=((WEST + 10, NORTH - 7),), crs="EPSG:32633")),
        (PointedEngine, Prompt(boxes=((WEST + 5, NORTH - 10, WEST + 15, NORTH - 4),), crs="EPSG:32633")),
        (Pointing, "roofs"),
        (BoxFilterEngine, "the roof in the upper left"),
        (BoxFilterEngine, "the leftmost roof"),
        (BoxFilterEngine, "the northernmost roof"),
    ],
    ids=["text", "point", "box", "proposal", "upper left", "leftmost", "northernmost"],
)
def test_one_answer_however_it_is_stored(tmp_path: Path, how: str, engine: Any, prompt: Any) -> None:
    rows, columns = STORED[how]
    with (
        segment(stored(tmp_path, "north up"), prompt, engine=engine()) as wanted,
        segment(stored(tmp_path, how), prompt, engine=engine()) as found,
    ):
        assert wanted.mask()[10:18, 14:26].all(), "the roof in the upper left"
        np.testing.assert_array_equal(found.mask(), wanted.mask()[rows, columns])
        np.testing.assert_allclose(found.probability(), wanted.probability()[rows, columns])
        assert ground(found) == ground(wanted)
        with rasterio.open(tmp_path / f"{how}.tif") as source:
            assert (found.transform, found.width) == (source.transform, source.width)
        assert any("sees it north up" in remark for remark in found.remarks) == (how != "north up")


@pytest.mark.parametrize("how", STORED)
def test_what_the_engine_sees(tmp_path: Path, how: str) -> None:
    engine = Upper()
    with segment(stored(tmp_path, how), "roofs", engine=engine):
        np.testing.assert_array_equal(engine.seen[0][..., 0], picture())


@pytest.mark.parametrize("how", STORED)
def test_notes_lie_on_the_scene(tmp_path: Path, how: str) -> None:
    from terraprompt.flow.session import Session
    from terraprompt.raster import Tile

    rows, columns = STORED[how]
    with open_scene(stored(tmp_path, how)) as scene:
        session = Session(Upper(), scene)
        tile = Tile(0, 0, WIDTH, HEIGHT)
        target = session.predict([tile], session.encode([tile]), [Prompt("roofs")])[0].notes["target"]
    roof = picture()[rows, columns] == 240
    ys, xs = np.nonzero(roof)
    assert target["boxes"] == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
    x, y, label = target["points"][0]
    assert roof[int(y), int(x)]
    assert label == 1
    x0, y0, x1, y1 = map(int, target["route"]["box"])
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = RunLengths.of(target["route"]["mask"]).load()
    assert mask[roof].mean() > 0.5
    assert mask[~roof].mean() < 0.02
    np.testing.assert_array_equal(target["map"]["cells"], np.array([[1, 2], [3, 4]])[rows, columns])


@pytest.mark.parametrize("how", STORED)
def test_pictures_for_people_are_north_up(tmp_path: Path, how: str) -> None:
    from PIL import Image

    for name in ("north up", how):
        with segment(stored(tmp_path, name), "roofs", engine=BoxFilterEngine()) as result:
            result.save_picture(tmp_path / f"{name}.png", overwrite=True)
    with Image.open(tmp_path / "north up.png") as wanted, Image.open(tmp_path / f"{how}.png") as found:
        size = (0, 0, min(wanted.width, found.width), HEIGHT * 8)
        a, b = (np.asarray(image.convert("RGB").crop(size), int) for image in (wanted, found))
    assert np.abs(a - b).mean() < 4


@pytest.mark.parametrize(
    ("crs", "numbers", "flip"),
    [
        (None, (1, 0, 0, 1), (False, False)),
        ("EPSG:32633", (1, 0, 0, -1), (False, False)),
        ("EPSG:32633", (1, 0, 0, 1), (False, True)),
        ("EPSG:4326", (-1, 0, 0, -1), (True, False)),
        ("EPSG:32633", (-1, 0, 0, 1), (False, False)),
        ("EPSG:32633", (0.8, 0.5, 0.5, -0.8), (False, False)),
        ("EPSG:32633", (0.8, -0.5, 0.5, 0.8), (False, True)),
        ("EPSG:32633", (0, 1, 1, 0), (False, False)),
        ("EPSG:32633", (0, -1, -1, 0), (False, False)),
        ("EPSG:32633", (0, 1, -1, 0), (False, True)),
        ("EPSG:2053", (-1, 0, 0, 1), (False, False)),
        ("EPSG:2053", (-1, 0, 0, -1), (False, True)),
        ("EPSG:3413", (1, 0, 0, -1), (False, False)),
        ("EPSG:3031", (1, 0, 0, -1), (False, False)),
        ('LOCAL_CS["Site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]', (1, 0, 0, 1), (False, True)),
    ],
)
def test_which_way_up(crs: Any, numbers: tuple[float, ...], flip: tuple[bool, bool]) -> None:
    a, b, d, e = numbers
    found = north_up(crs, Affine(a, b, 10, d, e, 20))
    assert (found.left_right, found.up_down) == flip


def test_a_raster_without_placement_is_not_turned_over() -> None:
    assert not north_up("EPSG:32633", Affine.identity())
    assert north_up("EPSG:32633", Affine(1, 0, 500_000, 0, 1, 5_400_000))
