"""Open styles: fields and farmsteads, lakes in grass and woods."""

from __future__ import annotations

import math

import numpy as np
from shapely.geometry import LineString, Polygon, box
from shapely.ops import unary_union

from terraprompt_synthetic.noise import blob, lobed
from terraprompt_synthetic.parts import (
    BIG_ROOFS,
    HOUSE_ROOFS,
    add_building,
    add_solar_rows,
    add_surface,
    add_tank,
    add_tree,
    add_vehicle,
)
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
from terraprompt_synthetic.streets import Net, add_road, along

__all__ = ["add_lake", "add_wood", "build_lakeland", "build_rural"]

WATER = (
    Paint("dark", (38, 50, 56), 3),
    Paint("green", (66, 84, 66), 2),
    Paint("brown", (98, 88, 66), 1.2),
    Paint("blue", (54, 86, 104), 1.5),
)
CROPS = (
    Paint("green", (88, 118, 56), 3),
    Paint("green", (112, 136, 74), 2),
    Paint("green", (66, 94, 50), 2),
    Paint("yellow", (186, 172, 106), 2),
    Paint("yellow", (168, 150, 98), 1.2),
    Paint("brown", (134, 108, 82), 2),
    Paint("brown", (156, 130, 102), 1.2),
)


def add_lake(site: Site, x: float, y: float, radius: float) -> bool:
    """A lake with a muddy or reedy rim, if its ground is free."""
    rng = site.rng
    outline = lobed(
        rng, (x, y), radius * 0.85, roughness=rng.uniform(0.15, 0.34), count=int(np.clip(radius * 3, 48, 220))
    )
    if not site.near(x, y, radius * 1.5) or site.taken(np.asarray(outline.buffer(4).exterior.coords)):
        return False
    colour, rgb = pick(rng, [(p.name, p.rgb) for p in WATER], [p.weight for p in WATER])
    rim = outline.buffer(rng.uniform(0.6, 3.0), quad_segs=3)
    shore = pick(rng, ((126, 112, 84), (92, 104, 62), (148, 136, 108)))
    site.add(Thing(None, rim, Layer.SURFACE, "plain", vary(rng, shore), Material.DRY))
    site.add(
        Thing(
            "lake",
            outline,
            Layer.WATER,
            "lake",
            vary(rng, rgb, 0.15, 5),
            Material.WATER,
            colour=colour,
            kind="pond" if radius < 25 else "lake",
        ),
        claim=2.0,
    )
    return True


def add_wood(site: Site, x: float, y: float, radius: float) -> bool:
    """A wood with a scalloped edge, if its ground is free."""
    rng = site.rng
    outline = lobed(rng, (x, y), radius * 0.85, roughness=0.32, count=int(np.clip(radius * 4, 60, 260)))
    if not site.near(x, y, radius * 1.5) or site.taken(np.asarray(outline.exterior.coords)[::2]):
        return False
    _forest(site, outline)
    return True


def _forest(site: Site, outline: Polygon) -> None:
    rng = site.rng
    species, rgb = pick(rng, (("deciduous", (74, 96, 50)), ("mixed", (62, 82, 46)), ("conifer", (46, 64, 42))))
    site.add(
        Thing(
            "forest",
            outline,
            Layer.BASE,
            "forest",
            vary(rng, rgb, 0.12, 5),
            Material.FOLIAGE,
            colour="green",
            kind=species,
            height=rng.uniform(8, 15),
            size=rng.uniform(1.8, 3.4),
        ),
        claim=0.0,
    )


def _wander(site: Site, *, sway: float) -> Points:
    """A smooth line from one side of the site to the other."""
    rng = site.rng
    reach = math.hypot(site.width, site.height) / 2 + site.margin + 60
    angle = rng.uniform(0, math.pi)
    s = np.arange(-reach, reach, 6.0)
    t = np.full_like(s, rng.uniform(-0.25, 0.25) * min(site.width, site.height))
    for wave in (900.0, 420.0, 190.0):
        t = t + sway * wave / 900 * rng.normal() * np.sin(
            2 * np.pi * s / (wave * rng.uniform(0.7, 1.3)) + rng.uniform(0, 6.3)
        )
    rect = Rect(site.width / 2, site.height / 2, angle, 1, 1)
    return rect.at(np.column_stack([s, t]))


def _road(site: Site, *, sway: float, busy: float) -> None:
    rng = site.rng
    paved = rng.random() < 0.6
    width = rng.uniform(5.5, 8.5) if paved else rng.uniform(3.0, 4.5)
    rgb, name = (vary(rng, (118, 117, 116), 0.15, 2), "grey") if paved else (vary(rng, (176, 152, 118), 0.1), "brown")
    # Of some ways the one that meets the least water: people do not build towards a lake.
    water = unary_union([t.polygon for t in site.things if t.category == "lake"])
    way = min(
        (_wander(site, sway=sway) for _ in range(8)),
        key=lambda w: float(LineString(w).intersection(water).length),
    )
    for line in add_road(site, way, width, paved=paved, rgb=rgb, name=name, kind="road" if paved else "track"):
        for k in range(2, len(line) - 2):
            if rng.random() < busy:
                heading = math.atan2(line[k + 1, 1] - line[k, 1], line[k + 1, 0] - line[k, 0])
                off = width * 0.24
                add_vehicle(
                    site,
                    line[k, 0] - math.sin(heading) * off,
                    line[k, 1] + math.cos(heading) * off,
                    heading,
                    truck=rng.random() < 0.25,
                )
        site.claim(LineString(line).buffer(width / 2 + 1.5, quad_segs=2))


def _farm(site: Site, rect: Rect) -> None:
    """A yard with a house, barns, a silo or two and trees around it."""
    rng = site.rng
    yard = lobed(rng, (rect.x, rect.y), min(rect.length, rect.width) * 0.36, roughness=0.2, count=64)
    site.add(
        Thing(
            "bare_ground",
            yard,
            Layer.BASE,
            "plain",
            vary(rng, (168, 148, 118), 0.1),
            Material.SOIL,
            colour="brown",
            kind="farmyard",
        )
    )
    reach = min(rect.length, rect.width) * 0.3
    for i in range(int(rng.integers(2, 6))):
        x, y = (rect.x + rng.uniform(-reach, reach), rect.y + rng.uniform(-reach, reach))
        turn = rect.angle + (math.pi / 2 if rng.random() < 0.5 else 0)
        if i == 0:
            spot = Rect(x, y, turn, rng.uniform(11, 16), rng.uniform(8, 11))
            if site.free(spot, 1):
                add_building(site, spot, roof=pick(rng, ("gable", "hip")), height=6, wing=rng.random() < 0.5)
        else:
            spot = Rect(x, y, turn, rng.uniform(16, 42), rng.uniform(9, 16))
            if site.free(spot, 2):
                add_building(
                    site,
                    spot,
                    roof=pick(rng, ("gable", "tin")),
                    palette=(*BIG_ROOFS, *HOUSE_ROOFS),
                    height=7,
                    kind="barn",
                )
    for _ in range(int(rng.integers(0, 4))):
        add_tank(
            site,
            rect.x + rng.uniform(-reach, reach),
            rect.y + rng.uniform(-reach, reach),
            rng.uniform(2.2, 4.5),
        )
    for _ in range(4):
        add_vehicle(
            site,
            rect.x + rng.uniform(-reach, reach),
            rect.y + rng.uniform(-reach, reach),
            rng.uniform(0, 6.3),
            truck=rng.random() < 0.4,
        )
    for _ in range(int(rng.integers(6, 20))):
        turn, far = rng.uniform(0, 2 * math.pi), reach * rng.uniform(0.9, 1.7)
        add_tree(site, rect.x + far * math.cos(turn), rect.y + far * math.sin(turn), rng.uniform(2, 5))


def _plot(site: Site, net: Net, sides: tuple[float, float, float, float]) -> None:
    """One leaf of the patchwork."""
    rng = site.rng
    use = pick(
        rng,
        ("field", "meadow", "forest", "farm", "orchard", "bare", "pond", "solar"),
        (9, 1.6, 2.2, 1.3, 0.9, 0.6, 0.6, 0.5),
    )
    a0, b0, a1, b1 = sides
    rect = net.rect((a0 + a1) / 2, (b0 + b1) / 2, a1 - a0, b1 - b0)
    outline = box(*sides).buffer(-6).buffer(6, quad_segs=3)
    if outline.is_empty or outline.geom_type != "Polygon":
        return
    # Edges of farmed land are never ruler-straight.
    points = net.to_site(np.asarray(outline.segmentize(12.0).exterior.coords)[:-1])
    outline = Polygon(points + rng.normal(0, 0.35, points.shape)).buffer(0)
    if outline.geom_type != "Polygon":
        return
    if use == "field" or (use in ("farm", "solar", "pond") and min(rect.length, rect.width) < 40):
        paint = pick(rng, CROPS, [p.weight for p in CROPS])
        site.add(
            Thing(
                "field",
                outline,
                Layer.BASE,
                "field",
                vary(rng, paint.rgb, 0.1, 5),
                Material.CROP,
                colour=paint.name,
                kind="crop",
                rects=(rect,),
                size=rng.uniform(0.8, 3.2),
            )
        )
    elif use == "forest":
        _forest(site, outline)
    elif use == "farm":
        _farm(site, rect)
    elif use == "orchard":
        pitch = rng.uniform(5, 8)
        radius = pitch * rng.uniform(0.3, 0.42)
        for a in np.arange(-rect.length / 2 + 4, rect.length / 2 - 3, pitch):
            for b in np.arange(-rect.width / 2 + 4, rect.width / 2 - 3, pitch):
                if rng.random() < 0.94:
                    x, y = rect.at((a, b)).tolist()
                    add_tree(
                        site,
                        x + rng.normal(0, 0.2),
                        y + rng.normal(0, 0.2),
                        radius * rng.uniform(0.8, 1.1),
                        species="deciduous",
                    )
    elif use == "bare":
        site.add(
            Thing(
                "bare_ground",
                outline,
                Layer.BASE,
                "plain",
                vary(rng, (166, 136, 104), 0.12, 8),
                Material.SOIL,
                colour="brown",
                kind="earth",
            )
        )
    elif use == "pond":
        add_lake(site, rect.x, rect.y, min(rect.length, rect.width) * rng.uniform(0.2, 0.38))
    elif use == "solar":
        add_solar_rows(site, rect.part(0, 0, rect.length - 6, rect.width - 6))
    else:
        rgb: Colour = vary(rng, site.ground, 0.15, 8)
        add_surface(site, outline, rgb, site.ground_material)
        for _ in range(rng.poisson(rect.length * rect.width / 2500)):
            x, y = rect.at(((rng.random() - 0.5) * rect.length, (rng.random() - 0.5) * rect.width)).tolist()
            add_tree(site, x, y, rng.uniform(2, 5.5))


def _hedge(site: Site, line: Points) -> None:
    rng = site.rng
    length = float(np.hypot(*np.diff(line, axis=0).T).sum())
    dense = rng.uniform(0.2, 0.8)
    for x, y in along(line, np.arange(0, length, 4.0))[0].tolist():
        if rng.random() < dense:
            add_tree(site, x + rng.normal(0, 0.6), y + rng.normal(0, 0.6), rng.lognormal(0.75, 0.35))


def build_rural(site: Site) -> None:
    """A patchwork of fields, woods, farmsteads and ponds between a few roads."""
    rng = site.rng
    if rng.random() < 0.3:
        add_lake(site, rng.uniform(0, site.width), rng.uniform(0, site.height), rng.uniform(20, 80))
    for _ in range(1 + rng.poisson(site.area / 1.5e6)):
        _road(site, sway=60, busy=0.03)
    net = Net.bent(site, 22.0)
    reach = math.hypot(site.width, site.height) + 2 * site.margin + 140
    leaf = rng.uniform(70, 170)

    def split(a0: float, b0: float, a1: float, b1: float) -> None:
        da, db = a1 - a0, b1 - b0
        x, y = net.to_site(np.array(((a0 + a1) / 2, (b0 + b1) / 2))).tolist()
        if not site.near(x, y, math.hypot(da, db) / 2 + 40):
            return
        if max(da, db) > leaf * 1.4 and (max(da, db) > leaf * 2.2 or rng.random() < 0.85):
            cut = rng.uniform(0.35, 0.65)
            if da > db:
                split(a0, b0, a0 + da * cut, b1)
                split(a0 + da * cut, b0, a1, b1)
                ends = ((a0 + da * cut, b0), (a0 + da * cut, b1))
            else:
                split(a0, b0, a1, b0 + db * cut)
                split(a0, b0 + db * cut, a1, b1)
                ends = ((a0, b0 + db * cut), (a1, b0 + db * cut))
            if rng.random() < 0.35:
                _hedge(site, net.to_site(np.linspace(*ends, 12)))
            return
        inset = rng.uniform(1.0, 3.5)
        _plot(site, net, (a0 + inset, b0 + inset, a1 - inset, b1 - inset))

    split(-reach / 2, -reach / 2, reach / 2, reach / 2)


def build_lakeland(site: Site) -> None:
    """Lakes and ponds in open ground, woods, a road, a few cabins."""
    rng = site.rng
    share, done = rng.uniform(0.1, 0.35), 0.0
    scale = min(site.width, site.height) + 2 * site.margin
    for _ in range(60):
        radius = float(np.clip(rng.lognormal(math.log(scale * 0.09), 0.7), 5, scale * 0.35))
        x, y = rng.uniform(-30, site.width + 30), rng.uniform(-30, site.height + 30)
        if add_lake(site, x, y, radius):
            done += 2.2 * radius**2
        if done > share * site.area:
            break
    for _ in range(int(rng.integers(1, 3))):
        _road(site, sway=90, busy=0.01)
    for _ in range(rng.poisson(2 + site.area / 8e4)):
        add_wood(site, rng.uniform(0, site.width), rng.uniform(0, site.height), rng.uniform(15, 0.22 * scale + 16))
    for _ in range(rng.poisson(1 + site.area / 1.5e5)):
        at = Rect(
            rng.uniform(0, site.width),
            rng.uniform(0, site.height),
            rng.uniform(0, 3.14),
            rng.uniform(8, 14),
            rng.uniform(6, 9),
        )
        if site.free(at, 4):
            yard = blob(rng, (at.x, at.y), rng.uniform(10, 18), roughness=0.15)
            site.add(
                Thing(
                    "bare_ground",
                    yard,
                    Layer.BASE,
                    "plain",
                    vary(rng, (170, 152, 122)),
                    Material.SOIL,
                    colour="brown",
                    kind="yard",
                )
            )
            add_building(site, at, roof=pick(rng, ("gable", "tin")), height=4.5, kind="cabin", wing=rng.random() < 0.3)
    for _ in range(rng.poisson(site.area / 6000)):
        x, y = rng.uniform(-20, site.width + 20), rng.uniform(-20, site.height + 20)
        for _ in range(int(rng.integers(1, 7))):
            add_tree(site, x + rng.normal(0, 6), y + rng.normal(0, 6), rng.uniform(1.4, 4.2))
    for _ in range(rng.poisson(site.area / 5e4)):
        x, y = rng.uniform(0, site.width), rng.uniform(0, site.height)
        patch = blob(rng, (x, y), rng.uniform(5, 22), roughness=0.3)
        if not site.taken(np.asarray(patch.exterior.coords)[::4]):
            site.add(
                Thing(
                    "bare_ground",
                    patch,
                    Layer.BASE,
                    "plain",
                    vary(rng, (158, 142, 118), 0.12),
                    Material.SOIL,
                    colour="brown",
                    kind="earth",
                )
            )
