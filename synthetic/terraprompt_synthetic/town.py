"""Built-up styles: suburb, informal settlement, industrial estate, city centre."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from terraprompt_synthetic.blocks import (
    city_block,
    courts,
    houses,
    park,
    shacks,
    shops,
    solar_farm,
    tank_farm,
    vacant,
    warehouses,
    wood,
)
from terraprompt_synthetic.country import add_lake
from terraprompt_synthetic.site import Site, pick
from terraprompt_synthetic.streets import Block, Streets, lay_streets

__all__ = ["DEMO", "TOWNS", "Town", "build_town"]

Filler = Callable[[Site, Block], None]


@dataclass(frozen=True, slots=True)
class Town:
    """A built-up style.

    Attributes:
        streets: how they are laid.
        mix: what may fill a block, with weights.
        pond: ponds expected in 15 hectares.
        musts: what fills the blocks nearest to the middle, whatever the dice say.
        lakes: placed for sure: x and y as shares of the scene's sides, radius in metres.
    """

    streets: Streets
    mix: tuple[tuple[Filler, float], ...]
    pond: float = 0.0
    musts: tuple[Filler, ...] = ()
    lakes: tuple[tuple[float, float, float], ...] = ()


TOWNS: dict[str, Town] = {
    "suburb": Town(
        Streets(
            (62, 90),
            (110, 210),
            (6.2, 8.0),
            11.5,
            main_share=0.15,
            bend=11,
            keep=0.93,
            busy=0.25,
            parked=0.09,
            trees=0.22,
        ),
        (
            (houses, 12),
            (park, 1.1),
            (courts, 0.8),
            (shops, 0.9),
            (vacant, 0.5),
            (wood, 0.5),
            (solar_farm, 0.25),
        ),
        pond=0.35,
    ),
    "informal": Town(
        Streets(
            (40, 75),
            (50, 110),
            (3.0, 5.0),
            7.5,
            main_share=0.15,
            bend=14,
            keep=0.85,
            paved=0.12,
            pavement=0.0,
            busy=0.18,
            parked=0.02,
            trees=0.05,
        ),
        ((shacks, 12), (vacant, 1.2), (courts, 0.3), (park, 0.35)),
        pond=0.12,
    ),
    "industrial": Town(
        Streets(
            (95, 170),
            (120, 240),
            (8.0, 10.0),
            14.0,
            main_share=0.25,
            bend=5,
            keep=0.85,
            pavement=1.2,
            busy=0.35,
            parked=0.05,
            trees=0.1,
            trucks=0.4,
        ),
        ((warehouses, 8), (tank_farm, 1.8), (shops, 1.2), (vacant, 1.0), (solar_farm, 0.8), (wood, 0.4)),
        pond=0.25,
    ),
    "downtown": Town(
        Streets(
            (65, 105),
            (80, 130),
            (10.0, 13.0),
            18.0,
            main_share=0.3,
            bend=3,
            keep=0.97,
            pavement=3.0,
            busy=0.8,
            parked=0.35,
            trees=0.35,
        ),
        ((city_block, 12), (park, 1.0), (courts, 0.5), (shops, 0.5)),
        pond=0.05,
    ),
}


DEMO = Town(
    TOWNS["suburb"].streets,
    ((houses, 10), (park, 0.8), (courts, 0.8), (shops, 0.6)),
    musts=(houses, tank_farm, houses, solar_farm),
    lakes=((0.2, 0.72, 34.0),),
)


def build_town(site: Site, town: Town) -> None:
    """Lay out a built-up scene."""
    rng = site.rng
    for _ in range(rng.poisson(town.pond * site.area / 1.5e5)):
        x, y = rng.uniform(0, site.width), rng.uniform(0, site.height)
        add_lake(site, x, y, rng.uniform(14, 60))
    for x, y, radius in town.lakes:
        add_lake(site, x * site.width, y * site.height, radius)
    fillers, weights = zip(*town.mix, strict=True)
    blocks = lay_streets(site, town.streets)
    middle = [(block.rect().x - site.width / 2, block.rect().y - site.height / 2) for block in blocks]
    nearest = sorted(range(len(blocks)), key=lambda i: math.hypot(*middle[i]))
    musts = dict(zip(nearest, town.musts, strict=False))
    for i, block in enumerate(blocks):
        filler = pick(rng, fillers, weights)
        musts.get(i, filler)(site, block)
