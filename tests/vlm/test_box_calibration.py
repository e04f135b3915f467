"""The calibration of a reasoner as a file: kept to the digit, refused if damaged, fitted through strong shifts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terraprompt.errors import ConfigError, ReasonerError
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.bias import BiasFit
from terraprompt.vlm.box_calibration import BoxCalibration, fit_calibration
from terraprompt.vlm.calibration import LabeledAnswer
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import connect

VIEW = View("square", side=800)
THOUSAND = Convention(Units.THOUSAND, VIEW)


def known() -> BoxCalibration:
    fit = BiasFit(0.25, -0.25, 20, 0.4, 0.5, 0.9, 0.91)
    return BoxCalibration("größe-vl", "endpoint", VIEW, THOUSAND, 0.25, -0.25, "fitted", fit, 9, {"data": "mine"})


def test_a_file_gives_back_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(known().as_json(), encoding="utf-8")
    assert BoxCalibration.load(tmp_path / "c.json") == known()


@pytest.mark.parametrize(
    "damage",
    [
        lambda facts: facts | {"version": 2},
        lambda facts: facts | {"alpha": "much"},
        lambda facts: facts | {"alpha": float("nan")},
        lambda facts: facts | {"alpha": -0.7, "beta": -0.7},
        lambda facts: facts | {"convention": {"units": "miles", "view": facts["shown"]}},
        lambda facts: {name: value for name, value in facts.items() if name != "fit"},
        lambda facts: [facts],
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(damage(json.loads(known().as_json()))))
    with pytest.raises(ConfigError, match="calibration cannot be read"):
        BoxCalibration.load(tmp_path / "c.json")


def answers(shift: float, *, count: int = 6) -> list[LabeledAnswer]:
    """Two boxes in each of several images, moved right and down by a share of their sides, told in thousandths."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        truth, told = [], []
        for left in (50, 400):
            x, y, width, height = left + rng.uniform(0, 100), rng.uniform(50, 500), *rng.uniform(40, 120, 2)
            truth.append((x, y, x + width, y + height))
            moved = x + shift * width, y + shift * height
            edges = (*moved, moved[0] + width, moved[1] + height)
            told.append(Instance(tuple(v / (800, 600)[i % 2] * 1000 for i, v in enumerate(edges))))
        out.append(LabeledAnswer(tuple(told), tuple(truth), (600, 800)))
    return out


@pytest.mark.parametrize("shift", [-0.3, 0.25, 0.45])
def test_a_shift_is_found(shift: float) -> None:
    reasoner = connect("http://localhost:1/v1", "m", convention=THOUSAND)
    made = fit_calibration(answers(shift), reasoner, THOUSAND, source={"seed": 3})
    assert (made.alpha, made.beta) == pytest.approx((shift, -shift), abs=0.011)
    assert (made.advised, made.model, made.kind, made.fit.count) == ("fitted", "m", "endpoint", 12)
    assert made.fit.iou_fitted > 0.97
    assert made.source == {"seed": 3}


def test_good_boxes_are_left_alone_and_few_are_not_enough() -> None:
    reasoner = connect("http://localhost:1/v1", "m", convention=THOUSAND)
    good = fit_calibration(answers(0), reasoner, THOUSAND)
    assert (good.advised, good.alpha, good.beta) == ("plain", 0, 0)
    with pytest.raises(ReasonerError, match=r"Too few.*6 pairs of 6 labels"):
        fit_calibration(answers(0.25, count=3), reasoner, THOUSAND)
