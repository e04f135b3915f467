"""GeoSeg-Bench and GeoSeg-1M (UniGeoSeg, arXiv 2511.23332): a manifest of image, mask and question files.

``<root>/<split>.json``, or one ``<root>/<task folder>/<split>.json`` a task, lists ``{"img", "mask", "json"}`` with
relative paths; each json file holds ``{"question": [...], "reason": [...]}``; masks are grey, 255 is the target.

Assumed: paths are relative to the folder of their manifest (to ``root`` where no such file is there). The task is the
first folder of the json file's path below ``root`` that has a word for one (``interactive``, ``intera``; ``ref``,
``refer``, ``referring``; ``reason``, ``reasoning``): where the copy lies never matters. Other folder names can be told
with the option ``folders``.

Interactive questions are fixed sentences (:mod:`terraprompt.language.interactive`); points and boxes are read out of
them, from [0, 1] of the image to pixels, and the sentence is kept as it is. Every interactive question is a sample of
its own, because each has its own coordinates; other questions of a file are wordings of one sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from terraprompt.datasets.layouts.reading import AbsentSplitError, BrokenItemError, Faults, Layout, load_json, texts
from terraprompt.datasets.sample import MaskFile, Sample
from terraprompt.errors import DatasetError, PromptError
from terraprompt.geometry.types import Box
from terraprompt.language.interactive import read_interactive
from terraprompt.prompt import Task
from terraprompt.raster.pictures import picture_size

__all__ = ["BENCH", "TRAINING", "coordinates"]

_TASKS: Mapping[str, Task] = {
    "interactive": Task.INTERACTIVE,
    "intera": Task.INTERACTIVE,
    "inter": Task.INTERACTIVE,
    "ref": Task.REFERRING,
    "refer": Task.REFERRING,
    "referring": Task.REFERRING,
    "reason": Task.REASONING,
    "reasoning": Task.REASONING,
}
_LEVELS = {"attribute": "attribute", "context": "contextual", "contextual": "contextual"}
Point = tuple[float, float]


def read(
    root: Path, split: str, faults: Faults, *, name: str, folders: Mapping[str, str] | None = None
) -> Iterator[Sample]:
    """Samples in the order of the manifests.

    Args:
        root: folder with the manifests.
        split: name of the manifests.
        faults: where broken items go.
        name: of the data set, kept in every sample.
        folders: task of each folder that is not named after one, e.g. ``{"seg": "reasoning"}``.

    Raises:
        DatasetError: no manifest, one that is no list of entries, or an unknown task in ``folders``.
    """
    try:
        tasks = {**_TASKS, **{folder.lower(): Task(task) for folder, task in (folders or {}).items()}}
    except ValueError:
        raise DatasetError("Unknown task of a folder.", received=folders, hint=f"Tasks: {', '.join(Task)}.") from None
    for manifest in _manifests(root, split):
        entries = load_json(manifest)
        if not isinstance(entries, list):
            raise DatasetError("A manifest is not a list of entries.", received=manifest)
        for number, entry in enumerate(entries):
            build = partial(_samples, root, manifest, number, entry, tasks, split, name)
            yield from faults.attempt(manifest, build) or ()


def _manifests(root: Path, split: str) -> list[Path]:
    whole = root / f"{split}.json"
    found = [whole] if whole.is_file() else sorted(root.glob(f"*/{split}.json"))
    if not found:
        raise AbsentSplitError(whole, "the manifest is missing (also below the folders of the tasks)")
    return found


def _samples(
    root: Path, manifest: Path, number: int, entry: Any, tasks: Mapping[str, Task], split: str, name: str
) -> list[Sample]:
    files = {}
    for key in ("img", "mask", "json"):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise BrokenItemError(manifest, f"entry {number} has no {key!r}")
        files[key] = _resolve(root, manifest, entry[key], number)
    task, level = _task(root, files["json"], tasks)
    raw = load_json(files["json"])
    if not isinstance(raw, dict) or "question" not in raw:
        raise BrokenItemError(files["json"], "the field 'question' is missing")
    asked = texts(raw["question"], files["json"], "question")
    if not asked:
        raise BrokenItemError(files["json"], "it holds no question")
    common = Sample(
        id=files["json"].relative_to(root).with_suffix("").as_posix(),
        image=files["img"],
        task=task,
        instructions=asked,
        truth=MaskFile(files["mask"], (255,)),
        answer=texts(raw.get("reason"), files["json"], "reason"),
        level=level,
        split=split,
        source=name,
    )
    if task is not Task.INTERACTIVE:
        return [common]
    out = []
    width, height = picture_size(files["img"])
    for k, sentence in enumerate(asked):
        points, boxes = coordinates(sentence, width, height, files["json"])
        out.append(
            replace(
                common,
                id=common.id if len(asked) == 1 else f"{common.id}#{k}",
                instructions=(sentence,),
                points=points,
                labels=(1,) * len(points),
                boxes=boxes,
                level="box" if boxes else "point",
            )
        )
    return out


def _resolve(root: Path, manifest: Path, raw: str, number: int) -> Path:
    """A file of an entry; it must lie inside the copy."""
    relative = PurePosixPath(raw.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or re.match(r"[A-Za-z]:", raw):
        raise BrokenItemError(manifest, f"entry {number} leaves the data set: {raw!r}")
    candidates = (manifest.parent / relative, root / relative)
    path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    if not path.is_file():
        raise BrokenItemError(path, f"the file is missing that entry {number} of {manifest.name} names")
    return path


def _task(root: Path, file: Path, tasks: Mapping[str, Task]) -> tuple[Task, str | None]:
    """Task and level of a json file, from the folders of its path below the root."""
    folders = file.relative_to(root).parts[:-1]
    words = [word for folder in folders for word in (folder.lower(), *re.findall(r"[a-z]+", folder.lower()))]
    task = next((tasks[word] for word in words if word in tasks), None)
    if task is None:
        raise BrokenItemError(file, "no folder of its path is named after a task (tell it with the option 'folders')")
    return task, next((_LEVELS[word] for word in words if word in _LEVELS), None)


def coordinates(sentence: str, width: int, height: int, path: Path) -> tuple[tuple[Point, ...], tuple[Box, ...]]:
    """Points and boxes of a fixed interactive sentence, in pixels of an image of ``width`` x ``height``.

    Raises:
        BrokenItemError: see :func:`terraprompt.language.interactive.read_interactive`.
    """
    try:
        points, boxes = read_interactive(sentence)
    except PromptError as error:
        raise BrokenItemError(path, f"{error.what.rstrip('.')}: {error.received!r}") from None
    return (
        tuple((x * width, y * height) for x, y in points),
        tuple((x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in boxes),
    )


BENCH = Layout(
    name="geoseg-bench-1m",
    title="GeoSeg-Bench (UniGeoSeg)",
    splits=("test", "val", "train"),
    tree="<split>.json or <task folder>/<split>.json; the image, mask and json files that they name",
    where="Get it with: terraprompt dataset download geoseg-bench-1m DIR.",
    read=partial(read, name="geoseg-bench-1m"),
    hub="nishuo1999/GeoSeg-Bench",
)
TRAINING = replace(
    BENCH,
    name="geoseg-1m",
    title="GeoSeg-1M",
    splits=("train", "val", "test"),
    where="Its authors announced it; look for it at the page of UniGeoSeg (arXiv 2511.23332).",
    read=partial(read, name="geoseg-1m"),
    hub=None,
)
