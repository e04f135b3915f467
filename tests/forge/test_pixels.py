"""Forged patches hold the pixels that an engine is shown of the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from codings import recipe_text
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp

from flow_engines import BoxFilterEngine
from terraprompt.flow.session import Session
from terraprompt.forge import forge, read_recipe
from terraprompt.forge.patches import decode_mask
from terraprompt.forge.pixels import Image as PatchImage
from terraprompt.forge.stages import Parts
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene

SIDE = 128
RNG = np.random.default_rng(4)
SMOOTH = np.clip(RNG.integers(0, 60, (SIDE, SIDE, 3)) + np.arange(SIDE)[None, :, None] + [20, 40, 60], 0, 255)
RGB = SMOOTH.astype(np.uint8)


def write(path: Path, bands: NDArray[np.generic], colours: list[ColorInterp] | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"count": len(bands), "height": SIDE, "width": SIDE, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
        file.write(bands)
        if colours is not None:
            file.colorinterp = colours
    return path


def tagged_bgr(path: Path) -> Path:
    colours = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    return write(path, np.moveaxis(RGB[..., ::-1], -1, 0), colours, photometric="minisblack")


def with_alpha(path: Path) -> Path:
    alpha = np.full((1, SIDE, SIDE), 255, np.uint8)
    alpha[:, :40, :50] = 0
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    return write(path, np.concatenate([np.moveaxis(RGB, -1, 0), alpha]), colours)


def deep_with_nodata(path: Path) -> Path:
    values = np.moveaxis(RGB, -1, 0).astype(np.uint16) * 13 + 100
    values[:, 90:, 30:70] = 0
    return write(path, values, nodata=0)


def plain(path: Path) -> Path:
    return write(path, np.moveaxis(RGB, -1, 0), photometric="rgb")


def grey(path: Path) -> Path:
    return write(path, RGB[None, ..., 1])


def shown_to_an_engine(path: Path) -> NDArray[np.uint8]:
    engine = BoxFilterEngine(SIDE, 0)
    seen: list[NDArray[np.uint8]] = []
    encode = engine.encode
    engine.encode = lambda images: [seen.extend(np.array(image) for image in images), encode(images)][1]  # type: ignore[method-assign]
    with open_scene(path) as scene:
        Session(engine, scene).segment(Prompt(text="buildings"))
    (image,) = seen
    return image


def forged(folder: Path, suffix: str) -> tuple[NDArray[np.uint8], dict[str, object]]:
    """The exported picture of the one patch, and its row."""
    label = np.zeros((SIDE, SIDE), np.uint8)
    label[30:100, 20:90] = 1
    (folder / "lab").mkdir()
    Image.fromarray(label).save(folder / "lab" / "a.png")
    (folder / "own.toml").write_text(
        'title = "Own"\nlicence = "ours"\ncodec = "index"\nconfirmed = true\n'
        f'[layout]\nimage = "img/{{stem}}{suffix}"\nlabel = "lab/{{stem}}.png"\n'
        '[[class]]\ncode = 0\nlabel = "none"\nignore = true\n'
        '[[class]]\ncode = 1\nlabel = "lake"\ncategory = "lake"\n'
    )
    source = {"table": str(folder / "own.toml"), "root": str(folder)}
    (folder / "recipe.yaml").write_text(recipe_text([source], patches={"size": SIDE, "stride": SIDE}))
    forge(read_recipe(folder / "recipe.yaml"), folder / "out")
    (patch,) = Parts(folder / "out" / "work" / "patches").rows()
    (picture,) = (folder / "out" / "dataset" / "images").rglob("*.png")
    return np.asarray(Image.open(picture)), patch


@pytest.mark.parametrize("make", [tagged_bgr, with_alpha, deep_with_nodata, grey, plain])
def test_patches_hold_what_an_engine_is_shown(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "img" / "a.tif")
    pixels, _ = forged(tmp_path, ".tif")
    assert np.array_equal(pixels, shown_to_an_engine(path))


@pytest.mark.parametrize("make", [with_alpha, deep_with_nodata])
def test_no_category_where_the_image_has_no_data(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "img" / "a.tif")
    _, patch = forged(tmp_path, ".tif")
    with open_scene(path) as scene:
        valid = scene.read(0, 0, SIDE, SIDE)[1]
    mask = decode_mask(patch["mask"], SIDE, SIDE)  # type: ignore[arg-type]
    inside = np.zeros((SIDE, SIDE), bool)
    inside[30:100, 20:90] = True
    assert not valid[inside].all()
    assert np.array_equal(mask > 0, inside & valid)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_plain_pictures_stay_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "img" / f"a{suffix}"
    path.parent.mkdir()
    plain(path) if suffix == ".tif" else Image.fromarray(RGB).save(path)
    with rasterio.open(path) as file:
        stored = np.moveaxis(file.read(), 0, -1)
    assert np.array_equal(forged(tmp_path, suffix)[0], stored)


def test_an_image_without_valid_pixels_gives_no_patch_and_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((3, SIDE, SIDE), np.uint16), nodata=0)
    with PatchImage(path) as image:
        assert image.has_gaps
        assert not image.window(0, 0, SIDE, SIDE).any()
        rows = np.empty((4, 64, SIDE), np.uint8)
        image.rows(0, 64, rows)
        assert not rows[3].any()
