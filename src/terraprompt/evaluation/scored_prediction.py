"""A question's answer scored under one protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from terraprompt.evaluation.metrics import Overlap
from terraprompt.evaluation.predictions import EvalItem, Prediction

__all__ = ["SIZES", "ScoredPrediction", "Status", "size_bucket"]

Status = Literal["found", "no_target", "failed"]

#: Names of the size buckets, by share of the image: none, below 1 %, 1 to 10 %, above 10 %.
SIZES = ("none", "small", "medium", "large")


def size_bucket(target: int, pixels: int) -> str:
    """Which of :data:`SIZES` a target of so many of an image's ``pixels`` falls into."""
    if target == 0:
        return "none"
    return "small" if 100 * target < pixels else "medium" if 10 * target <= pixels else "large"


@dataclass(frozen=True, slots=True)
class ScoredPrediction:
    """One question under one protocol; everything that a summary needs of it.

    Attributes:
        protocol: name of the protocol.
        sample_id: unique in the run.
        status: "found" with a mask (which may be empty), "no_target", or "failed" (no answer that could be understood).
        category, task, level, source: what to group by.
        seconds: wall time of the answer.
        reason: why it failed; for failures only.
        item, prediction: what was asked and answered; not part of :meth:`to_row`.
        iou: by the protocol's rules for empty masks and failures.
        intersection, union: pixels on the protocol's grid that join its cIoU; the union by its rules for empty masks.
        predicted, truth: target pixels of the two masks on the protocol's grid; a failure has predicted nothing.
        silent: whether the answer counts as "there is no target".
        hits: "Pr@X" -> whether X was reached; None where the protocol leaves the sample out.
        extra: further metrics of this sample by name (see ``Protocol.extras``).
        size: size bucket of the truth in the image, see :func:`size_bucket`.
    """

    protocol: str
    sample_id: str
    status: Status
    iou: float
    intersection: int
    union: int
    predicted: int
    truth: int
    silent: bool
    hits: Mapping[str, bool | None] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    size: str = "none"
    category: str | None = None
    task: str | None = None
    level: str | None = None
    source: str | None = None
    seconds: float | None = None
    reason: str | None = None
    item: EvalItem | None = field(default=None, compare=False, repr=False)
    prediction: Prediction | None = field(default=None, compare=False, repr=False)

    @property
    def overlap(self) -> Overlap:
        """Pixel counts of the two masks."""
        return Overlap(self.intersection, self.predicted, self.truth)

    def to_row(self) -> dict[str, Any]:
        """The numbers as plain values, for a file; ``ScoredPrediction(**row)`` is the inverse."""
        row = asdict(replace(self, item=None, prediction=None))
        return {name: value for name, value in row.items() if name not in ("item", "prediction")}

    def parts(self) -> dict[str, tuple[float, float]]:
        """Metric -> what this sample adds (above, below) the line; a metric is the quotient of the two sums."""
        has_target = self.truth > 0
        answered = self.status != "failed" and not self.silent
        return {
            "gIoU": (self.iou, 1.0),
            "cIoU": (float(self.intersection), float(self.union)),
            **{name: (float(bool(hit)), float(hit is not None)) for name, hit in self.hits.items()},
            "N-acc": (float(self.silent and not has_target), float(not has_target)),
            "T-acc": (float(answered and has_target), float(has_target)),
            **{name: (value, 1.0) for name, value in self.extra.items()},
            "failure rate": (float(self.status == "failed"), 1.0),
            "seconds": (self.seconds or 0.0, float(self.seconds is not None)),
        }
