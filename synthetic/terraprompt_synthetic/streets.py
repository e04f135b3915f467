"""The street net: a turned, jittered and gently bent grid, the roads along it and the blocks between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from shapely.geometry import LineString, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from terraprompt_synthetic.parts import add_surface, add_tree, add_vehicle
from terraprompt_synthetic.site import Colour, Layer, Material, Points, Rect, Site, Thing, vary

__all__ = ["Block", "Net", "Streets", "add_road", "along", "beside", "lay_streets"]


@dataclass(frozen=True, slots=True)
class Streets:
    """How a town's streets are laid: block sizes and widths in metres, surface, how bent, how busy."""

    block_u: tuple[float, float]
    block_v: tuple[float, float]
    width: tuple[float, float]
    main_width: float
    main_share: float = 0.25
    bend: float = 8.0
    keep: float = 0.9
    paved: float = 1.0
    pavement: float = 1.8
    busy: float = 0.4
    parked: float = 0.15
    trees: float = 0.3
    trucks: float = 0.05


@dataclass(frozen=True, slots=True)
class Net:
    """The bent grid: ``us`` and ``vs`` are the street centre lines in the grid's own metres."""

    us: Points
    vs: Points
    wide_u: Points
    wide_v: Points
    angle: float
    centre: tuple[float, float]
    waves: Points

    @classmethod
    def draw(cls, site: Site, plan: Streets) -> Net:
        """A net that covers the site."""
        rng = site.rng
        half = math.hypot(site.width, site.height) / 2 + site.margin + 2 * plan.bend + 20

        def lines(block: tuple[float, float]) -> tuple[Points, Points]:
            at = -half - rng.uniform(0, block[1])
            steps, widths = [], []
            while at < half + block[1]:
                main = rng.random() < plan.main_share
                steps.append(at)
                widths.append(plan.main_width if main else rng.uniform(*plan.width))
                at += rng.uniform(*block)
            return np.array(steps), np.array(widths)

        us, wide_u = lines(plan.block_u)
        vs, wide_v = lines(plan.block_v)
        return replace(cls.bent(site, plan.bend), us=us, vs=vs, wide_u=wide_u, wide_v=wide_v)

    @classmethod
    def bent(cls, site: Site, bend: float) -> Net:
        """A net of bent coordinates without streets."""
        rng, none = site.rng, np.zeros(0)
        # Each wave: direction of travel, direction of push, wave number, phase, amplitude.
        waves = np.column_stack(
            [
                rng.uniform(0, 2 * np.pi, 3),
                rng.uniform(0, 2 * np.pi, 3),
                2 * np.pi / rng.uniform(220, 650, 3),
                rng.uniform(0, 2 * np.pi, 3),
                bend * rng.uniform(0.4, 1.0, 3),
            ]
        )
        return cls(none, none, none, none, rng.uniform(-math.pi, math.pi), (site.width / 2, site.height / 2), waves)

    def to_site(self, uv: Points) -> Points:
        """Grid points ``(..., 2)`` to site metres."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x = self.centre[0] + uv[..., 0] * cos - uv[..., 1] * sin
        y = self.centre[1] + uv[..., 0] * sin + uv[..., 1] * cos
        at = np.stack([x, y], axis=-1)
        travel, push, number, phase, amplitude = self.waves.T
        way = number * np.stack([np.cos(travel), np.sin(travel)])
        pushes = np.stack([np.cos(push), np.sin(push)], axis=-1)
        return np.asarray(at + (amplitude * np.sin(at @ way + phase)) @ pushes)

    def rect(self, u: float, v: float, length: float, width: float, turn: float = 0.0) -> Rect:
        """A rigid rectangle at a grid point, its length along the local u direction plus ``turn``."""
        (x0, y0), (x1, y1) = self.to_site(np.array([(u, v), (u + 1.0, v)])).tolist()
        return Rect(x0, y0, math.atan2(y1 - y0, x1 - x0) + turn, length, width)


@dataclass(frozen=True, slots=True)
class Block:
    """Ground between streets, in the grid's metres, streets and pavements already taken off."""

    net: Net
    u0: float
    u1: float
    v0: float
    v1: float

    @property
    def size(self) -> tuple[float, float]:
        """Lengths along u and v."""
        return self.u1 - self.u0, self.v1 - self.v0

    def rect(self, inset: float = 0.0) -> Rect:
        """The largest rigid rectangle, roughly: bent blocks lose a little at the corners."""
        u, v = self.size
        return self.net.rect((self.u0 + self.u1) / 2, (self.v0 + self.v1) / 2, u - 2 * inset, v - 2 * inset)

    def outline(self, inset: float = 0.0) -> Polygon:
        """The bent outline."""
        u0, u1, v0, v1 = self.u0 + inset, self.u1 - inset, self.v0 + inset, self.v1 - inset
        t = np.linspace(0, 1, 8)[:-1, None]
        corners = np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1), (u0, v0)])
        edge = np.concatenate([corners[i] * (1 - t) + corners[i + 1] * t for i in range(4)])
        return Polygon(self.net.to_site(edge)).buffer(0)


def add_road(
    site: Site,
    line: Points,
    width: float,
    *,
    paved: bool,
    rgb: Colour,
    name: str,
    pavement: float = 0.0,
    kind: str = "street",
) -> list[Points]:
    """A road along a centre line, broken at water. Returns the pieces of the centre line that were built."""
    region = box(-site.margin, -site.margin, site.width + site.margin, site.height + site.margin)
    water = [t.polygon for t in site.things if t.category == "lake"]
    path: BaseGeometry = LineString(line).intersection(region)
    if water:
        path = path.difference(unary_union(water).buffer(width / 2 + 3))
    pieces = []
    for part in getattr(path, "geoms", [path]):
        if part.length < 8:
            continue
        at = np.asarray(part.coords, np.float64)
        surface = part.buffer(width / 2, quad_segs=4)
        if pavement:
            add_surface(
                site,
                part.buffer(width / 2 + pavement, quad_segs=4),
                vary(site.rng, (164, 160, 152), 0.06),
                Material.CONCRETE,
            )
        site.add(
            Thing(
                "road",
                surface,
                Layer.ROAD,
                "road" if paved else "track",
                rgb,
                Material.ASPHALT if paved else Material.SOIL,
                colour=name,
                kind=kind,
                line=at,
                size=width,
            ),
        )
        pieces.append(at)
    return pieces


def along(line: Points, distance: Points) -> tuple[Points, Points]:
    """Points and headings at distances along a polyline."""
    step = np.hypot(*np.diff(line, axis=0).T)
    run = np.concatenate([[0.0], np.cumsum(step)])
    i = np.clip(np.searchsorted(run, distance, side="right") - 1, 0, len(step) - 1)
    direction = np.diff(line, axis=0)[i] / np.maximum(step[i], 1e-9)[:, None]
    return line[i] + direction * (distance - run[i])[:, None], np.arctan2(direction[:, 1], direction[:, 0])


def beside(line: Points, distance: Points, lane: float) -> Points:
    """Points at distances along a polyline, ``lane`` metres to its right in the picture."""
    at, heading = along(line, distance)
    return at + lane * np.column_stack([-np.sin(heading), np.cos(heading)])


def _furnish(site: Site, line: Points, width: float, plan: Streets) -> None:
    """Cars that drive and park, trees along the kerb."""
    rng = site.rng
    length = float(np.hypot(*np.diff(line, axis=0).T).sum())
    if width >= 5 and length > 12:
        # Driving on the right: the heading turns with the side.
        marks = np.arange(rng.uniform(3, 20), length - 5, 11.0)
        for (x, y), heading in zip(*along(line, marks), strict=True):
            for side in (-1, 1):
                if rng.random() < plan.busy * 0.28:
                    off = side * width * 0.24
                    add_vehicle(
                        site,
                        x - math.sin(heading) * off,
                        y + math.cos(heading) * off,
                        heading if side > 0 else heading + math.pi,
                        truck=rng.random() < plan.trucks,
                    )
    if width >= 6.5 and plan.parked and length > 20:
        marks = np.arange(8, length - 8, 6.0)
        for (x, y), heading in zip(*along(line, marks), strict=True):
            for side in (-1, 1):
                if rng.random() < plan.parked:
                    off = side * (width / 2 - 1.15)
                    add_vehicle(
                        site,
                        x - math.sin(heading) * off,
                        y + math.cos(heading) * off,
                        heading if side > 0 else heading + math.pi,
                    )
    if plan.trees and length > 20:
        marks = np.arange(6, length - 6, 9.0) + rng.uniform(-2, 2)
        for (x, y), heading in zip(*along(line, marks), strict=True):
            for side in (-1, 1):
                if rng.random() < plan.trees:
                    off = side * (width / 2 + plan.pavement + 1.2)
                    add_tree(
                        site,
                        x - math.sin(heading) * off,
                        y + math.cos(heading) * off,
                        rng.uniform(1.6, 3.6),
                        check=0.3,
                    )


def lay_streets(site: Site, plan: Streets) -> list[Block]:
    """Build the streets of a town and return its blocks that touch the site."""
    rng = site.rng
    net = Net.draw(site, plan)
    asphalt = vary(rng, (108, 108, 110), 0.22, 3)
    dirt = vary(rng, (176, 142, 108), 0.12, 8)
    built: list[tuple[Points, float]] = []
    for axis, (lines, others, widths) in enumerate([(net.us, net.vs, net.wide_u), (net.vs, net.us, net.wide_v)]):
        for at, width in zip(lines, widths, strict=True):
            kept = (rng.random(len(others) - 1) < plan.keep) | (width == plan.main_width)
            paved = rng.random() < plan.paved or (width == plan.main_width and plan.paved > 0)
            start = 0
            while start < len(kept):
                if not kept[start]:
                    start += 1
                    continue
                stop = start
                while stop < len(kept) and kept[stop]:
                    stop += 1
                run = np.arange(others[start], others[stop] + 0.1, 6.0)
                uv = np.stack([np.full_like(run, at), run] if axis == 0 else [run, np.full_like(run, at)], axis=-1)
                rgb, name = (vary(rng, asphalt, 0.05, 1), "grey") if paved else (vary(rng, dirt, 0.05, 2), "brown")
                line = net.to_site(uv)
                for piece in add_road(
                    site,
                    line,
                    float(width),
                    paved=paved,
                    rgb=rgb,
                    name=name,
                    pavement=plan.pavement if paved else 0.0,
                ):
                    built.append((piece, float(width)))
                start = stop
    for line, width in built:
        _furnish(site, line, width, plan)
    for line, width in built:
        site.claim(LineString(line).buffer(width / 2 + 0.3, quad_segs=3))
    blocks = []
    rim = plan.pavement + 0.8
    for i in range(len(net.us) - 1):
        for j in range(len(net.vs) - 1):
            block = Block(
                net,
                net.us[i] + net.wide_u[i] / 2 + rim,
                net.us[i + 1] - net.wide_u[i + 1] / 2 - rim,
                net.vs[j] + net.wide_v[j] / 2 + rim,
                net.vs[j + 1] - net.wide_v[j + 1] / 2 - rim,
            )
            middle = block.rect()
            if min(block.size) > 8 and site.near(middle.x, middle.y, max(block.size) * 0.75 + plan.bend):
                blocks.append(block)
    return blocks
