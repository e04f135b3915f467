"""The renderer's one sentence: site -> truth -> paint -> light -> picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import Polygon, box

from terraprompt.errors import ConfigError
from terraprompt_synthetic import light
from terraprompt_synthetic.canvas import MaskWriter, Sun
from terraprompt_synthetic.country import build_lakeland, build_rural
from terraprompt_synthetic.paint import paint_things
from terraprompt_synthetic.site import Colour, Layer, Material, Site, Thing, pick, vary
from terraprompt_synthetic.town import DEMO, TOWNS, build_town
from terraprompt_synthetic.truth import STYLES, RenderedObject, RenderedScene

__all__ = ["dataset", "demo_scene", "render"]

# Ground tones by style: (colour, material, weight): temperate, dry, tropical earth, tundra.
_GROUNDS: dict[str, tuple[tuple[Colour, Material, float], ...]] = {
    "suburb": (
        ((104, 118, 72), Material.GRASS, 3),
        ((142, 132, 98), Material.DRY, 1),
        ((92, 110, 64), Material.GRASS, 2),
    ),
    "informal": (
        ((176, 144, 110), Material.SOIL, 3),
        ((158, 118, 88), Material.SOIL, 2),
        ((166, 156, 128), Material.SOIL, 1.5),
    ),
    "industrial": (((120, 124, 88), Material.GRASS, 2), ((150, 140, 112), Material.DRY, 1.5)),
    "rural": (((100, 118, 66), Material.GRASS, 3), ((144, 136, 92), Material.DRY, 1)),
    "lakes": (
        ((104, 106, 70), Material.GRASS, 2),
        ((122, 108, 82), Material.DRY, 1.5),
        ((88, 104, 62), Material.GRASS, 1),
    ),
    "downtown": (((146, 144, 138), Material.CONCRETE, 3), ((104, 116, 76), Material.GRASS, 1)),
}
_GROUNDS["demo"] = _GROUNDS["suburb"][:1]
_DEMO, _DEMO_SEED = "demo", 2
_MAX_PIXELS = 16_384 * 16_384


def render(
    seed: int,
    *,
    width: int = 512,
    height: int = 512,
    gsd_m: float = 0.3,
    style: str | None = None,
    nodata_corner: bool = False,
) -> RenderedScene:
    """Render a scene.

    Args:
        seed: 0 or more; the same seed and arguments give the same bytes.
        width: in pixels, at least 16.
        height: in pixels, at least 16.
        gsd_m: size of a pixel in metres, 0.05 to 5.
        style: one of :data:`STYLES`; None draws one by the seed.
        nodata_corner: leave one corner without data (all bands 0), as at the edge of a turned mosaic.

    Raises:
        ConfigError: an argument is out of range.
    """
    return _render(seed, width, height, gsd_m, _checked(seed, width, height, gsd_m, style), nodata_corner)


def _render(seed: int, width: int, height: int, gsd_m: float, style: str, nodata_corner: bool = False) -> RenderedScene:
    site = _build(seed, width * gsd_m, height * gsd_m, style)
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    sun = Sun(rng.uniform(0.1, 0.9) * math.pi, math.radians(rng.uniform(30, 62)))
    things = _in_order(site)
    region = _footprint(rng, width, height, nodata_corner)
    truth = _Truth(things, region, (height, width), gsd_m)

    shape = (height, width)
    canvas = MaskWriter(shape, gsd_m, 4 if width * height <= 1_600_000 else 2, site.ground, site.ground_material)
    paint_things(canvas, things, sun)
    rgb = canvas.reduced()
    material = np.asarray(canvas.material)
    clump = light.texture(rgb, material, gsd_m, rng)
    light.till(rgb, truth.things, truth.top, gsd_m, clump, seed)
    light.water(rgb, truth.things, truth.top, gsd_m, seed)
    relief = light.raise_crowns(truth.things, truth.top, gsd_m, seed)
    surface = light.heights(truth.things, truth.top, relief)
    light.shade_crowns(rgb, relief, truth.is_any("tree", "forest"), clump, gsd_m, sun, rng)
    picture = light.expose(rgb, light.cast_shadows(surface, gsd_m, sun), surface, gsd_m, rng)
    if nodata_corner:
        from rasterio.features import rasterize

        valid = rasterize([(region, 1)], out_shape=shape, dtype="uint8")
        picture = np.where(valid[..., None] == 1, np.maximum(picture, 1), 0).astype(np.uint8)
    crs, transform = _place(seed, gsd_m)
    return RenderedScene(
        picture,
        truth.objects(gsd_m),
        gsd_m,
        seed,
        style,
        transform,
        crs,
        truth.top,
        nodata=0 if nodata_corner else None,
    )


def dataset(
    count: int, seed: int, *, gsd_range: tuple[float, float] = (0.1, 2.0), size: int = 512
) -> Iterator[RenderedScene]:
    """Scenes of all styles, in turn, with pixel sizes drawn evenly on a logarithmic scale from ``gsd_range`` metres.

    Raises:
        ConfigError: an argument is out of range.
    """
    low, high = gsd_range
    if not _whole(count) or count < 0 or not 0.05 <= low <= high <= 5:
        raise ConfigError(
            "A data set needs a count of at least 0 and 0.05 <= low <= high <= 5 metres.",
            received=(count, gsd_range),
        )
    rng = np.random.Generator(np.random.PCG64([seed, 3]))
    for i in range(count):
        gsd = math.exp(rng.uniform(math.log(low), math.log(high)))
        yield render(
            int(rng.integers(2**31)),
            width=size,
            height=size,
            gsd_m=round(gsd, 3),
            style=STYLES[i % len(STYLES)],
        )


def demo_scene(path: str | Path, *, overwrite: bool = True) -> RenderedScene:
    """The scene of the demo, written as a GeoTIFF: a suburb with a lake, solar panels and storage tanks.

    ``demo_scene(path).example("building")`` gives a point on and a box round one building in map coordinates.
    """
    scene = _render(_DEMO_SEED, 1536, 1024, 0.25, _DEMO)
    scene.write(path, overwrite=overwrite)
    return scene


def _checked(seed: int, width: int, height: int, gsd_m: float, style: str | None) -> str:
    if not _whole(seed) or seed < 0:
        raise ConfigError("A seed is a whole number, 0 or more.", received=seed)
    if not (_whole(width) and _whole(height)) or width < 16 or height < 16 or width * height > _MAX_PIXELS:
        raise ConfigError(
            "A scene is 16 x 16 pixels at least and 16384 x 16384 at most.", received=f"{width} x {height}"
        )
    if not 0.05 <= gsd_m <= 5:
        raise ConfigError("The pixel size must be 0.05 to 5 metres.", received=gsd_m, hint="Give gsd_m in metres.")
    if style is None:
        return pick(np.random.Generator(np.random.PCG64([seed, 0])), STYLES)
    if style not in STYLES:
        raise ConfigError("There is no such style.", received=style, hint=f"Known: {', '.join(STYLES)}.")
    return style


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _build(seed: int, width_m: float, height_m: float, style: str) -> Site:
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    site = Site(width_m, height_m, rng)
    options = _GROUNDS[style]
    tone, material, _ = pick(rng, options, [o[2] for o in options])
    site.ground, site.ground_material = vary(rng, tone, 0.1, 6), material
    if style == "rural":
        build_rural(site)
    elif style == "lakes":
        build_lakeland(site)
    else:
        build_town(site, DEMO if style == _DEMO else TOWNS[style])
    return site


def _in_order(site: Site) -> list[Thing]:
    """Painter's order, without what lies wholly outside the scene."""
    bounds = (
        shapely.bounds(np.array([t.polygon for t in site.things], dtype=object)) if site.things else np.zeros((0, 4))
    )
    inside = (bounds[:, 2] > 0) & (bounds[:, 3] > 0) & (bounds[:, 0] < site.width) & (bounds[:, 1] < site.height)
    return sorted((t for t, near in zip(site.things, inside, strict=True) if near), key=lambda t: t.layer)


def _footprint(rng: np.random.Generator, width: int, height: int, nodata_corner: bool) -> Polygon:
    """The part of the picture with data, in pixels."""
    whole = box(0, 0, width, height)
    if not nodata_corner:
        return whole
    a, b = rng.uniform(0.2, 0.6) * width, rng.uniform(0.2, 0.6) * height
    x, y = pick(rng, ((0, 0), (width, 0), (width, height), (0, height)))
    corner = Polygon([(x, y), (x + (a if x == 0 else -a), y), (x, y + (b if y == 0 else -b))])
    return whole.difference(corner)


def _place(seed: int, gsd_m: float) -> tuple[str, Affine]:
    rng = np.random.Generator(np.random.PCG64([seed, 4]))
    north = rng.random() < 0.7
    crs = f"EPSG:{(32600 if north else 32700) + int(rng.integers(1, 61))}"
    east, up = round(rng.uniform(3e5, 7e5)), round(rng.uniform(1e6, 6e6) if north else rng.uniform(6e6, 9e6))
    return crs, Affine(gsd_m, 0.0, float(east), 0.0, -gsd_m, float(up))


class _Truth:
    """The categorised things as polygons in pixels, clipped, in painter's order, and the map of what is on top."""

    def __init__(self, things: list[Thing], region: Polygon, shape: tuple[int, int], gsd_m: float) -> None:
        from rasterio.features import rasterize

        self.shape = shape
        kept = [t for t in things if t.category is not None]
        polygons = np.array([t.polygon for t in kept], dtype=object)
        polygons = np.asarray(shapely.transform(polygons, lambda xy: xy / gsd_m)) if kept else polygons
        self._cut_base(things, kept, polygons, gsd_m)
        shapely.prepare(region)
        whole = np.asarray(shapely.contains_properly(region, polygons) if kept else [], bool)
        parts: list[tuple[Polygon, Thing, bool]] = []
        for polygon, thing, inside in zip(polygons, kept, whole, strict=True):
            clipped = polygon if inside else polygon.intersection(region)
            parts += [
                (p, thing, not inside)
                for p in getattr(clipped, "geoms", [clipped])
                if p.geom_type == "Polygon" and p.area > 0.05
            ]
        top = np.zeros(shape, np.int32)
        if parts:
            rasterize([(p, i) for i, (p, _, _) in enumerate(parts, 1)], out=top)
        seen = np.bincount(top.ravel(), minlength=len(parts) + 1)[1:]
        # A roof wholly under its panels is still there.
        carried = {
            id(thing.parent) for (_, thing, _), n in zip(parts, seen, strict=True) if n and thing.parent is not None
        }
        alive = [n > 0 or id(thing) in carried for (_, thing, _), n in zip(parts, seen, strict=True)]
        renumber = np.concatenate([[0], np.where(alive, np.cumsum(alive), 0)]).astype(np.int32)
        self.top: NDArray[np.int32] = renumber[top]
        self.parts = [part for part, live in zip(parts, alive, strict=True) if live]
        self.things = [thing for _, thing, _ in self.parts]
        self.seen = seen[np.asarray(alive, bool)] if parts else seen

    @staticmethod
    def _cut_base(things: list[Thing], kept: list[Thing], polygons: NDArray[np.object_], gsd_m: float) -> None:
        """Take lawns, pavements and the like off the fields and woods that they lie on; in place."""
        covers = [t.polygon for t in things if t.category is None]
        base = [i for i, t in enumerate(kept) if t.layer == Layer.BASE]
        if not covers or not base:
            return
        scaled = shapely.transform(np.array(covers, dtype=object), lambda xy: xy / gsd_m)
        tree = shapely.STRtree(scaled)
        for i in base:
            over = tree.query(polygons[i], predicate="intersects")
            if over.size:
                polygons[i] = polygons[i].difference(shapely.union_all(scaled[over]))

    def is_any(self, *categories: str) -> NDArray[np.bool_]:
        """bool (H, W): where one of the categories is on top."""
        table = np.array([False, *(t.category in categories for t in self.things)])
        return np.asarray(table[self.top])

    def objects(self, gsd_m: float) -> tuple[RenderedObject, ...]:
        """The public record of each thing."""
        home = {id(thing): i for i, thing in enumerate(self.things)}
        parents = [home.get(id(t.parent)) if t.parent is not None else None for t in self.things]
        own = self.seen.astype(np.float64)
        for i, parent in enumerate(parents):
            if parent is not None:
                own[parent] += self.seen[i]
        made = []
        for i, (polygon, thing, cut) in enumerate(self.parts):
            attributes = {
                "colour": thing.colour,
                "kind": thing.kind,
                "area_m2": polygon.area * gsd_m**2,
                "height_m": float(thing.height),
                "visible": float(min(1.0, own[i] / polygon.area)),
                "cut": cut,
            }
            made.append(RenderedObject(str(thing.category), polygon, attributes, parents[i]))
        return tuple(made)
