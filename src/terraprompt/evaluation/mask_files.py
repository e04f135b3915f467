"""Masks that another program wrote, as answers: files by sample id, checked against the data set before scoring."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.sample import Sample
from terraprompt.errors import DatasetError
from terraprompt.evaluation.predictions import EvalItem, Prediction
from terraprompt.io.rle import RunLengths
from terraprompt.raster.pictures import picture_size, read_values

__all__ = ["MaskFiles", "read_masks"]

_PICTURES = (".png", ".tif", ".tiff", ".bmp")
_SUFFIXES = (*_PICTURES, ".npy", ".json")
_IDS, _MASKS = ("id", "sample_id", "image_id"), ("segmentation", "rle", "mask")
_NAMED = 5  # of a kind, in a message


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """Answers read from files.

    Attributes:
        predictions: one a question that has a mask; a broken or missing one is "skipped", with the reason.
        extra: files and entries that no sample has.
        checksum: SHA-256 of all masks by sample.
    """

    predictions: tuple[Prediction, ...]
    extra: tuple[str, ...]
    checksum: str

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must be said beside the numbers."""
        if not self.extra:
            return ()
        return (f"{len(self.extra):,} masks belong to no sample that was scored: {_some(self.extra)}.",)


def read_masks(source: Path, items: Sequence[EvalItem], known: Sequence[Sample], *, keep_going: bool) -> MaskFiles:
    """Read a mask for each question.

    A file is named after its sample's id, in folders as the id has slashes or with other signs in place of what is
    neither letter nor digit ("a/b 1" = ``a/b 1.png`` or ``a_b_1.png``), or after the last part of the id where that is
    the only one. PNG, TIFF: 0 = not target, one other value = target. NPY: (height, width), bool, or two values. JSON:
    COCO run lengths of one sample, or of many as ``{id: …}`` or ``[{"id": …, "segmentation": …}]``. An empty mask says
    that there is no target.

    Args:
        source: a folder, looked through at any depth, or one JSON file of many masks.
        items: the questions to be scored.
        known: all samples of the data set: masks of those that are not scored are nobody's fault.
        keep_going: leave out samples whose mask is missing or broken.

    Raises:
        DatasetError: no such folder, none of its masks is of a sample, or masks are missing or broken.
    """
    found = dict(_entries(source))
    place = _Places(found, [sample.id for sample in known])
    rows: list[Prediction] = []
    faults: dict[str, list[str]] = {"missing": [], "of the wrong size": [], "of the wrong type": []}
    digest = hashlib.sha256()
    for item in items:
        sample, mask, reason = item.sample, None, None
        name = place.of(sample.id)
        if name is None:
            kind, reason = "missing", "There is no mask for this sample."
        else:
            try:
                mask = _mask(found[name], sample.id)
                kind, reason = _wrong_size(mask, sample)
            except DatasetError as error:
                mask, kind, reason = None, "of the wrong type", str(error)
        if reason is not None:
            faults[kind].append(f"{sample.id} ({reason})" if kind != "missing" else sample.id)
            mask = None
        else:
            assert mask is not None
            digest.update(f"{sample.id}\n{mask.counts}\n".encode())
        empty = mask is not None and not mask.load().any()
        status = "skipped" if mask is None else "no_target" if empty else "found"
        rows.append(Prediction(sample.id, status, reason, mask, sample.task.value, item.text, item.wording, {}, 0.0))
    said = [f"{len(names):,} {kind}: {_some(names)}" for kind, names in faults.items() if names]
    if said and (not keep_going or all(row.mask is None for row in rows)):
        raise DatasetError(
            f"Not every sample has a usable mask, of {len(items):,}.",
            received="; ".join(said),
            hint="Write an empty mask where there is no target; --keep-going leaves such samples out. Files are named "
            f'after the sample, e.g. "{items[0].sample.id}.png".',
        )
    return MaskFiles(tuple(rows), tuple(sorted(set(found) - place.used)), digest.hexdigest())


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def _entries(source: Path) -> Iterator[tuple[str, Any]]:
    """(name without ending, file or value of JSON)."""
    source = source.expanduser()
    if source.is_file() and source.suffix.lower() == ".json":
        files = [source]
    elif source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    else:
        raise DatasetError("There is no such folder of masks.", received=source, hint="Or give one JSON file.")
    if not files:
        raise DatasetError("The folder holds no masks.", received=source, hint=f"Read are {', '.join(_SUFFIXES)}.")
    seen: dict[str, Path] = {}
    for path in files:
        name = path.relative_to(source if source.is_dir() else source.parent).with_suffix("").as_posix()
        if path.suffix.lower() != ".json":
            entries: Iterator[tuple[str, Any]] = iter([(name, path)])
        else:
            entries = _of_json(path, name)
        for key, value in entries:
            if key in seen:
                raise DatasetError("A sample has two masks.", received=f"{key}: {seen[key]}, {path}")
            seen[key] = path
            yield key, value


def _of_json(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"A file of masks cannot be read ({error}).", received=path) from error
    if isinstance(raw, dict) and {"size", "counts"} <= raw.keys():
        yield name, raw
    elif isinstance(raw, dict):
        yield from raw.items()
    elif isinstance(raw, list) and all(isinstance(row, dict) for row in raw):
        for number, row in enumerate(raw):
            key = next((row[key] for key in _IDS if key in row), None)
            if key is None:
                raise DatasetError(f"Entry {number} of a file of masks names no sample.", received=path)
            yield str(key), next((row[key] for key in _MASKS if key in row), row)
    else:
        raise DatasetError(
            "A file of masks is neither run lengths nor a list of them.",
            received=path,
            hint='Forms: {"size", "counts"}; {id: …}; [{"id", "segmentation"}].',
        )


class _Places:
    """Which entry belongs to which sample."""

    def __init__(self, found: Mapping[str, Any], ids: Sequence[str]) -> None:
        self.used: set[str] = set()
        self._exact = found
        self._plain = _unique((_plain(name), name) for name in found)
        self._plain_ids = _unique((_plain(name), name) for name in ids)
        self._last = _unique((_plain(Path(name).name), name) for name in found)
        self._last_ids = _unique((_plain(name.rpartition("/")[2]), name) for name in ids)
        for name in ids:  # masks of samples that are not scored are known too
            self.of(name)

    def of(self, sample: str) -> str | None:
        """Name of the sample's entry; None if it has none."""
        plain, last = _plain(sample), _plain(sample.rpartition("/")[2])
        name: str | None = sample if sample in self._exact else None
        if name is None and self._plain_ids.get(plain) == sample:
            name = self._plain.get(plain)
        if name is None and self._last_ids.get(last) == sample:
            name = self._last.get(last)
        if name is not None:
            self.used.add(name)
        return name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _unique(pairs: Iterator[tuple[str, str]] | Any) -> dict[str, str | None]:
    out: dict[str, str | None] = {}
    for key, name in pairs:
        out[key] = None if key in out else name
    return out


def _mask(source: Any, name: str) -> RunLengths:
    """Read one mask.

    Raises:
        DatasetError: it is damaged, or no mask of two values.
    """
    if not isinstance(source, Path):
        return RunLengths.of(source, name=name)
    if source.suffix.lower() in _PICTURES:
        values: NDArray[Any] = read_values(source)
    else:
        try:
            values = np.load(source, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(f"A file cannot be read: {error}.", received=source) from None
    values = (
        values.reshape(values.shape[-2:]) if values.ndim > 2 and values.size == np.prod(values.shape[-2:]) else values
    )
    if values.ndim != 2 or not values.size:
        raise DatasetError("A mask must be (height, width).", received=f"{source.name} {values.shape}")
    if values.dtype.kind not in "biuf":
        raise DatasetError("A mask must hold numbers.", received=f"{source.name} {values.dtype}")
    kinds = np.unique(values)
    if len(kinds) > 2 or not np.isfinite(kinds.astype(np.float64)).all() or (len(kinds) == 2 and kinds[0] != 0):
        raise DatasetError(
            "A mask has two values, 0 and another; these look like probabilities, classes or a picture.",
            received=f"{source.name}: {len(kinds)} values from {kinds[0]:g} to {kinds[-1]:g}",
        )
    return RunLengths.encode(values, name=name)


def _wrong_size(mask: RunLengths, sample: Sample) -> tuple[str, str | None]:
    width, height = picture_size(sample.image)
    if sample.truth is not None:
        height, width = sample.load_mask().shape
    if (mask.height, mask.width) == (height, width):
        return "", None
    return "of the wrong size", f"{mask.width} x {mask.height} in place of {width} x {height}"
