"""Run-length masks in COCO's compressed coding (maskApi), and pixel counts of many pairs without decoding them.

Runs go down the columns; the first counts zeros. The string holds 5 bits of a number a character, lowest first, with a
bit that says whether more follow; from the fourth run on the number is the difference to the run two before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from terraprompt.errors import DatasetError
from terraprompt.geometry.types import Ints

__all__ = ["Overlaps", "RunLengths", "overlaps", "pack_runs", "unpack_runs"]

_OFFSET, _MORE, _SIGN = 48, 0x20, 0x10
_MAX_CHARACTERS = 12  # 60 bits hold every run an image can have
#: Pairs that a process gets at a time, and masks per call of ``coco.area``, which fails from 256 on.
_PER_TASK, _PER_CALL = 2048, 128


@dataclass(frozen=True, slots=True)
class RunLengths:
    """A mask as a COCO run-length string; small, hashable, picklable; also a truth of a sample.

    Attributes:
        height, width: of the mask, pixels.
        counts: the compressed string.
        name: what it belongs to, for messages.
    """

    height: int
    width: int
    counts: str
    name: str = ""

    @classmethod
    def encode(cls, mask: NDArray[np.generic], *, name: str = "") -> RunLengths:
        """Code a mask (height, width), non-zero = target."""
        counts: bytes = coco.encode(np.asfortranarray(mask != 0).view(np.uint8))["counts"]
        height, width = mask.shape
        return cls(height, width, counts.decode("ascii"), name)

    @classmethod
    def empty(cls, height: int, width: int, *, name: str = "") -> RunLengths:
        """A mask without target."""
        return cls(height, width, pack_runs(np.array([height * width])), name)

    @classmethod
    def of(cls, raw: Any, *, name: str = "") -> RunLengths:
        """Read ``{"size": [height, width], "counts": …}`` as JSON or a pickle gives it.

        ``counts`` is a compressed string, its bytes, or a list of runs.

        Raises:
            DatasetError: another kind of value, or runs that do not fill the size; the message begins with ``name``.
        """
        try:
            height, width = (int(v) for v in raw["size"])
            counts = raw["counts"]
            if isinstance(counts, bytes):
                counts = counts.decode("ascii")
            if not isinstance(counts, str):
                counts = pack_runs(np.array([int(v) for v in counts], np.int64))
        except (KeyError, TypeError, ValueError, UnicodeDecodeError, OverflowError) as error:
            raise DatasetError(
                f"{name or 'The mask'} is not a run-length mask ({error!r}).", received=str(raw)[:80]
            ) from None
        mask = cls(height, width, counts, name)
        mask.runs()
        return mask

    def runs(self) -> Ints:
        """int64 (R,) lengths of the runs, beginning with zeros.

        Raises:
            DatasetError: broken coding, or runs that do not fill the size.
        """
        name = self.name or "The mask"
        try:
            runs = unpack_runs(self.counts)
        except ValueError as error:
            raise DatasetError(f"{name} has a broken run-length mask: {error}.", received=self.counts[:80]) from None
        if self.height < 1 or self.width < 1 or (runs < 0).any() or int(runs.sum()) != self.height * self.width:
            raise DatasetError(
                f"{name} has a run-length mask that does not fill its size.",
                received=f"{self.width} x {self.height} pixels, runs over {int(runs.sum())}",
            )
        return runs

    @property
    def area(self) -> int:
        """Pixels of the target; errors as :meth:`runs`."""
        return int(self.runs()[1::2].sum())

    def load(self) -> NDArray[np.uint8]:
        """uint8 (height, width), 1 = target; errors as :meth:`runs`."""
        # Not coco.decode: it takes ten times as long, and returns unset memory where the runs end early.
        runs = self.runs()
        values = np.arange(len(runs), dtype=np.uint8) & 1
        return np.ascontiguousarray(np.repeat(values, runs).reshape(self.width, self.height).T)


def pack_runs(runs: NDArray[np.integer[Any]]) -> str:
    """Compress runs (R,); pycocotools takes neither negative runs nor those of more than 32 bits."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    out = bytearray()
    for value in values.tolist():
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & _SIGN else 0)
            out.append(_OFFSET + (bits | _MORE if more else bits))
    return out.decode("ascii")


def unpack_runs(counts: str) -> Ints:
    """int64 (R,) runs of a compressed string.

    Raises:
        ValueError: a character outside the code, an unfinished number or one beyond 60 bits.
    """
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - _OFFSET
    except UnicodeEncodeError:
        raise ValueError("a character outside the code") from None
    if codes.size == 0:
        raise ValueError("no runs")
    if codes.min() < 0 or codes.max() >= 2 * _MORE:
        raise ValueError("a character outside the code")
    last = (codes & _MORE) == 0
    if not last[-1]:
        raise ValueError("the last number is not finished")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if place.max() >= _MAX_CHARACTERS:
        raise ValueError("a number is too long")
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    values -= np.where(codes[ends] & _SIGN, np.int64(1) << (5 * (ends - starts + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])  # run 0 stands alone: run 2 is not a difference
    return np.asarray(values, np.int64)


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pixel counts of many mask pairs.

    Attributes:
        intersection, predicted, truth: int64 (pairs,).
    """

    intersection: Ints
    predicted: Ints
    truth: Ints

    @property
    def union(self) -> Ints:
        """int64 (pairs,)."""
        return self.predicted + self.truth - self.intersection


def overlaps(pairs: Iterable[tuple[RunLengths, RunLengths]], *, processes: int = 1) -> Overlaps:
    """Count (predicted, truth) pairs from their run lengths, in time proportional to the runs and not to the pixels.

    The runs are not validated: decode what a stranger wrote first.

    Args:
        pairs: taken one by one.
        processes: how many share the work; more than one pays from some 20,000 pairs on.

    Raises:
        DatasetError: the two masks of a pair differ in size.
    """
    if processes == 1:
        parts = [_count(task) for task in _tasks(pairs)]
    else:
        # Spawned, not forked: the caller may hold threads.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(_count, _tasks(pairs)))
    columns = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)
    return Overlaps(*columns)


_Coded = dict[str, Any]


def _tasks(pairs: Iterable[tuple[RunLengths, RunLengths]]) -> Iterator[list[tuple[_Coded, _Coded]]]:
    remaining = iter(pairs)
    while some := list(islice(remaining, _PER_TASK)):
        for p, t in some:
            if (p.height, p.width) != (t.height, t.width):  # coco.merge would answer with an empty mask
                raise DatasetError(
                    "Two run-length masks of a pair differ in size.",
                    received=((p.height, p.width), (t.height, t.width)),
                )
        yield [(_coded(p), _coded(t)) for p, t in some]


def _coded(mask: RunLengths) -> _Coded:
    return {"size": (mask.height, mask.width), "counts": mask.counts.encode("ascii")}


def _count(pairs: list[tuple[_Coded, _Coded]]) -> Ints:
    """int64 (3, pairs): pixels of the intersection, of the prediction, of the truth."""
    left, right = [p for p, _ in pairs], [t for _, t in pairs]
    both = [coco.merge([p, t], intersect=True) for p, t in pairs]
    return np.stack([_areas(side) for side in (both, left, right)])


def _areas(masks: list[_Coded]) -> Ints:
    parts = [coco.area(masks[first : first + _PER_CALL]) for first in range(0, len(masks), _PER_CALL)]
    return np.concatenate(parts).astype(np.int64)
