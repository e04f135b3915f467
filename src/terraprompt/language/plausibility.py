"""What cannot be in the images of a source, although nobody labelled it: the ground for "assumed" absent categories.

Set by viewing the images of every source (as contact sheets), and conservative: a category stands here only if it was
seen nowhere and its presence would be odd. Water next to "lake", roofs next to "storage_tank" and clearings next to
"bare_ground" stay out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ABSENT_IN_SOURCE", "DOUBTED", "EXCEPTIONS"]

_VEHICLES = frozenset({"car", "bus", "truck", "boat", "airplane"})

ABSENT_IN_SOURCE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # villages in gardens, and dense housing; unpaved tracks, cars and trees do occur
        "fair_oam": frozenset({"lake", "landslide", "airplane", "boat", "solar_panel", "swimming_pool"}),
        # remote tundra at several metres a pixel; dark green parts may be forest, cut banks may be slides
        "arctic_lakes": _VEHICLES
        | {"building", "solar_panel", "storage_tank", "sports_court", "swimming_pool", "field"},
        # Japanese towns and hills: solar roofs, rivers, courts and a slope under repair occur
        "gsi_road": frozenset({"airplane"}),
        "gsi_solar": frozenset({"airplane", "boat", "landslide"}),
        # mountain valleys with rivers and some villages
        "sichuan_landslide": frozenset({"airplane", "boat", "solar_panel", "storage_tank"}),
        # desert city: pools, courts, a golf pond and a few solar roofs occur
        "vegas_road": frozenset({"airplane", "boat", "forest", "landslide"}),
        # 10 m a pixel: nothing as small as a vehicle or a court can be seen
        "amazon_forest": _VEHICLES | {"solar_panel", "swimming_pool", "sports_court", "storage_tank", "landslide"},
        "estonia_ortho": frozenset({"landslide"}),
        # savanna and mountain woods without people, but for one empty road
        "deepforest_neon": _VEHICLES
        | {"building", "lake", "field", "solar_panel", "storage_tank", "sports_court", "swimming_pool"},
        # one street in Munich
        "aerial_cars": frozenset(
            {
                "lake",
                "landslide",
                "airplane",
                "boat",
                "field",
                "sports_court",
                "storage_tank",
                "swimming_pool",
            }
        ),
    }
)

EXCEPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # straight-edged clearings, perhaps a camp or a pit
        "arctic_lakes/r20_c48_256": frozenset({"building", "field", "storage_tank"}),
    }
)
"""Record id -> categories that must not be assumed absent there."""

DOUBTED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # its notes say that one bus is not labelled, but not in which frames
        "aerial_cars": frozenset({"bus"}),
    }
)
"""Source -> labelled categories whose missing regions prove nothing."""
