"""Is a copy of a data set whole: every file read, every pixel decoded, every broken one named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from terraprompt.datasets.layouts import AbsentSplitError, BrokenItemError, Faults, Problem
from terraprompt.datasets.registry import layout_of, read_samples
from terraprompt.datasets.sample import MaskFile, NoTarget, Sample
from terraprompt.errors import DatasetError, PromptError
from terraprompt.io.progress import Progress
from terraprompt.prompt import Task
from terraprompt.raster.pictures import read_rgb, read_values

__all__ = ["CheckReport", "check_dataset", "check_samples"]

#: Images in flight for each thread: enough to keep it busy, few enough to stop soon after Ctrl-C.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What :func:`check_dataset` found.

    Attributes:
        name: of the data set.
        samples: split -> samples that were looked at, without those that could not even be listed.
        absent: splits that this copy does not hold.
        problems: what is broken, in the order of the splits and images.
    """

    name: str
    samples: dict[str, int]
    absent: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is broken."""
        return not self.problems


def check_dataset(
    name: str,
    root: str | Path,
    *,
    split: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    **options: Any,
) -> CheckReport:
    """Read every sample of a copy and decode every image and mask.

    Args:
        name: as in :func:`~terraprompt.datasets.registry.open_dataset`.
        root: folder of the copy.
        split: this one only; None takes every split that the copy holds.
        jobs: threads.
        progress: told (images done, images in all) of each split.
        options: of the layout.

    Raises:
        DatasetError: an unknown name, split or option, no copy at ``root``, or a copy without any split.
    """
    counts: dict[str, int] = {}
    absent: list[str] = []
    problems: list[Problem] = []
    for part in (split,) if split else layout_of(name).splits:
        faults = Faults(keep_going=True)
        try:
            samples = tuple(read_samples(name, root, split=part, faults=faults, **options))
        except AbsentSplitError:
            if split:
                raise
            absent.append(part)
            continue
        except BrokenItemError as error:  # a manifest: nothing of this split can be listed
            samples = ()
            faults.found.append(error.problem)
        counts[part] = len(samples)
        problems += [*faults.found, *check_samples(samples, jobs=jobs, progress=progress)]
    if not counts:
        layout = layout_of(name)
        raise DatasetError(
            f"This is no copy of {layout.title}: none of its splits is here.",
            received=root,
            hint=f"Expected: {layout.tree}.",
        )
    return CheckReport(name, counts, tuple(absent), tuple(dict.fromkeys(problems)))


def check_samples(samples: Iterable[Sample], *, jobs: int = 1, progress: Progress | None = None) -> list[Problem]:
    """What is broken in samples: undecodable images and masks, sizes that differ, boxes outside, empty instructions.

    Args:
        samples: those of one image are looked at together, so that it is decoded once.
        jobs: threads.
        progress: told (images done, images in all).
    """
    by_image: dict[Path, list[Sample]] = {}
    for sample in samples:
        by_image.setdefault(sample.image, []).append(sample)
    groups = list(by_image.items())
    out: list[Problem] = []
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for first in range(0, len(groups), _AHEAD * max(1, jobs)):
            batch = groups[first : first + _AHEAD * max(1, jobs)]
            for found in pool.map(lambda group: list(_check_image(*group)), batch):
                out += found
            if progress:
                progress(first + len(batch), len(groups))
    return out


def _check_image(image: Path, samples: Sequence[Sample]) -> Iterator[Problem]:
    try:
        height, width = read_rgb(image)[0].shape[:2]
    except DatasetError as error:
        yield Problem(str(image), str(error))
        return
    for sample in samples:
        for reason in _faults(sample, width, height):
            yield Problem(_file(sample), f"{reason} (sample {sample.id})")


def _file(sample: Sample) -> str:
    match sample.truth:
        case MaskFile(path=path):
            return str(path)
        case NoTarget(mask=Path() as path):
            return str(path)
        case _:
            return str(sample.image)


def _faults(sample: Sample, width: int, height: int) -> Iterator[str]:
    for check in (partial(_mask_faults, sample, width, height), partial(_prompt_faults, sample, width, height)):
        try:
            yield from check()
        except (DatasetError, PromptError) as error:
            yield str(error).rstrip(".")


def _mask_faults(sample: Sample, width: int, height: int) -> Iterator[str]:
    if sample.truth is None:
        if sample.box is None:
            yield "there is neither a mask nor a box"
        return
    mask = sample.truth.load()
    if mask.shape != (height, width):
        yield f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the image {width} x {height}"
    if isinstance(sample.truth, MaskFile) and sample.truth.values:
        values = set(np.unique(read_values(sample.truth.path)).tolist()) - {0, *sample.truth.values}
        if values:
            known = ", ".join(map(str, sample.truth.values))
            yield f"the mask holds other values than 0 and {known}, e.g. {min(values)}"
    if sample.task is Task.INTERACTIVE and not mask.any():
        yield "points or boxes ask for an empty mask"


def _prompt_faults(sample: Sample, width: int, height: int) -> Iterator[str]:
    for box in (*sample.boxes, *((sample.box,) if sample.box else ())):
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            listed = ", ".join(f"{v:g}" for v in box)
            yield f"the box ({listed}) is empty or not inside the image of {width} x {height} pixels"
    for x, y in sample.points:
        if not (0 <= x <= width and 0 <= y <= height):
            yield f"the point ({x:g}, {y:g}) is not inside the image of {width} x {height} pixels"
    if sample.task is not Task.INTERACTIVE and not sample.instructions:
        yield "there is no instruction"
    for index in range(max(1, len(sample.instructions))):
        sample.prompt(index)
