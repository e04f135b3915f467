"""Real pictures, a real HTTP server whose boxes are shifted, ``nano`` on both routes: what a calibration brings back.

The small form of ``bench/geoseg_shift.py``; here the shift is alone, so all of it can be undone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endpoint_server import Asked, Say, endpoint_server
from geoseg_parts import item, listed, official
from oracle_endpoint import boxed, targets
from terraprompt.datasets.pack import Record, find_pack, read_pack
from terraprompt.engines.geoseg import GeoSegEngine, geoseg
from terraprompt.flow.session import segment
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.box_calibration import fit_calibration
from terraprompt.vlm.calibration import LabeledAnswer
from terraprompt.vlm.conventions import Convention, Units, View

log = logging.getLogger(__name__)  # numbers: pytest --log-cli-level=INFO

SIDE = 800  # of the square that the reasoner is shown
SHIFT = 0.25


@dataclass(frozen=True)
class Case:
    """One object of a picture."""

    path: Path
    phrase: str
    truth: np.ndarray
    box: tuple[float, float, float, float]


class Shifted:
    """Answers with the box of ``case`` in pixels of the square, moved right and down by a share of its sides."""

    def __init__(self) -> None:
        self.case: Case | None = None
        self.shift = 0.0

    def __call__(self, asked: Asked) -> Say:
        assert self.case is not None
        box = told(self.case.box, self.case.truth.shape, self.shift)
        if '{"bbox": [' in asked.words:
            return Say(official(box, self.case.phrase))
        return Say(listed(item(box, self.case.phrase)))


def told(box: Any, size: tuple[int, ...], shift: float) -> list[float]:
    x0, y0, x1, y1 = (float(v) for v in box)
    across, down = shift * (x1 - x0), shift * (y1 - y0)
    edges = (x0 + across, y0 + down, x1 + across, y1 + down)
    return [edge * SIDE / size[1 - i % 2] for i, edge in enumerate(edges)]


def measured(root: Path, path: Path, engine: GeoSegEngine) -> Path:
    """A calibration from boxes of the train split, as if they had been asked for."""
    records: list[Record] = [r for r in read_pack(root, "train", sources=["estonia_ortho"]) if "building" in r.present]
    answers = []
    for record in records[:6]:
        size = (record.height, record.width)
        boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in record.boxes("building"))
        instances = []
        for box in boxes:
            a, b, c, d = told(box, size, SHIFT)
            instances.append(Instance((a, b, c, d)))
        answers.append(LabeledAnswer(tuple(instances), boxes, size))
    reading = Convention(Units.PIXELS, View("square", side=SIDE))
    path.write_text(fit_calibration(answers, engine.reasoner, reading).as_json(), encoding="utf-8")
    return path


@pytest.mark.data
def test_a_calibration_brings_back_what_a_shift_lost(tmp_path: Path) -> None:
    root = find_pack()
    if root is None:
        pytest.skip("no imagery pack: set TERRAPROMPT_DATA or put it at ../shared/data")
    cases = []
    for source, category in (("fair_oam", "building"), ("arctic_lakes", "lake"), ("gsi_solar", "solar_panel")):
        record = next(r for r in read_pack(root, "val", sources=[source]) if category in r.present)
        mask = record.load_mask(category)
        for target in targets(mask, most=1):
            cases.append(Case(record.image, category.replace("_", " "), boxed(mask, target) == 1, target.box))
    model = Shifted()
    with endpoint_server(model) as server:
        link: dict[str, Any] = {"endpoint": server.url, "model": "oracle", "units": "pixels", "side": SIDE}
        release, plain = geoseg(**link, mode="official"), geoseg(**link)
        ours = geoseg(**link, calibration=measured(root, tmp_path / "c.json", plain))

        def giou(engine: GeoSegEngine, shift: float) -> float:
            model.shift, overlaps = shift, []
            for case in cases:
                model.case = case
                with segment(case.path, f"the {case.phrase}", engine=engine) as result:
                    assert result.status.value != "failed", result.reason
                    mask = result.mask() == 1
                overlaps.append(np.count_nonzero(mask & case.truth) / np.count_nonzero(mask | case.truth))
            return float(np.mean(overlaps))

        exact = {"official": giou(release, 0), "calibrated": giou(plain, 0)}
        shifted = {"official": giou(release, SHIFT), "plain": giou(plain, SHIFT), "calibrated": giou(ours, SHIFT)}
    log.info("exact %s, shifted %s", exact, shifted)
    assert shifted["plain"] < exact["calibrated"] - 0.1, "the shift costs something"
    for before, after in (("official", shifted["official"]), ("calibrated", shifted["plain"])):
        assert shifted["calibrated"] - after >= 0.8 * (exact[before] - after)
