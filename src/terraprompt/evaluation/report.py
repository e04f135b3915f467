"""A finished evaluation as a value and as JSON; :mod:`.report_pages` renders it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from terraprompt import __version__
from terraprompt.evaluation.ask import GOOD
from terraprompt.evaluation.charts import bin_counts
from terraprompt.evaluation.noc import summarise_clicks
from terraprompt.evaluation.predictions import CLICKS, FOREIGN, Prediction, Settings
from terraprompt.evaluation.protocols import Protocol
from terraprompt.evaluation.published import FAULTS, Published, published_for
from terraprompt.evaluation.scored_prediction import SIZES, ScoredPrediction
from terraprompt.evaluation.scores import Comparison, Estimate, Group, Scores
from terraprompt.evaluation.tables import Table, pack_tables

__all__ = [
    "Report",
    "Scope",
    "comparison_table",
    "faults",
    "headline",
    "headline_table",
    "interval",
    "make_report",
    "provenance",
    "published_table",
    "shown",
    "size_name",
]

#: Metrics that are told elsewhere on the page.
_ELSEWHERE = ("seconds",)
_SIZE_NAMES = dict(zip(SIZES, ("no target", "below 1 %", "1 to 10 %", "above 10 %"), strict=True))


@dataclass(frozen=True, slots=True)
class Scope:
    """Which samples were asked.

    Attributes:
        available: samples of the split, of the chosen task, that were read.
        limit: only the first so many were asked; None = all.
        task: only samples of this task; None = all.
        unreadable: (what, why) of items that the reader left out.
        boxes_only: samples left out because the protocol wants masks and they have boxes.
    """

    available: int
    limit: int | None = None
    task: str | None = None
    unreadable: tuple[tuple[str, str], ...] = ()
    boxes_only: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the page says.

    Attributes:
        settings: what the answers depend on.
        protocol: whose rules scored them.
        scope: which samples were asked.
        scores: the numbers.
        scored: every question with its answer and score.
        skipped: (sample, why) of broken ones.
        published: other systems on this data set.
        warnings: why numbers should be read with care, one sentence each.
        seed: of the intervals.
        extra: (title, table) of this data set alone.
        run: seconds, memory and machine; differs from run to run, all the rest does not.
    """

    settings: Settings
    protocol: Protocol
    scope: Scope
    scores: Scores
    scored: tuple[ScoredPrediction, ...]
    skipped: tuple[tuple[str, str], ...]
    published: tuple[Published, ...]
    warnings: tuple[str, ...]
    seed: int
    extra: tuple[tuple[str, Table], ...]
    run: Mapping[str, Any]

    @property
    def histogram(self) -> list[int]:
        """How many samples with a target have which IoU."""
        return bin_counts([one.iou for one in self.scored if one.truth > 0])

    def summary(self) -> dict[str, Any]:
        """The numbers and what they depend on, ready for JSON; equal for equal answers."""
        settings = asdict(self.settings)
        return {
            "dataset": settings.pop("dataset"),
            "split": settings.pop("split"),
            "samples": len(self.scored),
            "scope": asdict(self.scope),
            "skipped": [{"sample": sample, "reason": reason} for sample, reason in self.skipped],
            "protocol": {"name": self.protocol.name, "origin": self.protocol.origin},
            "answers": settings,
            "seed": self.seed,
            "version": __version__,
            "warnings": list(self.warnings),
            "scores": self.scores.as_dict(),
            "iou_histogram": self.histogram,
            "published": [asdict(row) for row in self.published],
            "tables": dict(self.extra),
        }


def make_report(
    settings: Settings,
    protocol: Protocol,
    scope: Scope,
    scored: Sequence[ScoredPrediction],
    predictions: Sequence[Prediction],
    *,
    seed: int = 0,
    command: str = "",
    created: str = "",
) -> Report:
    """Summarise a run.

    Args:
        settings: of the predictions.
        protocol: that scored them.
        scope: which samples were asked.
        scored: at least one score.
        predictions: all of them, skipped ones too.
        seed: of the intervals.
        command: that made it.
        created: time, ISO 8601.

    Raises:
        ConfigError: no score.
    """
    scores = protocol.summarise(scored, seed=seed)
    skipped = tuple((row.sample_id, row.reason or "") for row in predictions if row.status == "skipped")
    published = tuple(published_for(settings.dataset))
    return Report(
        settings, protocol, scope, scores, tuple(scored), skipped, published,
        tuple(_warnings(settings, protocol, scope, published, len(skipped))), seed,
        tuple(_extra(settings, protocol, scored, seed)),
        {"command": command, "created": created, **_machine(predictions)},
    )  # fmt: skip


def _extra(
    settings: Settings, protocol: Protocol, scored: Sequence[ScoredPrediction], seed: int
) -> Iterator[tuple[str, Table]]:
    if settings.question == CLICKS:
        yield "Clicks", click_table(scored, seed=seed)
    elif settings.dataset == "pack" and protocol.name == "native":
        yield from pack_tables(scored)


def click_table(scored: Sequence[ScoredPrediction], *, seed: int = 0) -> Table:
    """NoC@85 and NoC@90 of a run with clicks; a failure counts as the most clicks there are."""
    rows = [["", "mean clicks", "95 % interval", "not reached, per cent", "targets"]]
    found = summarise_clicks(
        [one.prediction.notes.get("ious", []) if one.prediction else [] for one in scored], thresholds=GOOD, seed=seed
    )
    for good in GOOD:
        clicks, missed = found[f"NoC@{100 * good:g}"], found[f"NoF@{100 * good:g}"]
        span = f"{clicks.low:.2f} to {clicks.high:.2f}"
        rows.append([f"NoC@{100 * good:g}", f"{clicks.value:.2f}", span, shown(missed), str(clicks.samples)])
    return rows


def faults(report: Report) -> list[str]:
    """What must be said beside the published numbers, each once."""
    shown_methods = {row.method for row in report.published}
    known = [f"{who}: {what}" for who, what in FAULTS.items() if shown_methods & set(who.split(", "))]
    return list(dict.fromkeys([*(f"{row.title}: {row.note}" for row in report.published if row.note), *known]))


def _warnings(
    settings: Settings, protocol: Protocol, scope: Scope, published: Sequence[Published], skipped: int
) -> list[str]:
    said = []
    asked = scope.available if scope.limit is None else min(scope.limit, scope.available)
    if asked < scope.available or scope.task is not None:
        part = f"{asked:,} of {scope.available:,} samples" + (f" of the task {scope.task}" if scope.task else "")
        said.append(f"A part of the data set was asked: {part}.")
    if settings.question == CLICKS:
        said.append("The masks are those after the last simulated click, not answers to the samples' own prompts.")
    elif settings.question != protocol.questions:
        said.append(
            f"The protocol {protocol.name} asks the {protocol.questions} wording of a sample; these answers are to the "
            f"{settings.question} one."
        )
    if settings.engine == FOREIGN:
        said.append("The masks are another program's: how its model was fed is not known here.")
    elif settings.flow != protocol.flow:
        said.append(
            f"The protocol {protocol.name} feeds the engine by the {protocol.flow} flow; these answers came by the "
            f"{settings.flow} flow."
        )
    others = sorted({row.protocol for row in published} - {protocol.name})
    if others:
        said.append(
            f"Published numbers made under other protocols ({', '.join(others)}) are not comparable with these "
            f"({protocol.name}); their rows are marked."
        )
    splits = sorted({row.split for row in published} - {settings.split})
    if splits:
        said.append(f"Published numbers are of the split {', '.join(splits)}; these are of {settings.split}.")
    if scope.boxes_only:
        said.append(
            f"{scope.boxes_only:,} samples were left out: they have boxes and no masks, which the protocol "
            f"{protocol.name} cannot judge."
        )
    broken = len(scope.unreadable) + skipped
    if broken:
        said.append(f"{broken:,} broken samples were left out; they are listed below.")
    return said


def _machine(predictions: Sequence[Prediction]) -> dict[str, Any]:
    seconds = np.array([row.seconds for row in predictions if row.status != "skipped"] or [0.0])
    memory = [row.memory_mb for row in predictions if np.isfinite(row.memory_mb)]
    return {
        "seconds_mean": float(seconds.mean()),
        "seconds_median": float(np.median(seconds)),
        "seconds_p95": float(np.percentile(seconds, 95)),
        "seconds_total": float(seconds.sum()),
        "memory_peak_mb": max(memory, default=None),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def shown(estimate: Estimate) -> str:
    """A share as per cent with two decimals; "-" where it is undefined."""
    return _hundredths(estimate.value)


def interval(estimate: Estimate) -> str:
    """The 95 % interval as per cent; "" where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.2f} to {100 * estimate.high:.2f}"


def size_name(grouping: str, value: str) -> str:
    """A group as people read it."""
    return _SIZE_NAMES.get(value, value) if grouping == "size" else value


def headline(group: Group) -> dict[str, Estimate]:
    """The metrics that a table shows, in order."""
    return {name: estimate for name, estimate in group.metrics.items() if name not in _ELSEWHERE}


def headline_table(report: Report) -> Table:
    """Every metric over all samples, per cent."""
    rows = [["metric", "per cent", "95 % interval", "samples"]]
    for name, estimate in headline(report.scores.overall).items():
        rows.append([name, shown(estimate), interval(estimate), str(estimate.samples)])
    return rows


def comparison_table(done: Comparison) -> Table:
    """Every metric of two runs on their common samples, per cent, and the difference with its interval."""
    rows = [["metric", "A", "B", "B - A", "95 % interval"]]
    for name, d in done.metrics.items():
        if name in _ELSEWHERE:
            continue
        a, b = (_hundredths(v) for v in (d.a, d.b))
        change = "-" if d.difference is None else f"{100 * d.difference:+.2f}"
        span = "" if d.low is None or d.high is None else f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"
        rows.append([name, a, b, change, span])
    return rows


def _hundredths(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def published_table(report: Report) -> Table:
    """This run beside published ones, part by part as they are published; those under another protocol have a ≠."""
    names = list(dict.fromkeys(name for row in report.published for name in row.values))
    rows = [["system", "part", "protocol", *names]]
    for task, level in dict.fromkeys((row.task, row.level) for row in report.published):
        part = " ".join(word for word in (task, level) if word)
        group = _part(report.scores, task, level)
        mine = (shown(group.metrics[n]) if group and n in group.metrics else "-" for n in names)
        rows.append([f"{report.settings.engine} (this run)", part, report.protocol.name, *mine])
        for row in report.published:
            if (row.task, row.level) == (task, level):
                other = "" if row.protocol == report.protocol.name else " ≠"
                values = (f"{row.values[n]:.2f}" if n in row.values else "-" for n in names)
                rows.append([row.title, part, row.protocol + other, *values])
    return rows


def _part(scores: Scores, task: str | None, level: str | None) -> Group | None:
    """Our samples of the part of a split that published numbers are about."""
    if level is not None:
        return scores.groups.get("level", {}).get(level)
    return scores.overall if task is None else scores.groups.get("task", {}).get(task)


def provenance(report: Report) -> dict[str, str]:
    """What made the numbers, as text by name."""
    s, run = report.settings, report.run
    settings = ", ".join(f"{key} {value}" for key, value in s.engine_settings.items())
    flow = ", ".join(f"{key} {value}" for key, value in s.flow_settings.items() if value is not None)
    memory = run["memory_peak_mb"]
    facts = {
        "engine": s.engine,
        "model": s.model,
        "revision": s.revision,
        "checksum": s.checksum,
        "engine settings": settings,
        "data set": f"{s.dataset}, split {s.split}",
        "protocol": report.protocol.name,
        "wording asked": s.question,
        "words of size and place": "decided by the flow" if s.selector else "left to the engine",
        "flow": flow,
        "seed": f"{s.seed} (questions), {report.seed} (intervals)",
        "version": f"terraprompt {s.version} (answers), {__version__} (scores)",
        "code": s.code[:16],
        "command": run["command"],
        "created": run["created"],
        "peak memory": "" if memory is None else f"{memory:,.0f} MiB a process",
        "machine": f"{run['machine']}, Python {run['python']}, torch {run['torch']}",
    }
    return {name: str(value) for name, value in facts.items() if value}
