"""The 117 categories of GeoSeg-1M (UniGeoSeg, Table 14) and ours, mapped to each other by ``geoseg_1m.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = ["PublishedCategory", "published_categories", "published_category", "published_name"]


@dataclass(frozen=True, slots=True)
class PublishedCategory:
    """A category of Table 14.

    Attributes:
        number: 1 to 117.
        name: as printed.
        ours: the category of the forge's vocabulary that means the same; "" for what no instruction is written about.
    """

    number: int
    name: str
    ours: str


@cache
def published_categories() -> tuple[PublishedCategory, ...]:
    """All 117, in their order."""
    return _load()[0]


def published_category(ours: str) -> PublishedCategory | None:
    """The published category that one of ours is counted as; None if none is near.

    Args:
        ours: a category of the forge's vocabulary.
    """
    number = _load()[1].get(ours, 0)
    return published_categories()[number - 1] if number else None


def published_name(ours: str) -> str | None:
    """Name of the published category that one of ours is counted as; None if none is near."""
    found = published_category(ours)
    return None if found is None else found.name


@cache
def _load() -> tuple[tuple[PublishedCategory, ...], Mapping[str, int]]:
    raw = tomllib.loads(resources.files(__package__).joinpath("geoseg_1m.toml").read_text(encoding="utf-8"))
    rows = tuple(PublishedCategory(*row) for row in raw["categories"])
    return rows, {row.ours: row.number for row in reversed(rows) if row.ours} | raw["numbers"]
