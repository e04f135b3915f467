"""A reasoner's calibration as a file: in which units it answers, and how its boxes are corrected (GeoSeg).

Fitted on labelled boxes by ``terraprompt reasoner calibrate -o FILE``, read by the engine geoseg, refused for any
reasoner but the one that was measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from terraprompt.errors import ConfigError, ReasonerError
from terraprompt.vlm.base import Reasoner
from terraprompt.vlm.bias import BiasFit, fit_bias
from terraprompt.vlm.calibration import LabeledAnswer, paired_boxes
from terraprompt.vlm.conventions import Convention, Units, View

__all__ = ["BoxCalibration", "fit_calibration"]

_VERSION = 1
_ROUNDS = 3
_FEWEST = 8


@dataclass(frozen=True, slots=True)
class BoxCalibration:
    """What was measured of one reasoner.

    Attributes:
        model: that was asked, as the server or the hub names it.
        kind: "endpoint", "local", …
        shown: how pictures were shown to it.
        convention: in which its answers are to be read.
        alpha, beta: constants of :func:`terraprompt.vlm.box_refinement.refine`, those of ``advised``.
        advised: "fitted", "fixed" (the release's 0.2 and 0.1) or "plain" (none): the best by expected IoU.
        fit: on how many pairs, and what each of the three is worth.
        answers: how many were read.
        source: on what it was measured (data, split, seed, …); JSON values.
    """

    model: str
    kind: str
    shown: View
    convention: Convention
    alpha: float
    beta: float
    advised: str
    fit: BiasFit
    answers: int
    source: Mapping[str, Any] = field(default_factory=dict)

    def check(self, reasoner: Reasoner) -> None:
        """Refuse any reasoner but the one that was measured, and one that is shown other pictures.

        Raises:
            ConfigError: it is another one.
        """
        again = "Calibrate again: terraprompt reasoner calibrate --data DATA -o FILE."
        mine, theirs = (self.kind, self.model), (reasoner.info.name, reasoner.info.model)
        if mine != theirs:
            raise ConfigError(
                "The calibration is of another reasoner.",
                received=f"measured: {' '.join(mine)}; to be asked: {' '.join(theirs)}",
                hint=again,
            )
        if self.shown != reasoner.convention.view:
            raise ConfigError(
                "The calibration is of pictures of another size.",
                received=f"measured: {self.shown}; to be shown: {reasoner.convention.view}",
                hint=f"Give the same --side. {again}",
            )

    def as_json(self) -> str:
        """The text of the file that :meth:`load` reads."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> BoxCalibration:
        """Read a file of :meth:`as_json`.

        Raises:
            ConfigError: missing, damaged, or of another version.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(raw, dict) or raw.pop("version", None) != _VERSION:
                raise ValueError(f"not a calibration of version {_VERSION}")
            reading = raw.pop("convention")
            made = cls(
                **raw
                | {
                    "shown": View(**raw["shown"]),
                    "convention": Convention(
                        **{**reading, "units": Units(reading["units"]), "view": View(**reading["view"])}
                    ),
                    "fit": BiasFit(**raw["fit"]),
                }
            )
            numbers = (float(made.alpha), float(made.beta))
            if not all(map(math.isfinite, numbers)) or sum(numbers) <= -1:
                raise ValueError(f"alpha and beta of {numbers}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                "The calibration cannot be read.",
                received=f"{path}: {error}",
                hint="Make one with terraprompt reasoner calibrate --data DATA -o FILE.",
            ) from None
        return replace(made, alpha=numbers[0], beta=numbers[1])


def fit_calibration(
    answers: Sequence[LabeledAnswer],
    reasoner: Reasoner,
    convention: Convention,
    *,
    source: Mapping[str, Any] | None = None,
) -> BoxCalibration:
    """Fit the correction of boxes that are read in ``convention``.

    Answered and labelled boxes are matched, the constants fitted, boxes matched again as corrected, and so on: a strong
    shift hides at first which box belongs to which label.

    Args:
        answers: to questions about labelled images.
        reasoner: that gave them.
        convention: in which they are read; found first (:func:`.calibration.calibrate`).
        source: on what was measured.

    Raises:
        ReasonerError: fewer than 8 answered boxes lie near a label.
    """
    alpha = beta = 0.0
    fit: BiasFit | None = None
    for _ in range(_ROUNDS):
        pairs = paired_boxes(answers, convention, alpha=alpha, beta=beta)
        if len(pairs.truth) < _FEWEST:
            raise ReasonerError(
                "Too few answered boxes lie near a label to fit a correction.",
                received=f"{len(pairs.truth)} pairs of {sum(len(answer.truth) for answer in answers)} labels",
                hint=f"At least {_FEWEST} are needed: ask more (--limit), and check the units.",
            )
        fit = fit_bias(pairs.answered, pairs.truth, pairs.sizes)
        if (fit.alpha, fit.beta) == (alpha, beta):
            break
        alpha, beta = fit.alpha, fit.beta
    assert fit is not None
    name, alpha, beta = fit.advised
    info = reasoner.info
    return BoxCalibration(
        info.model, info.name, reasoner.convention.view, convention, alpha, beta, name, fit, len(answers), source or {}
    )
