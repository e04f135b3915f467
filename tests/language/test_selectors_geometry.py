"""Objects of masks, and selectors that are clear for them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from terraprompt.language.object_geometry import Margins, clear_selectors, components, empty_selectors
from terraprompt.language.selector import Selector


def scene(*boxes: tuple[int, int, int, int], size: int = 100) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 1
    return mask


@settings(deadline=None)
@given(hnp.arrays(np.uint8, (12, 15), elements=st.integers(0, 1)), st.integers(1, 6))
def test_components_are_those_of_the_mask(mask: np.ndarray, least: int) -> None:
    found = components(mask, min_area=least)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    assert len(found.items) + found.specks == count
    assert sorted(item.area for item in found.items) == sorted(float(s) for s in sizes if s >= least)
    assert (found.labels != 0).sum() == mask.sum()
    for i, item in enumerate(found.items):
        mine = found.mask([i])
        ys, xs = np.nonzero(mine)
        assert item.area == mine.sum()
        assert np.allclose(item.centroid, (xs.mean() + 0.5, ys.mean() + 0.5))
        assert item.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert found.mask(range(len(found.items))).sum() == sum(item.area for item in found.items)
    assert not found.mask([]).any()


def test_touching_objects_with_ids_stay_apart_and_cut_ones_are_two() -> None:
    ids = np.zeros((20, 30), np.int32)
    ids[2:8, 2:8] = 7
    ids[2:8, 8:14] = 3
    ids[12:18, 2:8] = 3
    found = components(ids)
    assert sorted(item.box for item in found.items) == [(2, 2, 8, 8), (2, 12, 8, 18), (8, 2, 14, 8)]
    assert len(components(ids > 0).items) == 2


def test_the_largest_needs_a_clear_lead() -> None:
    clear = components(scene((5, 5, 25, 25), (60, 60, 70, 70)))
    assert Selector("largest") in clear_selectors(clear)
    close = components(scene((5, 5, 25, 25), (60, 60, 79, 79)))
    assert Selector("largest") not in clear_selectors(close)
    assert Selector("largest") in clear_selectors(close, margins=Margins(size=1.05))


def test_the_smallest_is_not_said_with_specks_or_at_the_border() -> None:
    assert Selector("smallest") in clear_selectors(components(scene((5, 5, 25, 25), (60, 60, 70, 70))))
    assert Selector("smallest") not in clear_selectors(
        components(scene((5, 5, 25, 25), (60, 60, 70, 70), (90, 5, 92, 7)))
    )
    assert Selector("smallest") not in clear_selectors(components(scene((5, 5, 25, 25), (90, 60, 100, 70))))


def test_the_northernmost_needs_a_lead_and_the_higher_outline() -> None:
    assert Selector("extreme", "top") in clear_selectors(components(scene((5, 5, 15, 15), (60, 30, 70, 40))))
    assert Selector("extreme", "top") not in clear_selectors(components(scene((5, 5, 15, 15), (60, 7, 70, 17))))
    taller = components(scene((5, 20, 15, 30), (60, 10, 70, 90)))  # the lower centroid begins higher
    assert Selector("extreme", "top") not in clear_selectors(taller)


def test_nobody_may_stand_on_the_dividing_line() -> None:
    apart = components(scene((5, 5, 15, 15), (60, 60, 70, 70)))
    assert Selector("region", "upper left") in clear_selectors(apart)
    across = components(scene((5, 5, 15, 15), (60, 60, 70, 70), (46, 10, 56, 20)))
    assert Selector("region", "left half") not in clear_selectors(across)
    assert Selector("region", "upper half") in clear_selectors(across)


def test_empty_places_are_really_empty() -> None:
    found = components(scene((5, 5, 15, 15), (20, 60, 30, 70)))
    empty = empty_selectors(found)
    assert Selector("region", "right half") in empty
    assert Selector("region", "upper left") not in empty
    assert all(not selector.select(found.items, 100, 100) for selector in empty)
    assert empty_selectors(components(scene())) == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(4, 30), st.integers(4, 30)), max_size=7))
def test_clear_selectors_survive_small_changes(spots: list[tuple[int, int, int, int]]) -> None:
    found = components(scene(*((x, y, x + w, y + h) for x, y, w, h in spots)))
    rng = np.random.default_rng(0)
    for selector in clear_selectors(found):
        chosen = selector.select(found.items, 100, 100)
        assert 0 < len(chosen) < len(found.items)
        for _ in range(3):
            moved = [
                type(item)(
                    item.area * rng.uniform(0.9, 1.1),
                    item.box,
                    (item.centroid[0] + rng.uniform(-2, 2), item.centroid[1] + rng.uniform(-2, 2)),
                )
                for item in found.items
            ]
            assert selector.select(moved, 100, 100) == chosen
