"""What fills a block between streets: houses, shacks, parks, shops, halls, tanks, panels, city lots, waste land."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from terraprompt_synthetic.country import add_lake, add_wood
from terraprompt_synthetic.noise import blob
from terraprompt_synthetic.parts import (
    BIG_ROOFS,
    HOUSE_ROOFS,
    TIN_ROOFS,
    add_building,
    add_court,
    add_parking,
    add_pool,
    add_roof_panels,
    add_solar_rows,
    add_surface,
    add_tank,
    add_tree,
    add_vehicle,
)
from terraprompt_synthetic.site import Colour, Layer, Material, Paint, Rect, Site, Thing, pick, vary
from terraprompt_synthetic.streets import Block

__all__ = [
    "city_block",
    "courts",
    "houses",
    "park",
    "shacks",
    "shops",
    "solar_farm",
    "tank_farm",
    "vacant",
    "warehouses",
    "wood",
]

CITY_ROOFS = (*BIG_ROOFS, Paint("grey", (132, 130, 126), 3.0), Paint("red", (148, 88, 70), 1.2))


def _lawn(site: Site, gain: float = 0.12) -> tuple[Colour, Material]:
    return vary(site.rng, site.ground, gain, 5), site.ground_material


def _scatter_trees(site: Site, rect: Rect, density: float, sizes: tuple[float, float], **more: str) -> None:
    """Trees at random on the free ground of a rectangle; ``density`` in trees a hectare."""
    rng = site.rng
    for _ in range(rng.poisson(density * rect.length * rect.width / 1e4)):
        x, y = rect.at(((rng.random() - 0.5) * rect.length, (rng.random() - 0.5) * rect.width)).tolist()
        add_tree(site, x, y, rng.uniform(*sizes), species=more.get("species"))


def houses(site: Site, block: Block) -> None:
    """Two rows of lots, back to back, each with a house, a drive, a garden and sometimes a pool."""
    rng, net = site.rng, block.net
    length_u, length_v = block.size
    swap = length_v > length_u
    deep = (length_u if swap else length_v) / 2
    # Lot coordinates: s along the row, t from the street inwards.
    start, end = (block.v0, block.v1) if swap else (block.u0, block.u1)
    typical = rng.uniform(15, 23)
    wealthy, roof_taste = rng.random(), rng.random()
    for side in (0, 1):
        s = start
        while s + 11 < end:
            lot = min(rng.uniform(0.85, 1.25) * typical, end - s)
            middle = s + lot / 2
            s += lot

            def place(
                along: float,
                inward: float,
                a: float,
                b: float,
                turn: float = 0.0,
                *,
                middle: float = middle,
                side: int = side,
            ) -> Rect:
                across = inward if side == 0 else 2 * deep - inward
                u, v = (block.u0 + across, middle + along) if swap else (middle + along, block.v0 + across)
                return net.rect(u, v, a, b, turn + (math.pi / 2 if swap else 0.0))

            yard = place(0, deep / 2, lot, deep)
            if not site.near(yard.x, yard.y, 40):
                continue
            rgb, material = _lawn(site)
            if rng.random() < 0.15:
                rgb, material = vary(rng, (150, 134, 108), 0.1), Material.SOIL
            add_surface(site, yard.polygon(), rgb, material)
            _house(site, place, lot, deep, wealthy, roof_taste)
            if rng.random() < 0.6:
                fence = place(lot / 2, deep / 2 + 3, 0.16, deep - 6)
                add_surface(
                    site,
                    fence.polygon(),
                    pick(rng, ((196, 190, 178), (120, 98, 78), (70, 84, 52))),
                    Material.SMOOTH,
                )
            _scatter_trees(site, yard, 85, (1.4, 3.4))
            _scatter_trees(site, place(0, deep * 0.82, lot, deep * 0.34), 90, (2.0, 5.0))


def _house(site: Site, place: Callable[..., Rect], lot: float, deep: float, wealthy: float, roof_taste: float) -> None:
    rng = site.rng
    wide = min(lot - 3.0, rng.uniform(9.0, 17.0))
    tall = min(deep - 9.0, rng.uniform(7.5, 11.0))
    if min(wide, tall) < 5:
        return
    setback = rng.uniform(4.0, 7.0)
    shift = rng.uniform(-0.5, 0.5) * (lot - wide - 1.5)
    rect = place(shift, setback + tall / 2, wide, tall, rng.normal(0, 0.02))
    if not site.free(rect, 0.5):
        return
    roof = pick(rng, ("gable", "hip", "flat"), (0.5 + roof_taste, 1.2 - 0.8 * roof_taste, 0.15))
    house = add_building(site, rect, roof=roof, height=rng.uniform(4, 7.5), wing=rng.random() < 0.4)
    if rng.random() < 0.14:
        add_roof_panels(site, house)
    drive = shift + (wide / 2 - 2.0) * (1 if rng.random() < 0.5 else -1)
    lane = place(drive, setback / 2 - 1.2, rng.uniform(2.8, 5.5), setback + 2.4)
    add_surface(site, lane.polygon(), vary(rng, (172, 168, 160), 0.12), Material.CONCRETE)
    if rng.random() < 0.5:
        add_vehicle(site, lane.x, lane.y, lane.angle + math.pi / 2 * (1 if rng.random() < 0.5 else -1))
    back = setback + tall
    if deep - back > 9 and rng.random() < 0.08 + 0.3 * wealthy:
        add_pool(
            site,
            place(
                rng.uniform(-0.2, 0.2) * lot,
                back + 5.0,
                rng.uniform(6, 10),
                rng.uniform(3.2, 4.8),
                rng.choice([0, math.pi / 2]),
            ),
        )
    if deep - back > 6 and rng.random() < 0.35:
        shed = place(
            (lot / 2 - 3) * (1 if rng.random() < 0.5 else -1),
            deep - 2.8,
            rng.uniform(2.6, 5),
            rng.uniform(2.4, 3.6),
        )
        if site.free(shed, 0.3):
            add_building(site, shed, roof=pick(rng, ("gable", "tin")), palette=TIN_ROOFS, height=2.6, kind="shed")


def shacks(site: Site, block: Block) -> None:
    """Small tin roofs crowded on bare earth, hardly in rows."""
    rng, net = site.rng, block.net
    cell = rng.uniform(6.8, 10.5)
    big = rng.random() < 0.3
    lean = rng.normal(0, 0.06)
    for u in np.arange(block.u0 + cell / 2, block.u1 - cell / 3, cell):
        for v in np.arange(block.v0 + cell / 2, block.v1 - cell / 3, cell * (1.0 if not big else 1.3)):
            if rng.random() < 0.07:
                continue
            at = net.rect(
                u + rng.normal(0, cell * 0.09),
                v + rng.normal(0, cell * 0.09),
                1,
                1,
                lean + rng.normal(0, 0.05),
            )
            wide, tall = (
                cell * rng.uniform(0.62, 1.08),
                cell * rng.uniform(0.55, 0.98) * (1.3 if big else 1.0),
            )
            rect = Rect(at.x, at.y, at.angle, wide, tall)
            if not site.free(rect, 0.15):
                rect = Rect(rect.x, rect.y, rect.angle, 0.68 * wide, 0.68 * tall)
            if site.free(rect, 0.15):
                roof = pick(rng, ("tin", "gable-tin", "flat"), (0.8, 0.9, 0.12))
                add_building(
                    site,
                    rect,
                    roof="flat" if roof == "flat" else "tin",
                    palette=TIN_ROOFS,
                    height=rng.uniform(2.4, 3.4),
                    wing=rng.random() < 0.14,
                    claim=0.1,
                )
    whole = block.rect()
    _scatter_trees(site, whole, 14, (1.5, 3.8))
    _scatter_trees(site, whole, 9, (1.6, 2.8), species="palm")


def park(site: Site, block: Block) -> None:
    """Lawn with trees, perhaps a pond and a court."""
    rng = site.rng
    rgb, material = _lawn(site)
    add_surface(site, block.outline(), rgb, material)
    rect = block.rect(4)
    for kind in ("football", "tennis", "basketball"):
        if rng.random() < 0.5 and add_court(
            site, rect.part(rng.uniform(-0.1, 0.1) * rect.length, 0, rect.length * 0.8, rect.width), kind
        ):
            break
    else:
        if min(block.size) > 45 and rng.random() < 0.5:
            add_lake(site, rect.x, rect.y, min(block.size) * rng.uniform(0.18, 0.3))
    _scatter_trees(site, rect, rng.uniform(20, 75), (2.2, 5.5))


def courts(site: Site, block: Block) -> None:
    """A school: a few courts side by side and a long flat building."""
    rng = site.rng
    rgb, material = _lawn(site)
    add_surface(site, block.outline(), rgb, material)
    rect = block.rect(3)
    if rect.length < rect.width:
        rect = Rect(rect.x, rect.y, rect.angle + math.pi / 2, rect.width, rect.length)
    hall = rect.part(-rect.length * 0.28, 0, rect.length * 0.3, min(rect.width * 0.5, 26))
    if min(hall.length, hall.width) > 8 and site.free(hall, 1):
        building = add_building(
            site, hall, roof="flat", palette=BIG_ROOFS, height=8, wing=rng.random() < 0.5, kind="school"
        )
        if rng.random() < 0.5:
            add_roof_panels(site, building)
    ground = rect.part(rect.length * 0.22, 0, rect.length * 0.55, rect.width)
    kind = pick(rng, ("tennis", "basketball", "football"))
    if not add_court(site, ground, kind):
        kind = "tennis" if kind != "tennis" else "basketball"
        width = {"tennis": 20.0, "basketball": 18.0}[kind]
        for i in range(int(ground.width // width)):
            across = -ground.width / 2 + width * (i + 0.5)
            add_court(site, ground.part(0, across, ground.length, width), kind)
    _scatter_trees(site, rect, 30, (2, 4.5))


def shops(site: Site, block: Block) -> None:
    """A large flat roof with its car park."""
    rng = site.rng
    add_surface(site, block.outline(), vary(rng, (150, 148, 142), 0.1), Material.CONCRETE)
    rect = block.rect(3)
    if rect.length < rect.width:
        rect = Rect(rect.x, rect.y, rect.angle + math.pi / 2, rect.width, rect.length)
    share = rng.uniform(0.35, 0.5)
    store = rect.part(-rect.length * (1 - share) / 2, 0, rect.length * share - 4, rect.width * rng.uniform(0.6, 0.95))
    if min(store.length, store.width) > 8 and site.free(store, 0.5):
        building = add_building(site, store, roof="flat", palette=BIG_ROOFS, height=rng.uniform(5, 9), kind="shop")
        if rng.random() < 0.3:
            add_roof_panels(site, building)
    lot = rect.part(rect.length * share / 2, 0, rect.length * (1 - share) - 2, rect.width)
    if min(lot.length, lot.width) > 17 and site.free(lot, -1):
        add_parking(site, lot, full=rng.uniform(0.3, 0.85))
    _scatter_trees(site, rect, 15, (1.6, 3))


def warehouses(site: Site, block: Block) -> None:
    """Large roofs on a paved yard, trucks at the docks, a car park at one end."""
    rng = site.rng
    yard = pick(rng, ((142, 140, 134), (120, 119, 117), (166, 156, 138)))
    add_surface(site, block.outline(), vary(rng, yard), Material.CONCRETE)
    rect = block.rect(5)
    if rect.length < rect.width:
        rect = Rect(rect.x, rect.y, rect.angle + math.pi / 2, rect.width, rect.length)
    count = max(1, round(rect.length / rng.uniform(55, 110)))
    pitch = rect.length / count
    for i in range(count):
        along = -rect.length / 2 + pitch * (i + 0.5)
        use = rng.random()
        plot = rect.part(along, 0, pitch - 6, rect.width)
        if use < 0.74:
            hall = plot.part(
                0,
                -plot.width * 0.1,
                plot.length * rng.uniform(0.7, 0.96),
                plot.width * rng.uniform(0.45, 0.7),
            )
            if min(hall.length, hall.width) < 8 or not site.free(hall, 0.5):
                continue
            building = add_building(
                site,
                hall,
                roof=pick(rng, ("flat", "tin"), (0.65, 0.35)),
                palette=BIG_ROOFS,
                height=rng.uniform(7, 13),
                wing=rng.random() < 0.2,
                kind="warehouse",
                claim=0.3,
            )
            if rng.random() < 0.3:
                add_roof_panels(site, building)
            for dock in np.arange(-hall.length / 2 + 3, hall.length / 2 - 3, 4.2):
                if rng.random() < 0.3:
                    x, y = hall.at((dock, hall.width / 2 + 9)).tolist()
                    add_vehicle(site, x, y, hall.angle + math.pi / 2, truck=True)
        elif use < 0.84 and min(plot.length, plot.width) > 18:
            add_parking(site, plot, full=rng.uniform(0.1, 0.7), trucks=0.4)
        else:
            _tanks(site, plot)
    _scatter_trees(site, block.rect(), 6, (1.5, 3.2))


def _tanks(site: Site, rect: Rect) -> None:
    rng = site.rng
    radius = rng.uniform(4, min(16, max(5.0, min(rect.length, rect.width) / 5)))
    pitch = radius * 2 + rng.uniform(4, 9)
    for a in np.arange(-rect.length / 2 + radius + 2, rect.length / 2 - radius - 1, pitch):
        for b in np.arange(-rect.width / 2 + radius + 2, rect.width / 2 - radius - 1, pitch):
            if rng.random() < 0.85:
                x, y = rect.at((a, b)).tolist()
                add_tank(site, x, y, radius * rng.uniform(0.8, 1.0))


def tank_farm(site: Site, block: Block) -> None:
    """Rows of storage tanks on gravel."""
    add_surface(site, block.outline(), vary(site.rng, (158, 150, 134), 0.1), Material.SOIL)
    _tanks(site, block.rect(6))


def solar_farm(site: Site, block: Block) -> None:
    """The whole block under rows of panels."""
    rgb, material = _lawn(site)
    add_surface(site, block.outline(), rgb, material)
    add_solar_rows(site, block.rect(3))


def city_block(site: Site, block: Block) -> None:
    """Flat roofs wall to wall, split by chance, with a tower, a court or a parking lot in between."""
    rng = site.rng
    add_surface(site, block.outline(), vary(rng, (150, 147, 141), 0.1), Material.CONCRETE)
    size = rng.uniform(16, 42)

    def split(u0: float, v0: float, u1: float, v1: float) -> None:
        du, dv = u1 - u0, v1 - v0
        if max(du, dv) > size * 1.5 and min(du, dv) > 8:
            cut = rng.uniform(0.38, 0.62)
            if du > dv:
                split(u0, v0, u0 + du * cut, v1)
                split(u0 + du * cut, v0, u1, v1)
            else:
                split(u0, v0, u1, v0 + dv * cut)
                split(u0, v0 + dv * cut, u1, v1)
            return
        rect = block.net.rect(
            (u0 + u1) / 2, (v0 + v1) / 2, du - rng.choice([0.2, 0.4, 3.0]), dv - rng.choice([0.2, 0.4, 3.0])
        )
        use = rng.random()
        if min(rect.length, rect.width) < 7:
            return
        if use < 0.82 and site.free(rect, -0.4):
            tall = rng.uniform(9, 26) if rng.random() < 0.85 else rng.uniform(30, 65)
            roof = "flat" if tall > 15 or rng.random() < 0.75 else pick(rng, ("hip", "gable"))
            building = add_building(
                site,
                rect,
                roof=roof,
                palette=CITY_ROOFS if roof == "flat" else HOUSE_ROOFS,
                height=tall,
                wing=rng.random() < 0.2 and roof == "flat",
                kind="tower" if tall >= 30 else "city building",
                claim=-0.3,
            )
            if rng.random() < 0.1:
                add_roof_panels(site, building)
        elif use < 0.9 and min(rect.length, rect.width) > 18 and site.free(rect, -0.4):
            add_parking(site, rect, full=rng.uniform(0.5, 0.95))
        else:
            rgb, material = _lawn(site)
            if site.free(rect, -1):
                add_surface(site, rect.polygon(-1.0), rgb, material)
            _scatter_trees(site, rect, 110, (2, 4.5))

    split(block.u0, block.v0, block.u1, block.v1)


def vacant(site: Site, block: Block) -> None:
    """Bare ground of ragged outline, a few bushes."""
    rng = site.rng
    rect = block.rect()
    bare = blob(rng, (rect.x, rect.y), min(block.size) * rng.uniform(0.3, 0.48), roughness=0.22)
    patch = bare.intersection(block.outline(1))
    for part in getattr(patch, "geoms", [patch]):
        if part.area > 60 and part.geom_type == "Polygon" and not site.taken(np.asarray(part.exterior.coords)[::3]):
            site.add(
                Thing(
                    "bare_ground",
                    part,
                    Layer.BASE,
                    "plain",
                    vary(rng, (172, 146, 112), 0.12, 8),
                    Material.SOIL,
                    colour="brown",
                    kind="vacant lot",
                )
            )
    _scatter_trees(site, rect, 14, (1.3, 3.0))


def wood(site: Site, block: Block) -> None:
    """A block left to the trees."""
    rect = block.rect()
    add_wood(site, rect.x, rect.y, min(block.size) * 0.45)
    _scatter_trees(site, rect, 40, (2, 4))
