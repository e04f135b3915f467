"""Labelled questions to learn from: one data set or several mixed by weight, a million of them without holding any.

A set lies in an index (:mod:`terraprompt.datasets.index`): in memory are the places of its questions by task, eight
bytes each; a question, its image and its mask are read when they are drawn.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.coding import UncodableError
from terraprompt.datasets.index import Index, open_index, write_index
from terraprompt.datasets.registry import open_dataset, read_samples
from terraprompt.datasets.sample import Sample
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.prompt import Task
from terraprompt.training.schedule import TaskSchedule

__all__ = ["QuestionSet", "Questions", "open_questions", "parse_set"]

log = logging.getLogger(__name__)

_SET = re.compile(r"(?:(?P<layout>[A-Za-z0-9_-]+)=)?(?P<path>.+?)(?::(?P<weight>\d+(?:\.\d+)?|\.\d+))?")
Shares = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A data set as it is named on the command line: ``[LAYOUT=]PATH[:WEIGHT]``.

    Attributes:
        layout: a name of ``dataset list``.
        path: folder of the copy, or an index of it (``.parquet``).
        weight: how often it is drawn, beside the others; None = by its number of questions.
    """

    layout: str
    path: Path
    weight: float | None = None


def parse_set(text: str, layout: str) -> QuestionSet:
    """Read ``[LAYOUT=]PATH[:WEIGHT]``; what exists as it stands is a path."""
    if Path(text).expanduser().exists():
        return QuestionSet(layout, Path(text))
    found = _SET.fullmatch(text)
    if found is None:
        raise ConfigError("A set of questions is [LAYOUT=]PATH[:WEIGHT].", received=text)
    weight = None if found["weight"] is None else float(found["weight"])
    return QuestionSet(found["layout"] or layout, Path(found["path"]), weight)


class Questions:
    """The questions of data sets that have masks, by task.

    Args:
        sets: samples of one split each; an :class:`~terraprompt.datasets.index.Index` is read as it is drawn from.
        weights: how often each set is drawn; None = by its number of questions, so that all questions are alike.

    Raises:
        DatasetError: a set without a question that has a mask.
        ConfigError: a weight that is not above 0, or some sets with and some without one.
    """

    def __init__(self, *sets: Sequence[Sample], weights: Sequence[float | None] | None = None) -> None:
        given = [None] * len(sets) if weights is None else list(weights)
        known = [weight for weight in given if weight is not None]
        if len(given) != len(sets) or (known and (len(known) < len(sets) or min(known) <= 0)):
            raise ConfigError(
                "Sets of questions mix by weights above 0, of all of them or of none.",
                received=given,
                hint="E.g. A:0.8 B:0.2.",
            )
        self.sets = [_OneSet(samples) for samples in sets]
        counts = np.array([one.counts for one in self.sets], np.float64).reshape(-1, 3)
        sizes = counts.sum(1)
        #: of each set, how likely a question is of each task: (sets, 3), sum 1
        self.joint = counts * (np.array(known) / sum(known) / sizes if known else 1 / sizes.sum()).reshape(-1, 1)

    def __len__(self) -> int:
        return sum(sum(one.counts) for one in self.sets)

    @property
    def natural(self) -> Shares:
        """Proportions of interactive, referring and reasoning, sets weighted."""
        interactive, referring, reasoning = self.joint.sum(0).tolist()
        return interactive, referring, reasoning

    def has(self, task: Task) -> bool:
        """Whether there are questions of ``task``."""
        return bool(self.joint[:, TASK_INDEX[task]].any())

    def scheduled(self, schedule: TaskSchedule) -> TaskSchedule:
        """The schedule without the tasks that nothing is asked of."""
        left = [share if there else 0.0 for share, there in zip(schedule.natural, self.natural, strict=True)]
        return replace(schedule, natural=(left[0], left[1], left[2]))

    def draw(self, task: Task, rng: np.random.Generator) -> Sample:
        """One of ``task``: a set by weight, then all its questions alike."""
        chances = self.joint[:, TASK_INDEX[task]]
        if not chances.any():
            raise ConfigError("The schedule asks for a task without questions.", received=task.value)
        one = self.sets[int(rng.choice(len(self.sets), p=chances / chances.sum())) if len(self.sets) > 1 else 0]
        pool = one.places[task]
        return one.samples[int(pool[int(rng.integers(len(pool)))])]

    def about(self, image: Path) -> list[Sample]:
        """All questions in words about an image."""
        return [sample for one in self.sets for sample in one.about(image)]


class _OneSet:
    """Places of the questions of a set, by task."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        if isinstance(samples, Index):
            tasks = np.array(samples.column("task"))
            usable = samples.has("truth") & samples.has("instructions", "points", "boxes")
        else:
            tasks = np.array([sample.task.value for sample in samples])
            usable = np.array(
                [s.truth is not None and bool(s.instructions or s.points or s.boxes) for s in samples], bool
            )
        self.places = {task: np.flatnonzero(usable & (tasks == task.value)) for task in Task}
        self.counts = [len(self.places[task]) for task in TASK_INDEX]
        if not sum(self.counts):
            raise DatasetError(
                "There is nothing to train on: no question has a mask.", received=f"{len(samples)} questions"
            )

    def about(self, image: Path) -> list[Sample]:
        keys, places = self._by_image
        first, last = (int(np.searchsorted(keys, _key(image), side)) for side in ("left", "right"))
        return [self.samples[int(place)] for place in places[first:last]]

    @cached_property
    def _by_image(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Keys of the images of questions in words, sorted, and the places of these questions."""
        places = np.sort(np.concatenate([self.places[task] for task in Task if task is not Task.INTERACTIVE]))
        keys = np.array([_key(self.samples[int(place)].image) for place in places], np.uint64)
        order = np.argsort(keys, kind="stable")
        return keys[order], places[order]


def _key(image: Path) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(str(image).encode(), digest_size=8).digest()))


def open_questions(sets: Sequence[QuestionSet], folder: Path, *, reuse: bool = False) -> Questions:
    """Open the train splits of data sets without holding their samples.

    Args:
        sets: what to mix.
        folder: where the index of a set that is no index yet is written, as ``questions-<number>.parquet``.
        reuse: take an index that is there, as a resumed training and the other processes of one do.

    Raises:
        DatasetError: a set cannot be read, or has no question with a mask.
        ConfigError: weights that do not mix.
    """
    fresh = not folder.exists()
    paths = [folder / f"questions-{i}.parquet" for i in range(len(sets))]
    try:
        opened = [_opened(one, path, reuse) for one, path in zip(sets, paths, strict=True)]
        return Questions(*opened, weights=[one.weight for one in sets])
    except BaseException:
        if fresh and folder.is_dir():  # a set that cannot be read leaves nothing behind
            for path in paths:
                path.unlink(missing_ok=True)
            folder.rmdir()
        raise


def _opened(one: QuestionSet, path: Path, reuse: bool) -> Sequence[Sample]:
    if one.path.suffix.lower() == ".parquet" and one.path.is_file():
        return open_dataset(one.layout, one.path, split="train").samples
    if reuse and path.is_file():
        return open_index(path)
    part = path.with_suffix(".part")
    try:
        samples = read_samples(one.layout, one.path, split="train")
        path.parent.mkdir(parents=True, exist_ok=True)
        count = write_index(part, samples, one.path.expanduser(), name=one.layout, split="train")
        part.rename(path)
    except UncodableError:
        log.info("%s: masks of its own kind; its samples are held in memory", one.path)
        return open_dataset(one.layout, one.path, split="train").samples
    finally:
        part.unlink(missing_ok=True)
    log.info("%s: %d questions, index %s", one.path, count, path)
    return open_index(path)
