"""Named evaluation protocols: the public evaluators of this field, each with its own grid and rules for empty masks.

``native`` is this project's default; the others reproduce what a published number was made with, faults included, and
are checked against what the public evaluators returned (``tests/golden/metrics``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from terraprompt.errors import ConfigError
from terraprompt.evaluation.grids import Grid
from terraprompt.evaluation.metrics import Overlap, metric
from terraprompt.evaluation.scored_prediction import ScoredPrediction, Status, size_bucket
from terraprompt.evaluation.scores import Scores, summarise_scores
from terraprompt.flow.settings import Flow
from terraprompt.geometry.boxes import box_mask
from terraprompt.geometry.types import Mask

__all__ = ["PROTOCOLS", "Protocol", "protocol"]

_NATIVE = Grid()


@dataclass(frozen=True, slots=True)
class Protocol:
    """How answers become numbers. All values of ``score`` and ``summarise`` are shares of 1, never percent.

    Rules that all presets share: a failure has IoU 0 and 0 in every further metric, and joins the union with the pixels
    of the truth; it is neither a right silence nor an answer.

    Attributes:
        name: what it is called.
        origin: whose numbers are made this way.
        grid: where masks are compared; prediction and truth are both brought there from the image's own grid.
        shape: what of the prediction is compared: the mask, its filled tightest rectangle, or that of its largest
            8-connected component.
        box_truth: whether the truth is replaced by its filled tightest rectangle too.
        both_empty: IoU of an empty answer to an image without target.
        alarm_joins_union: whether false pixels on an image without target join the union of cIoU.
        silence: how an answer is known to say "no target": by its empty "mask", or by its status, the "flag". With the
            flag, the mask of a silent answer is not looked at, but still joins the union where there is a target.
        thresholds: X of Pr@X.
        strict: whether Pr@X wants IoU > X; else IoU >= X.
        counted: whose IoU Pr@X is a share of: "all" samples, "answered" ones (no failure, no silence where there is a
            target), or those that have a target ("targets").
        epsilon: added to the union in the IoU of a sample.
        single: IoU in float32, and sums over samples kept in float32, one sample after the other.
        ciou_of_nothing: cIoU of samples whose unions are all empty; None = undefined.
        acc_needs_absent: whether N-acc and T-acc are 0 by definition for samples that all have a target.
        questions: which wordings of a sample are asked: the "first", a "random" one, or "all".
        extras: further metrics of each sample, names of :func:`.metrics.metric`, on the same grid.
        flow: how the engine is fed, unless a run says otherwise: "published", the whole picture once and the model's
            own mask, as published evaluators do, or "product", as in :func:`terraprompt.segment`; see
            :class:`terraprompt.flow.settings.SegmentSettings`.
    """

    name: str
    origin: str
    grid: Grid = _NATIVE
    shape: Literal["mask", "box", "box of the largest component"] = "mask"
    box_truth: bool = False
    both_empty: float = 1.0
    alarm_joins_union: bool = True
    silence: Literal["mask", "flag"] = "mask"
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    strict: bool = True
    counted: Literal["all", "answered", "targets"] = "all"
    epsilon: float = 0.0
    single: bool = False
    ciou_of_nothing: float | None = None
    acc_needs_absent: bool = False
    questions: Literal["first", "random", "all"] = "first"
    extras: tuple[str, ...] = ()
    flow: Flow = "published"

    def score(
        self,
        predicted: Mask | None,
        truth: Mask,
        *,
        sample_id: str,
        status: Status = "found",
        reason: str | None = None,
        **labels: Any,
    ) -> ScoredPrediction:
        """Score one answer on this protocol's grid. Pure: may run in any process and order.

        Args:
            predicted: uint8 (H, W) on the image's own grid, non-zero = target; None if and only if it failed.
            truth: uint8 (H, W), non-zero = target; of another size only where both are stretched to one square, as
                RRSIS-D and EarthReason have masks that are a line or more off their pictures.
            sample_id: unique in the run.
            status: what the system said: "found" with a mask (which may be empty), "no_target" or "failed".
            reason: why it failed; for failures only.
            labels: category, task, level, source and seconds of :class:`ScoredPrediction`.

        Raises:
            ConfigError: arguments that contradict each other.
        """
        failed, pixels = status == "failed", truth
        if status not in ("found", "no_target", "failed"):
            raise ConfigError("An outcome is found, no_target or failed.", received=status)
        if failed != (predicted is None) or failed != bool(reason):
            raise ConfigError(
                f"Sample {sample_id}: a failure has a reason and no mask, everything else a mask and no reason.",
                received=(status, None if predicted is None else predicted.shape, reason),
            )
        if predicted is not None and not self.grid.joins(predicted.shape, truth.shape):
            raise ConfigError(f"Sample {sample_id}: masks must have one size.", received=(predicted.shape, truth.shape))
        truth = self.grid.put((truth != 0).astype(np.uint8))
        if self.box_truth:
            truth = box_mask(truth)
        predicted = np.zeros_like(truth) if predicted is None else self._shaped(predicted)
        overlap = Overlap.of(predicted, truth)
        flagged = self.silence == "flag"
        silent = status == "no_target" if flagged else not failed and overlap.predicted == 0
        # With a flag, what a silent answer marked is thrown away, but it has already joined the union.
        intersection = 0 if flagged and silent else overlap.intersection
        union = overlap.union
        if overlap.truth == 0 and (not self.alarm_joins_union or (flagged and silent)):
            union = 0
        if failed:
            iou = 0.0
        elif overlap.truth == 0 and silent:
            iou = self.both_empty
        else:
            iou = self._iou(intersection, overlap.union)
        counted = {
            "all": True,
            "answered": not failed and not (silent and overlap.truth > 0),
            "targets": overlap.truth > 0,
        }[self.counted]
        extra = {name: 0.0 if failed else float(metric(name)(predicted, truth, overlap)) for name in self.extras}
        if not all(map(math.isfinite, extra.values())):
            raise ConfigError(f"Sample {sample_id}: a metric is not a finite number.", received=extra)
        return ScoredPrediction(
            protocol=self.name,
            sample_id=sample_id,
            status=status,
            iou=iou,
            intersection=intersection,
            union=union,
            predicted=overlap.predicted,
            truth=overlap.truth,
            silent=silent,
            hits={f"Pr@{x:g}": self._reached(iou, x) if counted else None for x in self.thresholds},
            extra=extra,
            size=size_bucket(int(np.count_nonzero(pixels)), pixels.size),
            reason=reason,
            **labels,
        )

    def with_metrics(self, names: Sequence[str]) -> Protocol:
        """The same rules and these further metrics.

        Raises:
            ConfigError: an unknown metric, or one that cannot be imported.
        """
        for name in names:
            metric(name)
        return replace(self, extras=tuple(dict.fromkeys((*self.extras, *names))))

    def _shaped(self, mask: Mask) -> Mask:
        on_grid = self.grid.put((mask != 0).astype(np.uint8))
        return on_grid if self.shape == "mask" else box_mask(on_grid, largest=self.shape != "box")

    def _iou(self, intersection: int, union: int) -> float:
        if union == 0:
            return 0.0  # silence by flag: an unflagged empty answer to an image without target misses it
        if self.single:
            return float(np.float32(intersection) / (np.float32(union) + np.float32(self.epsilon)))
        return intersection / (union + self.epsilon)

    def _reached(self, iou: float, threshold: float) -> bool:
        x = float(np.float32(threshold)) if self.single else threshold
        return iou > x if self.strict else iou >= x

    def summarise(self, scores: Iterable[ScoredPrediction], *, seed: int = 0, rounds: int = 2000) -> Scores:
        """Numbers over samples, in whatever order they come, with seeded 95 % intervals of ``rounds`` resamplings.

        Raises:
            ConfigError: no score, a score of another protocol, or two of one sample.
        """
        return summarise_scores(
            scores,
            self.name,
            single=self.single,
            ciou_of_nothing=self.ciou_of_nothing,
            acc_needs_absent=self.acc_needs_absent,
            seed=seed,
            rounds=rounds,
        )

    def choose_instruction(self, sample_id: str, count: int) -> tuple[int, ...]:
        """Which of a sample's ``count`` wordings to ask, as indices.

        "random" draws from the sample's id (SHA-256 of ``0/<id>``), so that a run can be resumed or split. Evaluators
        that draw with a seeded generator one sample after the other do not ask the same wordings: which generator, and
        in which order, is not published.

        Raises:
            ConfigError: there is no wording.
        """
        if count < 1:
            raise ConfigError(f"Sample {sample_id} has no instruction to choose.", received=count)
        if self.questions == "all":
            return tuple(range(count))
        if self.questions == "first":
            return (0,)
        digest = hashlib.sha256(f"0/{sample_id}".encode()).digest()
        return (int.from_bytes(digest[:8], "little") % count,)


_REGION = ("dice", "precision", "recall")
_OUTLINE = ("boundary IoU", "boundary IoU 0.5 %")
#: Pr@X of tables of grounding; the others are those of tables of masks.
_GROUNDING = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
_SEGEARTH = Protocol(
    "segearth",
    "SegEarth-R1 and its relatives",
    grid=Grid("letterbox", 1024),
    epsilon=1e-5,
    single=True,
)

_PRESETS = (
    Protocol(
        "native",
        "this project's default: native grid, GRES rule for empty masks",
        thresholds=(0.3, 0.5, 0.6, 0.7, 0.8, 0.9),
        ciou_of_nothing=1.0,
        extras=(*_OUTLINE, *_REGION),
        flow="product",
    ),
    replace(_SEGEARTH, name="unigeoseg", origin="UniGeoSeg", grid=Grid("letterbox", 512)),
    _SEGEARTH,
    replace(
        _SEGEARTH,
        name="unigeoseg-rsvg",
        origin="UniGeoSeg on DIOR-RSVG: the box of the largest component",
        grid=Grid("letterbox", 512),
        shape="box of the largest component",
        thresholds=_GROUNDING,
    ),
    replace(
        _SEGEARTH,
        name="segearth-rsvg",
        origin="SegEarth-R1 on DIOR-RSVG: the box of the largest component",
        shape="box of the largest component",
        thresholds=_GROUNDING,
    ),
    Protocol(
        "think2seg",
        "Think2Seg-RS",
        grid=Grid("stretch", 840),
        alarm_joins_union=False,
        strict=False,
        counted="answered",
        ciou_of_nothing=0.0,
        questions="random",
    ),
    Protocol(
        "rmsin",
        "RMSIN and the RRSIS-D tables after it",
        grid=Grid("stretch", 480),
        both_empty=0.0,
        strict=False,
    ),
    Protocol(
        "geoseg810",
        "GeoSeg's own bench of 810 questions",
        ciou_of_nothing=1.0,
        extras=("dice", "BF score", "accuracy", "precision", "recall", "specificity"),
    ),
    Protocol(
        "rela_gres",
        "ReLA, generalised referring segmentation (GRES)",
        silence="flag",
        thresholds=(0.7, 0.8, 0.9),
        strict=False,
        counted="targets",
        acc_needs_absent=True,
    ),
    Protocol(
        "grounding",
        "boxes around masks, both sides, native grid",
        shape="box",
        box_truth=True,
        thresholds=(0.3, 0.5, 0.7),
        ciou_of_nothing=1.0,
        flow="product",
    ),
    Protocol(
        "grounding-largest",
        "box around the largest component of the prediction, box around the truth, native grid",
        shape="box of the largest component",
        box_truth=True,
        thresholds=(0.3, 0.5, 0.7),
        ciou_of_nothing=1.0,
        flow="product",
    ),
)

#: Every preset by name; ``native`` is the default.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({p.name: p for p in _PRESETS})


def protocol(name: str) -> Protocol:
    """The preset of that name.

    Raises:
        ConfigError: there is none; the message names those that there are.
    """
    try:
        return PROTOCOLS[name]
    except KeyError:
        known = ", ".join(PROTOCOLS)
        raise ConfigError("There is no such protocol.", received=name, hint=f"Known: {known}.") from None
