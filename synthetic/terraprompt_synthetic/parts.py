"""Single things: a house with its roof, a vehicle, a tree, a tank, a court, a row of panels, a pool."""

from __future__ import annotations

import math

import numpy as np
from shapely.geometry import Polygon
from shapely.ops import unary_union

from terraprompt_synthetic.noise import ring
from terraprompt_synthetic.site import (
    Colour,
    Layer,
    Material,
    Paint,
    Points,
    Rect,
    Site,
    Thing,
    pick,
    vary,
)

__all__ = [
    "BIG_ROOFS",
    "HOUSE_ROOFS",
    "TIN_ROOFS",
    "add_building",
    "add_court",
    "add_parking",
    "add_pool",
    "add_roof_panels",
    "add_solar_rows",
    "add_surface",
    "add_tank",
    "add_tree",
    "add_vehicle",
    "draw_paint",
]

HOUSE_ROOFS = (
    Paint("red", (158, 84, 62), 3.0),
    Paint("brown", (116, 90, 72), 2.0),
    Paint("grey", (126, 126, 128), 2.5),
    Paint("grey", (84, 86, 92), 2.0),
    Paint("white", (216, 214, 208), 0.7),
    Paint("blue", (92, 118, 152), 0.5),
)
BIG_ROOFS = (
    Paint("white", (222, 222, 218), 2.2),
    Paint("grey", (158, 158, 154), 3.0),
    Paint("grey", (104, 102, 100), 1.6),
    Paint("blue", (116, 146, 176), 1.0),
    Paint("red", (150, 92, 78), 0.6),
    Paint("brown", (150, 134, 116), 0.8),
)
TIN_ROOFS = (
    Paint("grey", (168, 168, 164), 4.0),
    Paint("grey", (132, 130, 128), 2.0),
    Paint("brown", (132, 94, 72), 3.5),
    Paint("white", (208, 208, 202), 1.2),
    Paint("blue", (112, 140, 172), 0.8),
    Paint("red", (148, 70, 58), 0.7),
)
CARS = (
    Paint("white", (228, 228, 226), 3.0),
    Paint("grey", (150, 153, 157), 3.0),
    Paint("black", (38, 39, 43), 2.5),
    Paint("red", (150, 36, 34), 1.0),
    Paint("blue", (48, 74, 128), 1.0),
)
TRUCKS = (
    Paint("white", (226, 226, 222), 4.0),
    Paint("grey", (170, 170, 168), 1.5),
    Paint("red", (150, 48, 40), 0.6),
    Paint("blue", (64, 92, 146), 0.8),
)
COURTS: dict[str, tuple[float, float, tuple[Paint, ...]]] = {
    "tennis": (
        36.5,
        18.3,
        (Paint("blue", (78, 108, 140)), Paint("green", (84, 122, 92)), Paint("red", (156, 92, 70))),
    ),
    "basketball": (
        28.0,
        15.0,
        (Paint("grey", (128, 130, 132)), Paint("red", (150, 84, 70)), Paint("blue", (86, 110, 146))),
    ),
    "football": (105.0, 68.0, (Paint("green", (88, 124, 66)), Paint("green", (98, 130, 76)))),
}


def draw_paint(rng: np.random.Generator, palette: tuple[Paint, ...]) -> tuple[str, Colour]:
    """A name and a slightly varied colour of the palette."""
    paint = pick(rng, palette, [p.weight for p in palette])
    return paint.name, vary(rng, paint.rgb)


def add_surface(
    site: Site, polygon: Polygon, rgb: Colour, material: Material, *, look: str = "plain", **more: object
) -> Thing:
    """Ground without a category: lawn, yard, driveway, pavement."""
    return site.add(Thing(None, polygon, Layer.SURFACE, look, rgb, material, **more))  # type: ignore[arg-type]


def add_building(
    site: Site,
    rect: Rect,
    *,
    roof: str,
    palette: tuple[Paint, ...] = HOUSE_ROOFS,
    height: float = 4.5,
    wing: bool = False,
    kind: str = "house",
    claim: float = 0.6,
) -> Thing:
    """A building on ``rect`` with a "gable", "hip", "flat" or "tin" roof, and a wing across it if asked."""
    rng = site.rng
    if rect.width > rect.length:
        rect = Rect(rect.x, rect.y, rect.angle + math.pi / 2, rect.width, rect.length)
    rects: tuple[Rect, ...] = (rect,)
    if wing:
        across = rect.width * rng.uniform(0.55, 0.8)
        reach = rect.width * rng.uniform(0.4, 0.75)
        side = 1 if rng.random() < 0.5 else -1
        along = (rect.length - across) / 2 * (1 if rng.random() < 0.5 else -1)
        # The wing runs from the ridge of the main part outwards, so that the two roofs meet in a valley.
        arm = rect.part(along, side * (rect.width / 2 + reach) / 2, rect.width / 2 + reach, across, side * math.pi / 2)
        wing = site.free(arm, 0.4)
        rects = (arm, rect) if wing else rects
    colour, rgb = draw_paint(rng, palette)
    material = {"flat": Material.FLAT_ROOF, "tin": Material.TIN}.get(roof, Material.TILE)
    polygon = rect.polygon() if not wing else unary_union([r.polygon() for r in rects])
    return site.add(
        Thing(
            "building",
            polygon,
            Layer.STRUCTURE,
            f"roof-{roof}",
            rgb,
            material,
            colour=colour,
            kind=kind,
            height=height,
            rects=rects,
            size=rng.random(),
        ),
        claim=claim,
    )


def add_roof_panels(site: Site, building: Thing) -> None:
    """Solar panels on the part of the roof that looks at the sun's side (up the picture's lower half, towards +y)."""
    rng, rect = site.rng, building.rects[-1]
    flat = building.look == "roof-flat"
    if flat:
        rows = max(1, int((rect.width - 3) / 2.6))
        length = (rect.length - 4) * rng.uniform(0.5, 1.0)
        for row in range(rows):
            if length > 3:
                _panel(site, rect.part(0, -rect.width / 2 + 2.5 + 2.6 * row, length, 1.6), building)
        return
    side = 1 if math.cos(rect.angle) >= 0 else -1
    depth = rect.width / 2 - 0.9
    length = (rect.length - 1.6) * rng.uniform(0.4, 0.95)
    if building.look == "roof-hip":
        length = min(length, rect.length - rect.width * 0.75)
    if depth > 1.2 and length > 1.5:
        slack = (rect.length - 1.2 - length) / 2 if building.look != "roof-hip" else 0.0
        _panel(site, rect.part(rng.uniform(-slack, slack), side * (depth / 2 + 0.45), length, depth), building)


def _panel(site: Site, rect: Rect, parent: Thing | None, *, height: float = 0.3) -> None:
    rgb = vary(site.rng, pick(site.rng, ((40, 50, 80), (32, 40, 64), (48, 58, 84))), 0.06, 2)
    layer = Layer.FIXTURE if parent else Layer.STRUCTURE
    rise = parent.height + height if parent else height
    site.add(
        Thing(
            "solar_panel",
            rect.polygon(),
            layer,
            "panel",
            rgb,
            Material.SMOOTH,
            colour="blue",
            kind="roof" if parent else "ground",
            height=rise,
            rects=(rect,),
            parent=parent,
        )
    )


def add_solar_rows(site: Site, rect: Rect) -> None:
    """A solar farm on the free ground of ``rect``: rows of panels along its length, in sections with lanes between."""
    rng = site.rng
    deep = rng.uniform(2.0, 4.2)
    pitch = deep * rng.uniform(1.7, 2.4)
    sections = max(1, round(rect.length / rng.uniform(22, 60)))
    section = (rect.length - 4) / sections
    for row in range(max(1, int((rect.width - 3) / pitch))):
        across = -rect.width / 2 + 2 + deep / 2 + row * pitch
        for i in range(sections):
            table = rect.part(-rect.length / 2 + 2 + section * (i + 0.5), across, section - 2.5, deep)
            if rng.random() > 0.03 and site.free(table, 1.0):
                _panel(site, table, None, height=1.6)
    site.claim(rect.polygon(), 1.0)


def add_vehicle(site: Site, x: float, y: float, angle: float, *, truck: bool = False) -> bool:
    """A car or a truck, if its place is free; the front looks along ``angle``."""
    rng = site.rng
    length, width = (rng.uniform(7.0, 15.5), 2.5) if truck else (rng.uniform(3.9, 4.9), rng.uniform(1.72, 1.95))
    rect = Rect(x, y, angle, length, width)
    a, b, c = length / 2, width / 2, 0.12 * width
    if not site.near(x, y) or site.taken(rect.at([(i * a, j * b) for i in (-1, -0.5, 0, 0.5, 1) for j in (-1, 0, 1)])):
        return False
    nose = c * (1.0 if truck else 2.4)
    outline = rect.at(
        [
            (-a, -b + c),
            (-a + c, -b),
            (a - nose, -b),
            (a, -b + c * 1.5),
            (a, b - c * 1.5),
            (a - nose, b),
            (-a + c, b),
            (-a, b - c),
        ]
    )
    colour, rgb = draw_paint(rng, TRUCKS if truck else CARS)
    site.add(
        Thing(
            "truck" if truck else "car",
            Polygon(outline),
            Layer.VEHICLE,
            "truck" if truck else "car",
            rgb,
            Material.SMOOTH,
            colour=colour,
            kind="truck" if truck else "car",
            height=3.2 if truck else 1.45,
            rects=(rect,),
        ),
        claim=0.15,
    )
    return True


def add_tree(site: Site, x: float, y: float, radius: float, *, check: float = 0.45, species: str | None = None) -> bool:
    """A crown of noisy outline, if the inner part (``check`` of its radius) stands on free ground."""
    rng = site.rng
    if not site.near(x, y, radius):
        return False
    if check > 0:
        probe = radius * check
        if site.taken(np.array([(x, y), (x - probe, y), (x + probe, y), (x, y - probe), (x, y + probe)])):
            return False
    species = species or ("conifer" if rng.random() < 0.25 else "deciduous")
    count = 20 if radius > 2 else 14
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radii = radius * ring(rng, count, roughness=0.09, power=0.6)
    if species == "palm":
        radii *= np.where(np.arange(count) % 2 == 0, 1.15, 0.6)
    outline = np.column_stack([x + radii * np.cos(angle), y + radii * np.sin(angle)])
    base = {"conifer": (52, 70, 44), "palm": (88, 110, 56)}.get(species) or pick(
        rng, ((74, 96, 48), (86, 106, 54), (64, 86, 46), (98, 108, 58))
    )
    tall = {"conifer": 3.2, "palm": 2.6}.get(species, 1.7)
    site.add(
        Thing(
            "tree",
            Polygon(outline),
            Layer.CROWN,
            "crown",
            vary(rng, base, 0.14, 6),
            Material.FOLIAGE,
            colour="green",
            kind=species,
            height=radius * tall,
            rects=(Rect(x, y, 0.0, 2 * radius, 2 * radius),),
        )
    )
    return True


def add_tank(site: Site, x: float, y: float, radius: float) -> bool:
    """An upright cylindrical tank, if its place is free."""
    rng = site.rng
    rect = Rect(x, y, rng.uniform(0, 2 * math.pi), 2 * radius, 2 * radius)
    if not site.free(rect, 1.0):
        return False
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    outline = np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)])
    colour, rgb = draw_paint(
        rng,
        (
            Paint("white", (226, 226, 222), 4),
            Paint("grey", (172, 172, 168), 1.3),
            Paint("brown", (150, 124, 104), 0.4),
        ),
    )
    kind = "floating roof" if radius > 9 and rng.random() < 0.4 else "fixed roof"
    site.add(
        Thing(
            "storage_tank",
            Polygon(outline),
            Layer.STRUCTURE,
            "tank",
            rgb,
            Material.SMOOTH,
            colour=colour,
            kind=kind,
            height=float(np.clip(radius * 1.1, 5, 16)),
            rects=(rect,),
            size=radius,
        ),
        claim=1.5,
    )
    return True


def add_court(site: Site, rect: Rect, kind: str) -> bool:
    """A marked court of its regulation size in the middle of ``rect``, if it fits in there and the ground is free."""
    length, width, palette = COURTS[kind]
    turn = 0.0 if rect.length >= rect.width else math.pi / 2
    if max(rect.length, rect.width) < length + 1 or min(rect.length, rect.width) < width + 1:
        return False
    court = rect.part(0, 0, length, width, turn)
    if not site.free(court, 1.0):
        return False
    colour, rgb = draw_paint(site.rng, palette)
    material = Material.GRASS if kind == "football" else Material.SMOOTH
    site.add(
        Thing(
            "sports_court",
            court.polygon(),
            Layer.FLOOR,
            f"court-{kind}",
            rgb,
            material,
            colour=colour,
            kind=kind,
            rects=(court,),
        ),
        claim=1.0,
    )
    return True


def add_pool(site: Site, rect: Rect) -> bool:
    """A swimming pool with its paved rim; kidney-shaped now and then."""
    rng = site.rng
    if not site.free(rect, 1.2):
        return False
    colour, rgb = draw_paint(
        rng,
        (
            Paint("blue", (74, 164, 190), 3),
            Paint("blue", (96, 182, 198), 2),
            Paint("green", (82, 158, 146), 0.5),
        ),
    )
    outline: Points
    if rng.random() < 0.5:
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        squeeze = 1 - 0.22 * np.exp(-(((angle - np.pi / 2) / 0.6) ** 2))
        outline = rect.at(np.column_stack([rect.length / 2 * np.cos(angle), rect.width / 2 * np.sin(angle) * squeeze]))
    else:
        outline = rect.corners()
    water = Polygon(outline)
    add_surface(site, water.buffer(rng.uniform(0.7, 1.6), quad_segs=3), vary(rng, (196, 188, 174)), Material.CONCRETE)
    site.add(
        Thing(
            "swimming_pool",
            water,
            Layer.FLOOR,
            "pool",
            rgb,
            Material.WATER,
            colour=colour,
            kind="pool",
            rects=(rect,),
        ),
        claim=1.2,
    )
    return True


def add_parking(site: Site, rect: Rect, *, full: float, trucks: float = 0.0) -> None:
    """A paved lot with rows of marked stalls on both sides of aisles along its length, some of them taken."""
    rng = site.rng
    add_surface(site, rect.polygon(), vary(rng, (112, 112, 112), 0.14), Material.ASPHALT, look="stalls", rects=(rect,))
    module, stall = 16.4, 2.7
    for m in range(int(rect.width // module)):
        middle = -rect.width / 2 + module * (m + 0.5) + (rect.width % module) / 2
        for side in (-1, 1):
            for i in range(int((rect.length - 4) / stall)):
                along = -rect.length / 2 + 2 + stall * (i + 0.5)
                if rng.random() < full:
                    x, y = rect.at((along + rng.normal(0, 0.1), middle + side * (5.6 + rng.normal(0, 0.2)))).tolist()
                    add_vehicle(site, x, y, rect.angle + math.pi / 2 * (1 if rng.random() < 0.5 else -1))
    if rng.random() < trucks:
        x, y = rect.at((rng.uniform(-0.3, 0.3) * rect.length, 0)).tolist()
        add_vehicle(site, x, y, rect.angle, truck=True)
    site.claim(rect.polygon())
