"""Run a recipe: stages one after the other, parts in parallel, everything on disk so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from terraprompt.errors import ConfigError, OutputError
from terraprompt.forge import records
from terraprompt.forge.estimate import Load, StageCost, estimate, load_of_headers, load_of_regions
from terraprompt.forge.executors import Run, running
from terraprompt.forge.export import DATASET, SUBSETS, assemble, export_part
from terraprompt.forge.items import gather_items, sources_of, starts
from terraprompt.forge.judges import judge_samples
from terraprompt.forge.model_filter import ask_filter
from terraprompt.forge.model_writer import write_with_model
from terraprompt.forge.patches import cut_patches
from terraprompt.forge.recipe import Recipe
from terraprompt.forge.regions import filter_regions, find_regions
from terraprompt.forge.select import gather_selection
from terraprompt.forge.stages import REGIONS, Job, Parts, Stage, read_notes, read_rows, write_rows
from terraprompt.forge.writer import gather_limits, write_instructions
from terraprompt.io.atomic import remove_temporaries, write_atomic
from terraprompt.io.files import translated
from terraprompt.io.identity import code_fingerprint
from terraprompt.io.progress import Progress
from terraprompt.vlm.model_pool import ModelPool

__all__ = ["Plan", "Report", "forge", "plan", "stages_of"]

log = logging.getLogger(__name__)

_WORK = "work"
_STATE = "run.json"
_DONE = "done.json"
_MADE_WITH = "made_with.json"
_CALLS = "calls"


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The steps of a recipe; those that ask models only where it names one."""
    models, by_model = recipe.models, recipe.writing.writer == "models"
    regions = "filter" if models.filter is None else "model_filter"

    def named(endpoint: str | None) -> tuple[str, ...]:
        return () if endpoint is None else (endpoint,)

    found = [
        Stage("items", records.ITEM, gather=gather_items),
        Stage("patches", records.PATCH, work=cut_patches),
        Stage("regions", records.REGION, work=find_regions),
        Stage("filter", records.REGION, work=filter_regions),
        Stage("model_filter", records.REGION, work=ask_filter, source="filter", asks=named(models.filter)),
        Stage("limits", records.LIMIT, gather=gather_limits, source="filter"),
        Stage("write", records.SAMPLE, work=write_with_model, source=regions, asks=named(models.writer))
        if by_model
        else Stage("write", records.SAMPLE, work=write_instructions, source=regions),
        Stage("judge", records.SAMPLE, work=judge_samples, source="write", asks=models.judges),
        Stage("select", records.KEPT, gather=gather_selection),
        Stage("export", records.EXPORTED, work=export_part, source="select"),
    ]
    left_out = {"model_filter": models.filter is None, "judge": not models.judges}
    return tuple(stage for stage in found if not left_out.get(stage.name, False))


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Attributes:
        out: folder of the data set.
        stages: those that are finished, with the rows of each.
        notes: counts of what was cut, left out and why.
        finished: whether the data set is complete.
    """

    out: Path
    stages: dict[str, int]
    notes: dict[str, int]
    finished: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    Attributes:
        images, patches: by source.
        calls, tokens: of models, at most; see :mod:`terraprompt.forge.estimate` for what is assumed.
        cost: in the currency of the recipe's prices, likewise.
        roles: the same by who is asked for what.
    """

    images: dict[str, int]
    patches: dict[str, int]
    calls: int
    tokens: int
    cost: float
    roles: dict[str, StageCost]


def plan(recipe: Recipe, out: Path | None = None) -> Plan:
    """Look at headers only and count.

    Args:
        recipe: what would be made.
        out: folder of a run of this recipe; where its filters are done, their regions are counted instead.

    Raises:
        ConfigError: a broken table.
        DatasetError: a copy that is not there or that no table fits.
    """
    images: Counter[str] = Counter()
    patches: Counter[str] = Counter()
    rules = recipe.patches
    for _, rows in gather_items(Job(recipe, 0, {}, Path())):
        for row in rows:
            images[row["source"]] += 1
            patches[row["source"]] += len(starts(row["width"], rules.size, rules.stride)) * len(
                starts(row["height"], rules.size, rules.stride)
            )
    loads = {stage: _load(out, stage) for stage in REGIONS}
    ruled = loads["filter"] or load_of_headers(recipe, sources_of(recipe), patches)
    roles = estimate(recipe, ruled, loads["model_filter"] or ruled, rules.size)
    return Plan(
        dict(images),
        dict(patches),
        sum(role.calls for role in roles.values()),
        sum(role.tokens_in + role.tokens_out for role in roles.values()),
        sum(role.cost for role in roles.values()),
        roles,
    )


def _load(out: Path | None, stage: str) -> Load | None:
    """What a finished filter left; None if it has not run."""
    if out is None or not (Path(out) / _WORK / stage / _DONE).is_file():
        return None
    return load_of_regions(Parts(Path(out) / _WORK / stage))


def forge(
    recipe: Recipe,
    out: Path,
    *,
    until: str | None = None,
    resume: bool = False,
    jobs: int = 1,
    executor: str = "local",
    progress: Progress | None = None,
) -> Report:
    """Make the data set of a recipe.

    Args:
        recipe: what to make.
        out: its folder; work files lie in ``work`` below it, the set in ``dataset``.
        until: stop after this stage.
        resume: go on with what is there; a stage whose code or data have changed is done anew, and all after it.
        jobs: processes; the result does not depend on it.
        executor: "local" or "ray".
        progress: report_done (parts done, parts) of the stage at work.

    Raises:
        ConfigError: an unknown stage or executor.
        OutputError: something is in the way, or the disk is full; finished parts stay.
        DatasetError: a broken source.
        BudgetError, ReasonerError: a stage that asks models was stopped; what was answered is kept.
    """
    stages = stages_of(recipe)
    names = [stage.name for stage in stages]
    if until is not None and until not in names:
        raise ConfigError("There is no such stage.", received=until, hint=f"Stages: {', '.join(names)}.")
    out = Path(out)
    before: dict[str, Parts] = {}
    counts: dict[str, int] = {}
    notes: Counter[str] = Counter()
    with running(executor, jobs) as run:
        _open_run(recipe, out, resume)
        identity = ""
        for place, stage in enumerate(stages):
            folder = out / _WORK / stage.name
            identity = _identity(stage, recipe, identity)
            _discard_stale(folder, identity, out)
            if not (folder / _DONE).is_file():
                log.info("stage %s", stage.name)
                source = stage.source or (names[place - 1] if place else None)
                _run_stage(stage, source, recipe, out, before, run, progress)
            done = json.loads((folder / _DONE).read_text(encoding="utf-8"))
            counts[stage.name] = int(done["rows"])
            notes.update({key: int(value) for key, value in done["notes"].items()})
            before[stage.name] = Parts(folder)
            if stage.name == until:
                return Report(out, counts, dict(sorted(notes.items())), False)
    assemble(recipe, out, before, dict(sorted(notes.items())))
    return Report(out, counts, dict(sorted(notes.items())), True)


def _open_run(recipe: Recipe, out: Path, resume: bool) -> None:
    """Make the folder, or check that what is there belongs to this recipe."""
    state = out / _WORK / _STATE
    mine = {"recipe": json.loads(recipe.identity())}
    if state.is_file():
        if not resume:
            raise OutputError(
                "There is a run in this folder already.",
                received=out,
                hint="Go on with it with --resume, or choose another folder.",
            )
        if json.loads(state.read_text(encoding="utf-8")).get("recipe") != mine["recipe"]:
            raise OutputError(
                "The run in this folder was begun with another recipe.",
                received=out,
                hint="Choose another folder, or delete this one.",
            )
    else:
        if out.exists() and any(out.iterdir()):
            raise OutputError("The folder is not empty.", received=out, hint="Choose another one.")
        _write_json(state, mine)
    with translated(out):  # left by a process that was killed
        remove_temporaries(state.parent)


def _identity(stage: Stage, recipe: Recipe, before: str) -> str:
    """Hash of what a stage is made with: its code and data, the sources' tables, and the stages before it."""
    work = stage.work or stage.gather
    tables = [source.path for source in sources_of(recipe)] if stage.name == "items" else []
    made_with = code_fingerprint(str(getattr(work, "__module__", "")), *tables)
    return hashlib.sha256(f"{before} {stage.name} {made_with}".encode()).hexdigest()


def _discard_stale(folder: Path, identity: str, out: Path) -> None:
    """Keep the work files of a stage only if they were made with the same code and data; files of the set likewise."""
    state = folder / _MADE_WITH
    if state.is_file() and json.loads(state.read_text(encoding="utf-8")) == identity:
        return
    with translated(folder):
        if folder.exists():
            log.warning("stage %s is done anew: code or data that it depends on have changed", folder.name)
            for stale in (folder, out / DATASET, out / SUBSETS):
                shutil.rmtree(stale, ignore_errors=True)
    _write_json(state, identity)


def _write_json(path: Path, value: Any) -> None:
    with translated(path):
        write_atomic(path, json.dumps(value, indent=1, sort_keys=True))


@dataclass(frozen=True)
class _Task:
    """One part of a stage, small enough to be sent to another process."""

    stage: str
    recipe: Recipe
    number: int
    source: Path
    target: Path
    out: Path
    before: dict[str, Parts]

    def __call__(self, panel: ModelPool | None = None) -> int:
        stage = next(stage for stage in stages_of(self.recipe) if stage.name == self.stage)
        if stage.work is None:
            raise ConfigError("This stage does not go part by part.", received=self.stage)
        job = Job(self.recipe, self.number, self.before, self.out, panel=panel)
        return write_rows(self.target, stage.schema, stage.work(read_rows(self.source), job), lambda: dict(job.notes))


def _run_stage(
    stage: Stage,
    source: str | None,
    recipe: Recipe,
    out: Path,
    before: dict[str, Parts],
    run: Run,
    progress: Progress | None,
) -> None:
    folder = out / _WORK / stage.name
    parts = Parts(folder)
    notes: Counter[str] = Counter()
    if stage.gather is not None:
        for path in parts.paths():  # a gathering stage is done at once or not at all
            path.unlink()
        job = Job(recipe, 0, before, out)
        for number, rows in stage.gather(job):
            write_rows(parts.part(number), stage.schema, rows, dict)
        notes.update(job.notes)
    else:
        tasks = []
        for path in before[str(source)].paths():
            number = int(path.stem.partition("-")[2])
            if not parts.part(number).is_file():
                tasks.append(_Task(stage.name, recipe, number, path, parts.part(number), out, dict(before)))
        total = len(before[str(source)].paths())
        if progress is not None:
            progress(total - len(tasks), total)

        def report_done(done: int) -> None:
            if progress is not None:
                progress(total - len(tasks) + done, total)

        if stage.asks:
            _run_with_models(stage, tasks, recipe, out, report_done)
        else:
            run(tasks, report_done)
    rows_written = 0
    for path in parts.paths():
        notes.update(read_notes(path))
        rows_written += _row_count(path)
    _write_json(folder / _DONE, {"rows": rows_written, "notes": dict(notes)})


def _run_with_models(
    stage: Stage, tasks: Sequence[_Task], recipe: Recipe, out: Path, report_done: Callable[[int], None]
) -> None:
    """Work on the parts of a stage that asks models, here and in order."""
    with recipe.models.pool(out / _WORK / _CALLS, stage.name, stage.asks) as panel:
        for number, task in enumerate(tasks, 1):
            panel.begin(task.number)
            task(panel)
            report_done(number)


def _row_count(path: Path) -> int:
    with pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)
