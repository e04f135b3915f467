"""Asks an engine about every sample of a data set, in one process or several, and keeps each answer on disk."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from terraprompt import __version__
from terraprompt.datasets.sample import Sample
from terraprompt.engines.base import Engine, ModelInfo
from terraprompt.engines.registry import load_engine
from terraprompt.errors import BudgetError, ConfigError, EngineError
from terraprompt.evaluation.ask import ask_image, by_image, flow_settings
from terraprompt.evaluation.predictions import (
    EvalItem,
    Key,
    Prediction,
    PredictionWriter,
    Settings,
    has_predictions,
    merge_parts,
    read_predictions,
)
from terraprompt.evaluation.protocols import Protocol as ScoringProtocol
from terraprompt.flow.settings import Flow
from terraprompt.io.identity import code_fingerprint
from terraprompt.io.progress import Progress
from terraprompt.prompt import Task

__all__ = ["EngineSpec", "Loader", "Run", "predict", "to_ask"]

T = TypeVar("T")
log = logging.getLogger(__name__)


class Loader(Hashable, Protocol):
    """Makes an engine in whatever process it is called; picklable and hashable."""

    def load(self) -> Engine:
        """The engine, ready to answer."""
        ...


@dataclass(frozen=True)
class EngineSpec:
    """An installed engine by name, see :func:`terraprompt.engines.registry.load_engine`."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, **options: Any) -> EngineSpec:
        """With options of its loader."""
        return cls(name, tuple(sorted(options.items())))

    def __hash__(self) -> int:  # options may hold what has no hash of its own
        return hash((self.name, repr(self.options)))

    def load(self) -> Engine:
        """See :class:`Loader`."""
        return load_engine(self.name, **dict(self.options))


@dataclass(frozen=True, slots=True)
class Run:
    """How a run is done; nothing here changes an answer of an engine that gives the same one twice.

    Attributes:
        folder: of the run.
        jobs: processes, each with its own engine.
        resume: go on with the answers that are there.
        retry: when going on, ask again what the engine failed on.
        keep_going: leave broken samples out and count them.
        part_rows, part_seconds: as in :class:`.predictions.PredictionWriter`.
    """

    folder: Path
    jobs: int = 1
    resume: bool = False
    retry: bool = False
    keep_going: bool = False
    part_rows: int = 200
    part_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class _Card:
    """What must be known of an engine before it is asked."""

    name: str
    info: ModelInfo
    code: str
    tasks: frozenset[Task] = field(default_factory=frozenset)


def to_ask(samples: Sequence[Sample], protocol: ScoringProtocol) -> list[EvalItem]:
    """What is asked of each sample under a protocol's rule, in the order of the samples."""
    asked = []
    for sample in samples:
        count = len(sample.instructions)
        wordings = protocol.choose_instruction(sample.id, count) if count else (0,)
        asked += [EvalItem(sample, wording) for wording in wordings]
    return asked


def predict(
    questions: Sequence[EvalItem],
    loader: Loader,
    run: Run,
    *,
    dataset: str,
    split: str,
    rule: str,
    flow: Flow = "product",
    seed: int = 0,
    selector: bool = True,
    clicks: bool = False,
    any_size: bool = False,
    progress: Progress | None = None,
) -> tuple[Settings, list[Prediction]]:
    """Answers to all questions, from the run folder where they are there.

    The answers do not depend on ``run``: each image is asked by itself, and its questions in their order. Whatever ends
    a run early, answers that were written stay, and ``run.resume`` goes on from them. At the end they are one file,
    ``predictions.parquet``.

    Args:
        questions: keys (sample id and wording) are unique.
        loader: of the engine, called once in every process.
        run: folder, processes, and what to do with broken samples.
        dataset: recorded; a run is resumed only with the same ones.
        split: as ``dataset``.
        rule: as ``dataset``.
        seed: as ``dataset``.
        flow: as in :func:`.ask.ask_image`.
        selector: as in :func:`.ask.ask_image`.
        clicks: as in :func:`.ask.ask_image`.
        any_size: as in :func:`.ask.ask_image`.
        progress: called with (answered, all).

    Returns:
        The settings, and the predictions in the order of the questions.

    Raises:
        DatasetError: a broken sample; the message names it.
        EngineError: the engine cannot be loaded or does not take such prompts, or a worker process died.
        ConfigError: answers are there and ``resume`` is off, or were made with other settings.
        OutputError: the folder cannot be written.
    """
    if run.jobs < 1:
        raise ConfigError("At least one process must work.", received=run.jobs)
    if has_predictions(run.folder) and not run.resume:
        raise ConfigError(
            "There are predictions already.",
            received=run.folder,
            hint="Add --resume or --overwrite, or choose another -o.",
        )
    with closing(_Workers(loader, run.jobs)) as workers:
        card = workers.card()
        _check_tasks(card, {Task.INTERACTIVE} if clicks else {q.sample.task for q in questions})
        info = card.info
        settings = Settings(
            dataset, split, card.name, info.name, info.revision, info.checksum, _json_values(info.settings), rule, seed,
            selector and flow == "product", flow, flow_settings(flow).effective, __version__,
            card.code,
        )  # fmt: skip
        order = [q.key for q in questions]
        done = _done(run.folder, questions, settings, run.retry) if has_predictions(run.folder) else frozenset()
        todo = [q for q, key in zip(questions, order, strict=True) if key not in done]
        answered = len(order) - len(todo)
        if done:
            log.info("%d of %d answers are there already", answered, len(order))
        with PredictionWriter(run.folder, settings, rows=run.part_rows, seconds=run.part_seconds) as writer:
            for rows in workers.ask(
                by_image(todo),
                flow=flow,
                selector=selector,
                keep_going=run.keep_going,
                clicks=clicks,
                any_size=any_size,
            ):
                writer.add(rows)
                answered += len(rows)
                if progress is not None:
                    progress(answered, len(order))
    merge_parts(run.folder, order)
    wanted = frozenset(order)
    return settings, [row for row in read_predictions(run.folder)[1] if row.key in wanted]


def _check_tasks(card: _Card, asked: Set[Task]) -> None:
    if not asked <= card.tasks:
        raise EngineError(
            f'The engine "{card.name}" answers {", ".join(sorted(card.tasks))} prompts only.',
            received=", ".join(sorted(asked - card.tasks)),
            hint="Choose what is asked with --task.",
        )


def _done(folder: Path, items: Sequence[EvalItem], settings: Settings, retry: bool) -> frozenset[Key]:
    """Questions with a valid answer. Skipped samples may have been repaired, and what was asked may have changed."""
    theirs, rows = read_predictions(folder)
    settings.check_same(theirs, folder)
    again = {"skipped", "failed"} if retry else {"skipped"}
    kept = {row.key: row.fingerprint for row in rows if row.status not in again}
    return frozenset(item.key for item in items if item.key in kept and kept[item.key] == item.fingerprint())


def _json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from a file, so that settings can be compared."""
    out: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return out


class _Workers:
    """Those who ask: this process alone, or some that are started for it."""

    def __init__(self, loader: Loader, jobs: int) -> None:
        self._loader = loader
        self._pool: ProcessPoolExecutor | None = None
        self._busy = False
        if jobs > 1:
            context = multiprocessing.get_context("spawn")
            lifeline, self._held = context.Pipe(duplex=False)
            threads = max(1, (os.cpu_count() or 1) // jobs)
            self._pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(lifeline, threads))

    def card(self) -> _Card:
        """Of the engine."""
        return _card(self._loader) if self._pool is None else _result(self._pool.submit(_card, self._loader))

    def ask(self, groups: Sequence[Sequence[EvalItem]], **options: Any) -> Iterator[list[Prediction]]:
        """Answers as they come, from other processes image by image; options of :func:`.ask.ask_image`."""
        if self._pool is None:
            for group in groups:
                yield from ([row] for row in ask_image(_engine(self._loader), group, **options))
            return
        self._busy = True
        futures = [self._pool.submit(_work, self._loader, group, options) for group in groups]
        spent: BudgetError | None = None
        for future in as_completed(futures):
            if future.cancelled():
                continue
            rows, error = _result(future)
            yield rows
            if error is not None and spent is None:  # what others are at was paid for, too
                spent = error
                for waiting in futures:
                    waiting.cancel()
        self._busy = False
        if spent is not None:
            raise spent

    def close(self) -> None:
        """Stop the processes; what they are at is given up."""
        if self._pool is None:
            _engine.cache_clear()
            return
        if self._busy:
            self._held.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._held.close()


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise EngineError(
            "A worker process died: killed, or out of memory.",
            hint="Go on with --resume, with fewer processes (-j) if memory is short.",
        ) from error


# In a worker

_STOP = threading.Event()
_PATIENCE_S = 5.0
#: A worker's share of the cores; None = all that torch takes.
_threads: int | None = None


def _begin(lifeline: Connection, threads: int) -> None:
    """Prepare a worker: its share of the cores, and an end when the parent closes the lifeline or dies.

    Ctrl-C reaches the parent alone, which then stops its workers in order.
    """
    global _threads
    _threads = threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _watch(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    _STOP.set()
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGTERM)  # unwinds, so that work files are removed
    time.sleep(_PATIENCE_S)
    os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


def _work(
    loader: Loader, group: Sequence[EvalItem], options: Mapping[str, Any]
) -> tuple[list[Prediction], BudgetError | None]:
    """Answers about one image, and what ended them early: those that were paid for are kept."""
    if _STOP.is_set():
        raise SystemExit(1)
    rows: list[Prediction] = []
    try:
        rows.extend(ask_image(_engine(loader), group, **options))
    except BudgetError as error:
        return rows, error
    return rows, None


@functools.lru_cache(maxsize=1)
def _engine(loader: Loader) -> Engine:
    """Loaded once a process."""
    engine = loader.load()
    if _threads is not None and "torch" in sys.modules:  # an engine may do without
        sys.modules["torch"].set_num_threads(_threads)
    return engine


def _card(loader: Loader) -> _Card:
    engine = _engine(loader)
    return _Card(engine.name, engine.info, _code(engine), engine.tasks)


def _code(engine: Engine) -> str:
    """Fingerprint of the code and data files that an answer depends on."""
    module = type(engine).__module__
    own: str | Path = module if module.partition(".")[0] == "terraprompt" else Path(inspect.getfile(type(engine)))
    return code_fingerprint("terraprompt.evaluation.ask", own)
