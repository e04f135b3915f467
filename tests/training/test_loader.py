"""The stream of batches: any crop depends on the seed and its number alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from labeled_images import parking, street, town

from terraprompt.errors import ConfigError
from terraprompt.prompt import Task
from terraprompt.training.crops import CropRecipe, make_crop
from terraprompt.training.loader import Batch, CropStream, collate
from terraprompt.training.loop import step_batches
from terraprompt.training.schedule import TaskSchedule

SHARES = {"town": 0.6, "parking": 0.4}
MIXED = TaskSchedule((0.4, 0.3, 0.3))


def build(
    total: int = 12, seed: int = 0, schedule: TaskSchedule = MIXED, shares: dict[str, float] = SHARES
) -> CropStream:
    return CropStream([town(), parking(), street()], shares, schedule, CropRecipe(size=32), seed, total)


def stream(crops: CropStream, batch: int, *, start: int = 0, workers: int = 0) -> Iterator[Batch]:
    for (made,) in step_batches(crops, collate, batch=batch, micro_batch_size=batch, start=start, workers=workers):
        yield made


def same(a: Batch, b: Batch) -> bool:
    for name in Batch.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        if not (torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y):
            return False
    return True


def all_same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def test_the_seed_decides() -> None:
    first = list(stream(build(), 3))
    assert len(first) == 4
    assert all_same(first, list(stream(build(), 3)))
    assert not all_same(first, list(stream(build(seed=1), 3)))


def test_workers_change_nothing() -> None:
    assert all_same(list(stream(build(), 3)), list(stream(build(), 3, workers=2)))


def test_a_later_start_continues_exactly() -> None:
    whole = list(stream(build(), 3))
    for steps in range(5):
        assert all_same(whole[steps:], list(stream(build(), 3, start=steps)))


def test_what_does_not_fill_a_batch_is_left_out() -> None:
    assert [len(b.images) for b in stream(build(total=11), 3)] == [3, 3, 3]


def test_sources_are_drawn_by_their_shares() -> None:
    crops = build(total=400)
    counts = Counter(crops[i].source for i in range(400))
    assert set(counts) == {"town", "parking"}  # streets have no share
    assert counts["town"] / 400 == pytest.approx(0.6, abs=0.08)
    with pytest.raises(ConfigError, match=r"town.*parking|parking.*town"):
        build(shares={"elsewhere": 1.0})


def test_tasks_follow_the_schedule_over_the_training() -> None:
    schedule = TaskSchedule((0.5, 0.5, 0.0), floor=0.0, horizon=1.0)
    crops = build(total=400, schedule=schedule, shares={"town": 1.0})
    tasks = [crops[i].items[0].task for i in range(400)]
    early, late = (sum(t is Task.INTERACTIVE for t in part) for part in (tasks[:100], tasks[300:]))
    assert early > late + 15


def test_images_with_rare_categories_are_drawn_more_often() -> None:
    common = [replace(town(), id=f"town/{i}", labels={"building": town().labels["building"]}) for i in range(4)]
    rare = replace(town(), id="town/rare")  # the only one with a lake: rarer by five, drawn by its root
    stream_ = CropStream([*common, rare], {"town": 1.0}, MIXED, CropRecipe(size=32), 0, 1)
    root = 5**0.5
    assert stream_.within["town"] == pytest.approx([*[1 / (4 + root)] * 4, root / (4 + root)])


def test_a_schedule_of_one_task() -> None:
    crops = build(schedule=TaskSchedule((1.0, 0.0, 0.0), floor=1.0), shares={"town": 1.0})
    assert all(crops[i].items[0].task is Task.INTERACTIVE for i in range(12))
    texts = build(schedule=TaskSchedule((0.0, 1.0, 0.0)), shares={"town": 1.0})
    assert {item.task for i in range(12) for item in texts[i].items} == {Task.REFERRING}


def test_collating_keeps_every_item_with_its_crop() -> None:
    import numpy as np

    recipe = CropRecipe(size=32, light=False)
    crops = [
        make_crop(labeled, task, 0.5, recipe, np.random.default_rng(3))
        for labeled, task in ((town(), Task.INTERACTIVE), (parking(), Task.REFERRING), (street(), Task.REASONING))
    ]
    batch = collate(crops)
    items = [(b, item) for b, crop in enumerate(crops) for item in crop.items]
    assert batch.images.shape == (3, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.image.tolist() == [b for b, _ in items]
    assert batch.texts == tuple(item.text for _, item in items)
    assert batch.task.tolist() == [list(Task).index(item.task) for _, item in items]
    assert batch.weak.tolist() == [item.boxes is not None for _, item in items]
    assert batch.known is not None
    for m, (b, item) in enumerate(items):
        assert torch.equal(batch.images[b], torch.from_numpy(crops[b].image.copy()).permute(2, 0, 1))
        assert torch.equal(batch.target[m], torch.from_numpy(item.target))
        assert bool(batch.known[m].all()) == (item.known is None or bool(item.known.all()))
        mine = batch.weak_boxes[batch.weak_item == m]
        assert len(mine) == (0 if item.boxes is None else len(item.boxes))
    assert collate(crops[:1]).known is None
    assert collate(crops[:1]).weak_boxes.shape == (0, 4)
