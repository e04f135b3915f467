"""The progressive task schedule against its formula."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.errors import ConfigError
from terraprompt.prompt import Task
from terraprompt.training.schedule import TaskSchedule


def test_the_multipliers_of_the_paper() -> None:
    schedule = TaskSchedule((1, 1, 1))
    assert schedule.multipliers(0) == (1.0, 1.0, 1.0)
    assert schedule.multipliers(1) == pytest.approx((0.7, 1.0, 1.3))
    assert schedule.multipliers(0.5) == pytest.approx((0.85, 1.0, 1.15))
    cosine = TaskSchedule((1, 1, 1), curve="cosine")
    assert cosine.multipliers(0.25)[0] == pytest.approx(1 - 0.3 * (1 - math.cos(math.pi / 4)) / 2)
    assert cosine.multipliers(0.5) == pytest.approx((0.85, 1.0, 1.15))


def test_the_horizon_and_what_lies_beyond() -> None:
    early = TaskSchedule((1, 1, 1), horizon=0.5)
    assert early.multipliers(0.25) == pytest.approx((0.85, 1.0, 1.15))
    for progress in (0.5, 0.8, 1.0, 3.0):
        assert early.multipliers(progress) == pytest.approx((0.7, 1.0, 1.3))
    assert early.multipliers(-1) == (1.0, 1.0, 1.0)
    assert TaskSchedule((1, 1, 1), floor=1.0).multipliers(0.9) == (1.0, 1.0, 1.0)


def test_by_shares_referring_is_constant_and_the_freed_share_is_reasonings() -> None:
    schedule = TaskSchedule((0.42, 0.48, 0.10), by="shares")
    for progress in (0.0, 0.3, 1.0):
        interactive = 0.42 * schedule.multipliers(progress)[0]
        assert schedule.shares(progress) == pytest.approx((interactive, 0.48, 0.52 - interactive))
    by_multipliers = TaskSchedule((0.42, 0.48, 0.10)).shares(1.0)
    assert by_multipliers[1] != pytest.approx(0.48, abs=0.01), "the other reading lets it move"
    nobody = TaskSchedule((1.0, 1.0, 0.0), by="shares")
    assert nobody.shares(1.0) == pytest.approx((0.7 / 1.7, 1 / 1.7, 0.0)), "no reasoning: nothing is asked of it"


@given(
    natural=st.tuples(*[st.floats(0.01, 1)] * 3),
    progress=st.floats(0, 1),
    floor=st.floats(0, 1),
    curve=st.sampled_from(["linear", "cosine"]),
)
def test_shares_are_natural_times_multiplier(
    natural: tuple[float, float, float], progress: float, floor: float, curve: Any
) -> None:
    schedule = TaskSchedule(natural, floor=floor, curve=curve)
    weights = np.array(natural) * schedule.multipliers(progress)
    assert schedule.shares(progress) == pytest.approx(weights / weights.sum())
    later = schedule.shares(min(progress + 0.1, 1.0))
    assert later[0] <= schedule.shares(progress)[0] + 1e-12


def test_drawing_follows_the_shares_and_the_seed() -> None:
    schedule = TaskSchedule((0.5, 0.3, 0.2))
    drawn = [schedule.draw(1.0, np.random.default_rng([0, i])) for i in range(3000)]
    counts = Counter(drawn)
    for task, share in zip(Task, schedule.shares(1.0), strict=True):
        assert counts[task] / 3000 == pytest.approx(share, abs=0.03)
    assert drawn == [schedule.draw(1.0, np.random.default_rng([0, i])) for i in range(3000)]


@pytest.mark.parametrize(
    "values",
    [
        {"natural": (0, 0, 0)}, {"natural": (-1, 1, 1)}, {"natural": (1, 1, 1), "floor": 1.2},
        {"natural": (1, 1, 1), "horizon": 0}, {"natural": (1, 1, 1), "curve": "steps"},
        {"natural": (1, 1, 1), "by": "turns"},
    ],
)  # fmt: skip
def test_bad_settings(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TaskSchedule(**values)
