"""Run-length masks in the coding of COCO: runs down the columns, the first run counts zeros.

The compressed string packs each run in characters of 6 bits above "0": 5 bits of the number, lowest first, and a bit
that says whether more follow. From the fourth run on the number is the difference to the run two before it. Source:
the COCO mask format (maskApi).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import DatasetError

__all__ = ["RunLengths"]

_OFFSET = 48
_MORE = 0x20
_SIGN = 0x10
_MOST_CHARACTERS = 12  # 60 bits hold every run an image can have


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
        height, width = mask.shape
        flat = (mask != 0).T.reshape(-1)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        start = [0, 0] if flat.size and flat[0] else [0]
        return cls(height, width, pack_runs(np.diff([*start, *edges.tolist(), flat.size])), name)

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
            raise DatasetError(f"{_of(name)}is not a run-length mask ({error!r}).", received=str(raw)[:80]) from None
        mask = cls(height, width, counts, name)
        mask.runs()
        return mask

    def runs(self) -> NDArray[np.int64]:
        """int64 (R,) lengths of the runs, beginning with zeros.

        Raises:
            DatasetError: broken coding, or runs that do not fill the size.
        """
        try:
            runs = unpack_runs(self.counts)
        except ValueError as error:
            raise DatasetError(
                f"{_of(self.name)}has a broken run-length mask: {error}.", received=self.counts[:80]
            ) from None
        if self.height < 1 or self.width < 1 or (runs < 0).any() or int(runs.sum()) != self.height * self.width:
            raise DatasetError(
                f"{_of(self.name)}has a run-length mask that does not fill its size.",
                received=f"{self.width} x {self.height} pixels, runs over {int(runs.sum())}",
            )
        return runs

    @property
    def area(self) -> int:
        """Pixels of the target; errors as :meth:`runs`."""
        return int(self.runs()[1::2].sum())

    def load(self) -> NDArray[np.uint8]:
        """uint8 (height, width), 1 = target; errors as :meth:`runs`."""
        runs = self.runs()
        values = np.arange(len(runs), dtype=np.uint8) & 1
        return np.ascontiguousarray(np.repeat(values, runs).reshape(self.width, self.height).T)


def pack_runs(runs: NDArray[np.integer[Any]]) -> str:
    """Runs as a compressed string."""
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


def unpack_runs(counts: str) -> NDArray[np.int64]:
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
    if place.max() >= _MOST_CHARACTERS:
        raise ValueError("a number is too long")
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    values -= np.where(codes[ends] & _SIGN, np.int64(1) << (5 * (ends - starts + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])  # run 0 stands alone: run 2 is not a difference
    return np.asarray(values, np.int64)


def _of(name: str) -> str:
    return f"{name} " if name else "The mask "
