"""The 117 published categories: whole, and mapped both ways."""

from __future__ import annotations

from collections import Counter

from terraprompt.language.categories import forge_vocabulary
from terraprompt.language.geoseg_1m import published_categories, published_category


def test_all_117_are_there_and_mean_one_of_ours():
    rows = published_categories()
    assert [row.number for row in rows] == list(range(1, 118))
    assert {row.name for row in rows if not row.ours} == {"Background", "Clouds/Shadows"}
    assert {row.ours for row in rows if row.ours} <= set(forge_vocabulary().categories)
    assert [name for name, count in Counter(row.name for row in rows).items() if count > 1] == ["Airport"]


def test_each_of_ours_is_counted_as_one_that_means_it():
    known = {name: published_category(name) for name in forge_vocabulary().categories}
    assert [name for name, row in known.items() if row is None] == ["solar_panel"]
    others = {name: row.name for name, row in known.items() if row is not None and row.ours != name}
    assert others == {"traffic_land": "Impervious (Other)", "landslide": "Barren_Land", "boat": "Ship"}
    assert published_category("grassland").name == "Grass"
    assert published_category("airport").number == 45
