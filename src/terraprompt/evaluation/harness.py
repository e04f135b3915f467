"""An evaluation from beginning to end: a data set and an engine, or kept answers, to scores and a report on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from terraprompt import __version__
from terraprompt.datasets.registry import Dataset
from terraprompt.datasets.sample import Sample
from terraprompt.errors import ConfigError, DatasetError, EngineError, OutputError
from terraprompt.evaluation.mask_files import read_masks
from terraprompt.evaluation.predictions import (
    CLICKS,
    FOREIGN,
    MERGED,
    PARTS,
    EvalItem,
    Prediction,
    PredictionWriter,
    Settings,
    merge_parts,
    read_predictions,
)
from terraprompt.evaluation.protocols import Protocol
from terraprompt.evaluation.report import Report, Scope, make_report
from terraprompt.evaluation.report_pages import to_html, to_markdown
from terraprompt.evaluation.runner import Loader, Run, predict, to_ask
from terraprompt.evaluation.scoring import can_score, items_of, score_predictions, write_scores
from terraprompt.io.atomic import write_atomic
from terraprompt.io.files import translated
from terraprompt.prompt import Task

__all__ = ["EvalOptions", "check_answers", "check_folder", "evaluate", "score_again", "score_masks", "write_report"]

_REPORT_FILES = ("scores.jsonl", "summary.json", "run.json", "report.md", "report.html")
#: Makes a progress callback for a label.
ProgressOf = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """Which samples are asked, and how.

    Attributes:
        task: only samples of this task; None = all.
        limit: only the first so many; None = all.
        seed: of what the data set draws (questions of the pack) and of the intervals.
        selector, clicks: as in :func:`.ask.ask_image`.
        command: recorded in the report.
    """

    task: str | None = None
    limit: int | None = None
    seed: int = 0
    selector: bool = True
    clicks: bool = False
    command: str = ""


def check_folder(folder: Path, *, resume: bool = False, overwrite: bool = False, answers: bool = True) -> None:
    """Make the output folder ready before any work.

    Args:
        folder: made if missing.
        resume: what is there is gone on from.
        overwrite: remove what an earlier run left; files of other names stay.
        answers: whether predictions will be written, not a report alone.

    Raises:
        OutputError: the folder holds a run already, or cannot be written.
    """
    if resume and overwrite:
        raise ConfigError("Going on and starting over exclude each other.", received="--resume --overwrite")
    mine = [folder / name for name in (*_REPORT_FILES, *((MERGED, PARTS) if answers else ()))]
    there = [path for path in mine if path.exists()]
    if there and not (resume or overwrite):
        raise OutputError(
            "The output folder holds an evaluation already.",
            received=folder,
            hint=f"{'Go on with --resume, r' if answers else 'R'}eplace it with --overwrite, or choose another -o.",
        )
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in there if overwrite else ():
            if path.is_dir():
                for part in path.glob("part-*.parquet"):
                    part.unlink()
                with suppress(OSError):  # somebody keeps something else there
                    path.rmdir()
            else:
                path.unlink()


def evaluate(
    dataset: Dataset, loader: Loader, protocol: Protocol, run: Run, options: EvalOptions, progress: ProgressOf
) -> Report:
    """Ask an engine about a data set, and score what it answers.

    Args:
        dataset: opened.
        loader: of the engine.
        protocol: which wording is asked, and how answers are scored.
        run: folder and processes.
        options: which samples.
        progress: for two stages, asking and scoring.

    Raises:
        DatasetError: nothing to ask, or a broken sample.
        EngineError, ConfigError, OutputError: see :func:`.runner.predict`.
    """
    samples, scope = _chosen(dataset, protocol, options)
    items = [EvalItem(sample) for sample in samples] if options.clicks else to_ask(samples, protocol)
    with progress("asking") as tell:
        settings, predictions = predict(
            items, loader, run, dataset=dataset.name, split=dataset.split, seed=options.seed,
            rule=CLICKS if options.clicks else protocol.questions, flow=protocol.flow,
            any_size=not options.clicks and protocol.grid.joins((0, 0), (1, 1)),
            selector=options.selector, clicks=options.clicks, progress=tell,
        )  # fmt: skip
    return _score(items, settings, predictions, protocol, scope, options, progress)


def score_again(
    dataset: Dataset, predictions: Path, protocol: Protocol, options: EvalOptions, progress: ProgressOf
) -> Report:
    """Score kept answers, without the engine.

    Args:
        dataset: that the answers are about.
        predictions: a run folder or its predictions file.
        protocol: how answers are scored.
        options: which samples; those without an answer are left out.
        progress: as in :func:`evaluate`.

    Raises:
        DatasetError: no answers, answers to another data set, or a broken sample.
    """
    settings, rows = read_predictions(predictions)
    if (settings.dataset, settings.split) != (dataset.name, dataset.split):
        raise ConfigError(
            "The predictions were made on another data set.",
            received=f"{dataset.name} {dataset.split}",
            hint=f"They are of {settings.dataset}, --split {settings.split}.",
        )
    items_of(dataset.samples, rows)  # all of them must be known, not only those that are scored
    samples, scope = _chosen(dataset, protocol, options)
    wanted = {sample.id for sample in samples}
    rows = [row for row in rows if row.sample_id in wanted]
    if not rows:
        raise DatasetError("No prediction is about the chosen samples.", received=predictions)
    answered = len({row.sample_id for row in rows})
    scope = replace(scope, limit=answered if answered < len(samples) else scope.limit)
    return _score(items_of(samples, rows), settings, rows, protocol, scope, options, progress)


def score_masks(
    dataset: Dataset,
    masks: Path,
    protocol: Protocol,
    folder: Path,
    options: EvalOptions,
    progress: ProgressOf,
    *,
    keep_going: bool = False,
) -> Report:
    """Score masks that another program wrote; they are kept like answers of an engine.

    Args:
        dataset: that the masks are about.
        masks: as in :func:`.mask_files.read_masks`.
        protocol: how masks are scored.
        folder: of the run, for its predictions.
        options: which samples.
        progress: as in :func:`evaluate`.
        keep_going: leave out samples without a usable mask.

    Raises:
        DatasetError: masks are missing or broken, or a broken sample.
        OutputError: the folder cannot be written.
    """
    samples, scope = _chosen(dataset, protocol, options)
    items = to_ask(samples, replace(protocol, questions="first") if protocol.questions == "all" else protocol)
    read = read_masks(masks, items, dataset.samples, keep_going=keep_going)
    settings = Settings(
        dataset.name, dataset.split, FOREIGN, masks.name, "", read.checksum, {}, protocol.questions, options.seed,
        False, FOREIGN, {}, __version__, "",
    )  # fmt: skip
    with PredictionWriter(folder, settings) as writer:
        writer.add(read.predictions)
    merge_parts(folder, [item.key for item in items])
    report = _score(items, settings, read.predictions, protocol, scope, options, progress)
    return replace(report, warnings=(*report.warnings, *read.remarks))


def _score(
    items: Sequence[EvalItem],
    settings: Settings,
    predictions: Sequence[Prediction],
    protocol: Protocol,
    scope: Scope,
    options: EvalOptions,
    progress: ProgressOf,
) -> Report:
    with progress("scoring") as tell:
        scored = score_predictions(items, predictions, protocol, progress=tell)
    if not scored:
        why = Counter(row.reason for row in predictions).most_common(1)
        raise DatasetError("Every sample is broken.", received=why[0][0] if why else "no samples")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return make_report(
        settings, protocol, scope, scored, predictions, seed=options.seed, command=options.command, created=created
    )


def _chosen(dataset: Dataset, protocol: Protocol, options: EvalOptions) -> tuple[list[Sample], Scope]:
    samples = [s for s in dataset.samples if options.task is None or s.task.value == options.task]
    usable = [s for s in samples if can_score(protocol, s)]
    if options.clicks:
        usable = _click_targets(usable)
    if samples and not usable and not options.clicks:
        raise DatasetError(
            f"{dataset.name} has boxes and no masks.",
            received=f"protocol {protocol.name}",
            hint="Use --protocol grounding.",
        )
    if not usable:
        what = f"split {dataset.split} of {dataset.name}" + (f", task {options.task}" if options.task else "")
        raise DatasetError("There is nothing to evaluate.", received=what, hint="Choose another --split or --task.")
    problems = tuple((str(problem.file), problem.reason) for problem in dataset.problems)
    scope = Scope(len(usable), options.limit, options.task, problems, len(samples) - len(usable))
    return usable[: options.limit], scope


def _click_targets(samples: Sequence[Sample]) -> list[Sample]:
    """One interactive sample a target: a data set may ask for one thing by a point and by a box."""
    once: dict[object, Sample] = {}
    for sample in samples:
        if sample.task is Task.INTERACTIVE and sample.truth is not None:
            once.setdefault((sample.image, sample.truth), sample)
    return list(once.values())


def write_report(report: Report, folder: Path, *, pictures: bool = True) -> None:
    """Scores, numbers (``summary.json``, the same for the same answers), time and machine (``run.json``), and the
    report as Markdown and HTML; each file is whole or not there.

    Raises:
        OutputError: the folder cannot be written.
        DatasetError: an image that shall be shown is gone.
    """
    write_scores(folder / "scores.jsonl", report.scored, overwrite=True)
    texts = {
        "summary.json": json.dumps(report.summary(), indent=1, ensure_ascii=False, sort_keys=True) + "\n",
        "run.json": json.dumps(dict(report.run), indent=1, ensure_ascii=False) + "\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report, pictures=pictures),
    }
    for name, text in texts.items():
        with translated(folder / name):
            write_atomic(folder / name, text)


def check_answers(report: Report) -> None:
    """Raise if every sample failed (after writing the report).

    Raises:
        EngineError: with the most frequent reason.
    """
    if report.scores.overall.failed == len(report.scored):
        raise EngineError("The engine failed on every sample.", received=next(iter(report.scores.failures)))
