"""Small made-up copies of public data sets, in their own folders and codings: ground drawn once, coded many ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin

from terraprompt.forge.tables import load_table

SIDE = 560
Ground = NDArray[np.int64]


def ground(seed: int, count: int, side: int = SIDE) -> Ground:
    """int (side, side): 0 = background, 1 … count = kinds of things, each as a few separate blobs."""
    rng = np.random.default_rng(seed)
    out = np.zeros((side, side), np.int64)
    axis = np.arange(side)
    for kind in range(1, count + 1):
        for _ in range(int(rng.integers(1, 4))):
            x, y = rng.uniform(0.08, 0.92, 2) * side
            a, b = rng.uniform(0.05, 0.12, 2) * side
            rows, columns = np.abs(axis - y) <= b, np.abs(axis - x) <= a
            part = np.ix_(rows, columns)
            inside = np.ones((rows.sum(), columns.sum()), np.bool_)
            if rng.random() < 0.5:
                inside = ((axis[columns] - x) / a) ** 2 + ((axis[rows, None] - y) / b) ** 2 <= 1
            drawn = out[part]
            if (drawn[inside] == 0).mean() > 0.7:
                out[part] = np.where(inside & (drawn == 0), kind, drawn)
    return out


def picture(drawn: Ground, seed: int) -> NDArray[np.uint8]:
    """RGB whose colours follow the ground, with noise that differs from image to image."""
    rng = np.random.default_rng(seed + 1000)
    colours = rng.integers(30, 220, (int(drawn.max()) + 1, 3))
    return np.clip(colours[drawn] + rng.normal(0, 14, (*drawn.shape, 3)), 0, 255).astype(np.uint8)


def save(path: Path, pixels: NDArray[np.generic], **options: object) -> Path:
    """A PNG, JPEG or TIFF; rasterio writes TIFFs, with ``crs`` and ``transform`` if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".tif":
        Image.fromarray(pixels).save(path, **({"compress_level": 1} if path.suffix == ".png" else {}))
        return path
    bands = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    height, width = bands.shape[1:]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=len(bands),
        dtype=bands.dtype,
        tiled=True,
        **({"alpha": "NO"} if len(bands) > 3 else {}),  # GDAL takes a fourth band for alpha unless told otherwise
        compress="deflate",
        zlevel=1,
        **options,
    ) as file:
        file.write(bands)
    return path


def on_ground(number: int, gsd: float, side: int = SIDE) -> dict[str, object]:
    """Where an image of a georeferenced set lies: side by side, 1 km apart."""
    return {"crs": "EPSG:32633", "transform": from_origin(500_000 + 1000 * number, 5_400_000, gsd, gsd)}


def codes(name: str) -> list[int]:
    """Codes of a source that stand for a category."""
    return [row.code for row in load_table(name).classes if row.code is not None and row.category is not None]


def indexed(name: str, drawn: Ground) -> NDArray[np.uint8]:
    """The ground in the codes of an index table; background is the first ignored code."""
    table = load_table(name)
    ignored = next(row.code for row in table.classes if row.ignore)
    lookup = np.array([ignored, *codes(name)], np.uint8)
    return lookup[drawn]


def coloured(name: str, drawn: Ground) -> NDArray[np.uint8]:
    """The ground in the colours of a palette table; background is the first ignored colour."""
    table = load_table(name)
    ignored = next(row.colour for row in table.classes if row.ignore)
    lookup = [row.colour for row in table.classes if row.category is not None]
    return np.array([ignored, *lookup], np.uint8)[drawn]


def loveda(root: Path, images: int = 3, seed: int = 1) -> Path:
    for i in range(images):
        drawn = ground(seed + i, 6)
        folder = root / "Train" / ("Urban" if i % 2 else "Rural")
        save(folder / "images_png" / f"{i}.png", picture(drawn, seed + i))
        save(folder / "masks_png" / f"{i}.png", indexed("loveda", drawn))
    return root


def deepglobe(root: Path, images: int = 3, seed: int = 20) -> Path:
    for i in range(images):
        drawn = ground(seed + i, 6)
        save(root / "train" / f"{i}_sat.jpg", picture(drawn, seed + i))
        # made by JPEG once: values near 0 and 255, not on them
        mask = coloured("deepglobe_land_cover", drawn).astype(np.int64)
        rough = np.clip(mask + np.random.default_rng(seed).integers(-20, 21, mask.shape), 0, 255)
        save(root / "train" / f"{i}_mask.png", rough.astype(np.uint8))
    return root


def potsdam(root: Path, images: int = 2, seed: int = 40) -> Path:
    for i in range(images):
        drawn = ground(seed + i, 5)
        rgb = picture(drawn, seed + i)
        rgbir = np.concatenate([rgb, rgb[..., :1]], axis=2)
        where = on_ground(i, 0.05)
        save(root / "4_Ortho_RGBIR" / f"top_potsdam_2_{10 + i}_RGBIR.tif", rgbir, **where)
        save(root / "5_Labels_all" / f"top_potsdam_2_{10 + i}_label.tif", coloured("potsdam", drawn), **where)
    return root


def flair(root: Path, images: int = 4, seed: int = 60) -> Path:
    for i in range(images):
        drawn = ground(seed + i, 18, 512)
        rgb = picture(drawn, seed + i)
        five = np.concatenate([rgb, rgb[..., :2]], axis=2)
        where, area = on_ground(i, 0.2, 512), root / "flair_aerial_train" / "D004_2021" / f"Z{i // 2}_NN"
        label = root / "flair_labels_train" / "D004_2021" / f"Z{i // 2}_NN"
        save(area / "img" / f"IMG_{i:06d}.tif", five, **where)
        save(label / "msk" / f"MSK_{i:06d}.tif", indexed("flair", drawn), **where)
    return root


def gid15(root: Path, images: int = 2, seed: int = 80) -> Path:
    for i in range(images):
        drawn = ground(seed + i, 15)
        save(root / "GID" / "img_dir" / "train" / f"scene{i}.tif", picture(drawn, seed + i))
        save(root / "GID" / "ann_dir" / "train" / f"scene{i}_15label.png", indexed("gid15", drawn))
    return root


def minifrance(root: Path, images: int = 2, seed: int = 100) -> Path:
    for i in range(images):
        drawn = ground(seed + i, 14)
        where = on_ground(i, 0.5)
        save(root / "labeled_train" / "Nice" / "BDORTHO" / f"06-{i}.tif", picture(drawn, seed + i), **where)
        save(
            root / "labeled_train" / "Nice" / "UrbanAtlas" / f"06-{i}_UA2012.tif", indexed("minifrance", drawn), **where
        )
    return root


def chesapeake(root: Path, images: int = 2, seed: int = 120) -> Path:
    for i in range(images):
        drawn = ground(seed + i, 6)
        rgb = picture(drawn, seed + i)
        folder = root / "md_1m_2013_extended-debuffered-train_tiles"
        where = on_ground(i, 1.0)
        save(folder / f"m_{i}_naip-new.tif", np.concatenate([rgb, rgb[..., :1]], axis=2), **where)
        save(folder / f"m_{i}_lc.tif", indexed("chesapeake", drawn), **where)
    return root


def five_billion_pixels(root: Path, images: int = 2, seed: int = 140) -> Path:
    for i in range(images):
        drawn = ground(seed + i, 24)
        rgb = picture(drawn, seed + i).astype(np.uint16) * 40  # 16 bits: brought to 8 by a stretch
        save(root / "Image__8bit_NirRGB" / f"GF2_{i}.tif", np.concatenate([rgb[..., :1], rgb], axis=2))
        save(root / "Annotation__index" / f"GF2_{i}_24label.png", indexed("five_billion_pixels", drawn))
    return root


def _boxes(drawn: Ground, words: list[str], seed: int) -> list[tuple[str, list[tuple[float, float]]]]:
    """Upright or turned boxes of things, with their words."""
    rng = np.random.default_rng(seed)
    out = []
    for kind in range(1, int(drawn.max()) + 1):
        rows, columns = np.nonzero(drawn == kind)
        if rows.size == 0:
            continue
        x, y = float(columns.mean()), float(rows.mean())
        a, b, turn = 45.0, 28.0, float(rng.uniform(0, np.pi))
        corners = [(a, b), (-a, b), (-a, -b), (a, -b)]
        turned = [
            (x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)) for u, v in corners
        ]
        out.append((words[kind - 1], [(round(u, 1), round(v, 1)) for u, v in turned]))
    return out


def dota(root: Path, images: int = 2, seed: int = 160) -> Path:
    words = [row.label for row in load_table("dota").classes]
    for i in range(images):
        drawn = ground(seed + i, 8)
        save(root / "train" / "images" / f"P{i:04d}.png", picture(drawn, seed + i))
        label = root / "train" / "labelTxt" / f"P{i:04d}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        lines = ["imagesource:GoogleEarth", "gsd:0.14"]
        for word, corners in _boxes(drawn, words, seed):
            lines.append(" ".join(f"{v:.1f}" for point in corners for v in point) + f" {word} 0")
        label.write_text("\n".join(lines) + "\n")
    return root


def dior(root: Path, images: int = 2, seed: int = 180) -> Path:
    words = [row.label for row in load_table("dior").classes]
    for i in range(images):
        drawn = ground(seed + i, 8)
        save(root / "JPEGImages-trainval" / f"{i:05d}.jpg", picture(drawn, seed + i))
        things = ""
        for word, corners in _boxes(drawn, words, seed):
            xs, ys = [x for x, _ in corners], [y for _, y in corners]
            box = f"<xmin>{min(xs)}</xmin><ymin>{min(ys)}</ymin><xmax>{max(xs)}</xmax><ymax>{max(ys)}</ymax>"
            things += f"<object><name>{word}</name><bndbox>{box}</bndbox></object>"
        label = root / "Annotations" / "Horizontal Bounding Boxes" / f"{i:05d}.xml"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"<annotation>{things}</annotation>")
    return root


def fair1m(root: Path, images: int = 2, seed: int = 200) -> Path:
    words = [row.label for row in load_table("fair1m").classes]
    for i in range(images):
        drawn = ground(seed + i, 8)
        save(root / "train" / "part1" / "images" / f"{i}.tif", picture(drawn, seed + i))
        things = ""
        for word, corners in _boxes(drawn, words, seed):
            points = "".join(f"<point>{x},{y}</point>" for x, y in [*corners, corners[0]])
            result = f"<possibleresult><name>{word}</name></possibleresult>"
            things += f"<object>{result}<points>{points}</points></object>"
        label = root / "train" / "part1" / "labelXml" / f"{i}.xml"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"<annotation><objects>{things}</objects></annotation>")
    return root


def polygons(root: Path, images: int = 2, seed: int = 220) -> Path:
    """Not a public set: GeoTIFFs with a GeoJSON each in longitude and latitude, and the table for it."""
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    names = ["building", "lake", "forest"]
    for i in range(images):
        drawn = ground(seed + i, 3)
        where = on_ground(i, 0.5)
        save(root / "img" / f"{i}.tif", picture(drawn, seed + i), **where)
        features = [
            {
                "type": "Feature",
                "properties": {"kind": names[int(value) - 1]},
                "geometry": transform_geom("EPSG:32633", "EPSG:4326", shape, precision=9),
            }
            for shape, value in shapes(drawn.astype(np.uint8), mask=drawn > 0, transform=where["transform"])
        ]
        (root / "vec").mkdir(exist_ok=True)
        (root / "vec" / f"{i}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    rows = "".join(f'[[class]]\nlabel = "{name}"\ncategory = "{name}"\n' for name in names)
    (root / "own.toml").write_text(
        'title = "Own"\nlicence = "ours"\ncodec = "polygons"\nconfirmed = true\n'
        '[layout]\nimage = "img/{stem}.tif"\nlabel = "vec/{stem}.geojson"\npolygons = "vector"\nattribute = "kind"\n'
        + rows
    )
    return root


MAKERS: dict[str, Callable[..., Path]] = {
    "loveda": loveda,
    "deepglobe_land_cover": deepglobe,
    "potsdam": potsdam,
    "flair": flair,
    "gid15": gid15,
    "minifrance": minifrance,
    "chesapeake": chesapeake,
    "five_billion_pixels": five_billion_pixels,
}
BOXES: dict[str, Callable[..., Path]] = {"dota": dota, "dior": dior, "fair1m": fair1m}


def recipe_text(sources: list[dict[str, object]], **settings: object) -> str:
    """YAML of a recipe; JSON is YAML."""
    return json.dumps({"name": "made-up", "sources": sources, **settings})
