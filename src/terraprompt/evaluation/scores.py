"""From scores of samples to numbers over samples: overall, by group, and between two systems."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError
from terraprompt.evaluation.intervals import paired_intervals, ratio_intervals
from terraprompt.evaluation.scored_prediction import SIZES, ScoredPrediction

__all__ = ["GROUPINGS", "Comparison", "Difference", "Estimate", "Group", "Scores", "compare", "summarise_scores"]

Floats = NDArray[np.float64]

#: What samples are grouped by.
GROUPINGS = ("category", "task", "level", "source", "size")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric over samples.

    Attributes:
        value: share of 1 ("seconds": seconds); None where it is undefined for these samples.
        low, high: ends of the 95 % bootstrap interval; None where there is none.
        samples: how many samples it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    samples: int


@dataclass(frozen=True, slots=True)
class Group:
    """Some samples and their metrics.

    Attributes:
        samples: how many.
        targets: how many of them have a target on the protocol's grid.
        failed: how many failed.
        metrics: by name: gIoU, cIoU, Pr@X, N-acc, T-acc, the protocol's further ones, "failure rate", "seconds".
    """

    samples: int
    targets: int
    failed: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Scores:
    """Everything a report says about one system under one protocol.

    Attributes:
        protocol: its name.
        overall: all samples.
        groups: grouping ("category", "task", "level", "source", "size") -> its value -> those samples; samples without
            a value are in none, and a grouping without values is left out.
        failures: reason -> how often, most frequent first.
    """

    protocol: str
    overall: Group
    groups: Mapping[str, Mapping[str, Group]]
    failures: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Table:
    """Scores as columns, sorted by sample id so that no order of arrival can change a number.

    Attributes:
        protocol: name.
        ids: sorted.
        names: of the metrics.
        above, below: float64 (samples, metrics), see ``ScoredPrediction.parts``.
        truth: int64 (samples,) target pixels on the protocol's grid.
        failed: bool (samples,).
        labels: grouping -> value of each sample.
        reasons: of the failures.
    """

    protocol: str
    ids: list[str]
    names: list[str]
    above: Floats
    below: Floats
    truth: NDArray[np.int64]
    failed: NDArray[np.bool_]
    labels: Mapping[str, list[str | None]]
    reasons: Counter[str]

    @classmethod
    def of(cls, scores: Iterable[ScoredPrediction]) -> _Table:
        """Take scores one by one; some 300 bytes stay of each."""
        ids: list[str] = []
        protocol, names = "", list[str]()
        values, truth, failed = array("d"), array("q"), array("b")
        labels: dict[str, list[str | None]] = {grouping: [] for grouping in GROUPINGS}
        reasons: Counter[str] = Counter()
        for score in scores:
            parts = score.parts()
            if not ids:
                protocol, names = score.protocol, list(parts)
            if score.protocol != protocol or list(parts) != names:
                raise ConfigError(
                    f"Sample {score.sample_id} was scored under other rules than those before it.",
                    received=(score.protocol, protocol),
                    hint="Score the kept predictions again under one protocol.",
                )
            ids.append(score.sample_id)
            values.extend(value for pair in parts.values() for value in pair)
            truth.append(score.truth)
            failed.append(score.status == "failed")
            for grouping, column in labels.items():
                column.append(getattr(score, grouping))
            if score.status == "failed":
                reasons[score.reason or "unknown"] += 1
        if not ids:
            raise ConfigError("There is nothing to summarise.", received="0 samples")
        order = sorted(range(len(ids)), key=ids.__getitem__)
        for before, after in pairwise(order):
            if ids[before] == ids[after]:
                raise ConfigError("Two scores have one sample id.", received=ids[before])
        both = np.frombuffer(values, np.float64).reshape(len(ids), len(names), 2)[order]
        return cls(
            protocol,
            [ids[i] for i in order],
            names,
            both[..., 0],
            both[..., 1],
            np.frombuffer(truth, np.int64)[order],
            np.frombuffer(failed, np.int8)[order] != 0,
            {grouping: [column[i] for i in order] for grouping, column in labels.items()},
            reasons,
        )


def summarise_scores(
    scores: Iterable[ScoredPrediction],
    protocol: str,
    *,
    single: bool = False,
    ciou_of_nothing: float | None = None,
    acc_needs_absent: bool = False,
    seed: int = 0,
    rounds: int = 2000,
) -> Scores:
    """Numbers over at least one sample of one protocol; see ``Protocol`` for the rules.

    Raises:
        ConfigError: no score, a score under other rules, or two of one sample.
    """
    table = _Table.of(scores)
    if table.protocol != protocol:
        raise ConfigError("These scores belong to another protocol.", received=table.protocol)

    def group(rows: NDArray[np.int64]) -> Group:
        above, below = table.above[rows], table.below[rows]
        ends = ratio_intervals(above, below, seed=seed, rounds=rounds)
        targets = int(np.count_nonzero(table.truth[rows]))
        metrics = {}
        for i, name in enumerate(table.names):
            value = _quotient(above[:, i], below[:, i], single=single and name in ("gIoU", "cIoU"))
            estimate = Estimate(value, _number(ends[0, i]), _number(ends[1, i]), int(np.count_nonzero(below[:, i])))
            if name == "cIoU":
                estimate = Estimate(ciou_of_nothing if value is None else value, estimate.low, estimate.high, len(rows))
            elif name in ("N-acc", "T-acc") and acc_needs_absent and targets == len(rows):
                estimate = Estimate(0.0, None, None, len(rows))
            metrics[name] = estimate
        return Group(len(rows), targets, int(np.count_nonzero(table.failed[rows])), metrics)

    return Scores(
        protocol=protocol,
        overall=group(np.arange(len(table.ids))),
        groups={
            grouping: {value: group(rows) for value, rows in found.items()}
            for grouping, column in table.labels.items()
            if (found := _rows_by_value(grouping, column))
        },
        failures=dict(sorted(table.reasons.items(), key=lambda item: (-item[1], item[0]))),
    )


def _rows_by_value(grouping: str, column: Sequence[str | None]) -> dict[str, NDArray[np.int64]]:
    rows: dict[str, list[int]] = {}
    for i, value in enumerate(column):
        if value is not None:
            rows.setdefault(value, []).append(i)
    order = SIZES if grouping == "size" else sorted(rows)
    return {value: np.asarray(rows[value], np.int64) for value in order if value in rows}


def _quotient(above: Floats, below: Floats, *, single: bool) -> float | None:
    """Quotient of two sums; ``single``: in float32, one sample after the other, as meters of float32 tensors add."""
    if not below.any():
        return None
    if not single:
        return float(above.sum() / below.sum())
    a, b = (np.cumsum(x.astype(np.float32), dtype=np.float32)[-1] for x in (above, below))
    return float(a / b)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two systems on the same samples.

    Attributes:
        a, b: its values; None where undefined.
        difference: b - a.
        low, high: ends of the 95 % interval of the difference, samples resampled in pairs.
    """

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the samples that both were scored on.

    Attributes:
        protocol: name.
        samples: how many both have.
        only_a, only_b: ids that one of them lacks, sorted.
        better, equal, worse: samples where the IoU of b is above, equal to, below that of a.
        metrics: by name.
    """

    protocol: str
    samples: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    better: int
    equal: int
    worse: int
    metrics: Mapping[str, Difference]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries, ready for JSON."""
        return asdict(self)


def compare(
    a_scores: Iterable[ScoredPrediction], b_scores: Iterable[ScoredPrediction], *, seed: int = 0, rounds: int = 2000
) -> Comparison:
    """Paired differences of two systems, joined by sample id; sums in float64 whatever the protocol.

    Raises:
        ConfigError: two protocols, no common sample, a sample whose truth differs, or two scores of one sample.
    """
    a, b = _Table.of(a_scores), _Table.of(b_scores)
    if (a.protocol, a.names) != (b.protocol, b.names):
        raise ConfigError(
            "The two runs were scored under different rules.",
            received=(a.protocol, b.protocol),
            hint="Score the kept predictions of both under one protocol.",
        )
    common, in_a, in_b = np.intersect1d(np.asarray(a.ids), np.asarray(b.ids), assume_unique=True, return_indices=True)
    if not len(common):
        raise ConfigError("The two runs have no sample in common.", received=(a.ids[0], b.ids[0]))
    other = np.flatnonzero(a.truth[in_a] != b.truth[in_b])
    if len(other):
        i = other[0]
        raise ConfigError(
            f"Sample {common[i]} has another truth in the second run.",
            received=(int(a.truth[in_a][i]), int(b.truth[in_b][i])),
            hint="Compare runs over one version of a data set.",
        )
    sides = a.above[in_a], a.below[in_a], b.above[in_b], b.below[in_b]
    ends = paired_intervals(*sides, seed=seed, rounds=rounds)
    metrics = {}
    for i, name in enumerate(a.names):
        x, y = (_quotient(above[:, i], below[:, i], single=False) for above, below in (sides[:2], sides[2:]))
        both = x is not None and y is not None
        metrics[name] = Difference(
            x, y, y - x if x is not None and y is not None else None,
            _number(ends[0, i]) if both else None, _number(ends[1, i]) if both else None,
        )  # fmt: skip
    gain = sides[2][:, 0] - sides[0][:, 0]  # the first metric is gIoU
    return Comparison(
        protocol=a.protocol,
        samples=len(common),
        only_a=tuple(sorted(set(a.ids) - set(b.ids))),
        only_b=tuple(sorted(set(b.ids) - set(a.ids))),
        better=int((gain > 0).sum()),
        equal=int((gain == 0).sum()),
        worse=int((gain < 0).sum()),
        metrics=metrics,
    )
