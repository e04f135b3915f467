"""Crops: what is asked, where it is drawn, and that the truth is under it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from labeled_images import CAR, LAKE, ROOF, parking, rendered, street, town
from numpy.typing import NDArray

from terraprompt.prompt import Task
from terraprompt.training.crops import Crop, CropRecipe, make_crop
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.rendered import from_rendered

RECIPE = CropRecipe(size=64, light=False, selectors=0.0)


def crops(
    labeled: LabeledImage, task: Task, count: int, recipe: CropRecipe = RECIPE, reasoning: float = 0.4
) -> list[Crop]:
    return [make_crop(labeled, task, reasoning, recipe, np.random.default_rng([5, i])) for i in range(count)]


def looks(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Pixels clearly of a colour."""
    return np.abs(image.astype(int) - colour).sum(-1) < 60


def test_points_and_boxes_are_on_their_target() -> None:
    kinds = set()
    for crop in crops(town(), Task.INTERACTIVE, 60):
        (item,) = crop.items
        assert item.task is Task.INTERACTIVE
        assert item.presence == 1
        assert item.known is None
        assert item.boxes is None
        drawn = crop.points[crop.points[:, 2] >= 0]
        assert (crop.points[len(drawn) :, 2] == -1).all()
        for x, y, label in drawn:
            assert item.target[int(y), int(x)] == label
        has_box = crop.box[2] > crop.box[0]
        if has_box:
            rows, cols = np.nonzero(item.target)
            tight = np.array([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
            reach = np.tile([tight[2] - tight[0], tight[3] - tight[1]], 2) * 0.1 + 1e-3
            assert (np.abs(crop.box - tight) <= reach).all()
            np.testing.assert_allclose(item.coordinates[0], crop.box / 64, rtol=1e-6)
            assert not item.coordinates[1:].any()
        else:
            positive = drawn[drawn[:, 2] == 1][:3]
            np.testing.assert_allclose(item.coordinates[: len(positive), :2], positive[:, :2] / 64, rtol=1e-6)
            assert not item.coordinates[:, 2:].any()
        assert not any(c.isdigit() for c in item.text)
        kinds.add((has_box, bool(len(drawn)), bool((drawn[:, 2] == 0).any())))
    assert {(True, False, False), (False, True, False), (False, True, True)} <= kinds


def test_the_target_shows_the_colour_of_its_object() -> None:
    """Image and truth are cut by one map: turned, flipped, scaled."""
    for crop in crops(town(), Task.INTERACTIVE, 40):
        (item,) = crop.items
        target = item.target > 0
        seen = looks(crop.image, ROOF) | looks(crop.image, LAKE)
        assert seen[target].mean() > 0.85
        # exactly one object: the other roof is not part of it
        both = np.count_nonzero(target & looks(crop.image, ROOF)), np.count_nonzero(target & looks(crop.image, LAKE))
        assert min(both) == 0


def test_texts_about_categories() -> None:
    seen = set()
    for crop in crops(town(), Task.REFERRING, 40):
        assert len(crop.items) == 3
        assert crop.items[0].task is Task.REFERRING
        assert (crop.points[:, 2] == -1).all()
        assert not crop.box.any()
        for item in crop.items:
            assert item.presence == (1 if item.target.sum() >= 16 else 0 if not item.target.any() else -1)
            assert not item.coordinates.any()
            seen.add(item.presence)
        first = crop.items[0].target > 0
        colour = looks(crop.image, ROOF), looks(crop.image, LAKE)
        if first.sum() > 100:
            assert max(np.count_nonzero(c & first) / first.sum() for c in colour) > 0.85
        # the last text asks for something that is not there
        assert crop.items[-1].presence == 0
    assert {0, 1} <= seen
    assert all(c.items[0].task is Task.REASONING for c in crops(town(), Task.REASONING, 5))


def test_shares_of_reasoning_among_the_other_texts() -> None:
    for reasoning, task in ((0.0, Task.REFERRING), (1.0, Task.REASONING)):
        for crop in crops(town(), Task.REFERRING, 10, reasoning=reasoning):
            assert {item.task for item in crop.items[1:]} == {task}


def test_boxes_alone_give_weak_items() -> None:
    some = 0
    for crop in crops(parking(), Task.REFERRING, 30):
        for item in crop.items:
            assert item.boxes is not None
            inside = np.zeros_like(item.target)
            for x0, y0, x1, y1 in item.boxes.round().astype(int):
                inside[y0:y1, x0:x1] = 1
            assert np.array_equal(item.target, inside)
            assert (item.boxes[:, 2:] - item.boxes[:, :2] >= 2).all()
            white = looks(crop.image, CAR)
            assert np.count_nonzero(white & (item.target == 0)) <= 0.2 * max(white.sum(), 20)
            some += len(item.boxes)
    assert some > 30
    for crop in crops(parking(), Task.INTERACTIVE, 20):
        (item,) = crop.items
        assert item.boxes is not None
        assert item.boxes.shape == (1, 4)
        for x, y, label in crop.points[crop.points[:, 2] >= 0]:
            assert item.target[int(y), int(x)] == label
            if label == 1:
                assert looks(crop.image, CAR)[int(y), int(x)]


def test_near_a_centre_line_nothing_is_known() -> None:
    for crop in crops(street(), Task.REFERRING, 20):
        for item in crop.items:
            if item.presence == 0:
                continue
            assert item.known is not None
            assert item.known[item.target > 0].all()
            grey = looks(crop.image, (120, 120, 120))
            # the road's own margin, which the label misses, is left out
            assert not item.known[grey & (item.target == 0)].any()
            assert (item.known == 0).any()
    # a centre line is nothing to click on
    assert all(c.items[0].task is not Task.INTERACTIVE for c in crops(street(), Task.INTERACTIVE, 5))


def test_words_of_place_and_size_pick_part_of_a_category() -> None:
    recipe = replace(RECIPE, selectors=1.0, size=96, scales=(0.9, 1.1))
    whole = [c.items[0].target.sum() for c in crops(town(), Task.REFERRING, 1, recipe)]
    assert whole
    parts = 0
    for crop in crops(town(), Task.REFERRING, 40, recipe):
        for item in crop.items[1:]:
            target, roofs = item.target > 0, looks(crop.image, ROOF)
            covered = np.count_nonzero(target & roofs)
            parts += 0 < covered < 0.8 * np.count_nonzero(roofs)
    assert parts >= 5


def test_the_same_seed_gives_the_same_crop() -> None:
    recipe = CropRecipe(size=64)
    for labeled in (town(), parking(), street(), rendered()):
        for task in Task:
            a, b = crops(labeled, task, 2, recipe), crops(labeled, task, 2, recipe)
            for x, y in zip(a, b, strict=True):
                assert np.array_equal(x.image, y.image)
                assert [i.text for i in x.items] == [i.text for i in y.items]
                assert all(np.array_equal(i.target, j.target) for i, j in zip(x.items, y.items, strict=True))
            assert not np.array_equal(a[0].image, a[1].image)


def test_rendered_scenes_know_what_is_absent() -> None:
    from terraprompt_synthetic import render

    scene = render(3, width=128, height=128, gsd_m=0.4)
    names = ("building", "road", "tree", "lake", "sports_court", "storage_tank")
    labeled = from_rendered(scene, names)
    absent = {a.category for a in labeled.absent}
    assert set(labeled.labels) | absent == set(names)
    assert not set(labeled.labels) & absent
    assert all(a.kind == "verified" for a in labeled.absent)
    for name, ids in labeled.labels.items():
        assert np.array_equal(ids > 0, scene.labels(name) > 0)
    assert not labeled.weak


@pytest.mark.parametrize("size", [32, 64])
def test_shapes(size: int) -> None:
    for task in Task:
        (crop,) = crops(town(), task, 1, CropRecipe(size=size, items=2))
        assert crop.image.shape == (size, size, 3)
        assert crop.points.shape == (6, 3)
        assert crop.box.shape == (4,)
        for item in crop.items:
            assert item.target.shape == (size, size)
            assert item.coordinates.shape == (3, 4)


def test_where_nobody_labelled_nothing_is_learnt() -> None:
    known = np.ones_like(town().labels["lake"], dtype=np.uint8)
    known[:, :48] = 0
    labeled = replace(town(), known=known)
    recipe = CropRecipe(size=96, scales=(1.0, 1.0))
    rng = np.random.default_rng(3)
    seen = [item for _ in range(12) for item in make_crop(labeled, Task.REFERRING, 0.5, recipe, rng).items]
    masks = [item.known for item in seen if item.known is not None]
    assert len(masks) >= 12
    assert all(0.1 < mask.mean() < 0.9 for mask in masks)
    absent = [item for item in seen if item.presence == 0]
    assert all(item.known is None or item.known.mean() >= 0.9 for item in absent), "nothing is called absent unseen"
    interactive = make_crop(labeled, Task.INTERACTIVE, 0.5, recipe, rng)
    assert interactive.items[0].known is not None


def test_points_outside_lie_on_the_ground_or_on_another_object() -> None:
    labeled = replace(town(), labels={"building": town().labels["building"]}, absent=())
    recipe = CropRecipe(size=96, object_share=(0.3, 0.3), light=False)
    on_other = on_ground = 0
    for seed in range(150):
        crop = make_crop(labeled, Task.INTERACTIVE, 0.5, recipe, np.random.default_rng(seed))
        (item,) = crop.items
        for x, y, inside in crop.points:
            if inside >= 0:
                assert item.target[int(y), int(x)] == inside
                if not inside:
                    roof = bool(looks(crop.image, ROOF)[int(y), int(x)])
                    on_other, on_ground = on_other + roof, on_ground + (not roof)
    assert on_other >= 10
    assert on_ground >= 20
