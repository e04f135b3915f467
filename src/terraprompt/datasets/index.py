"""An index of samples in one Parquet file: a million open at once, and any one is a fraction of a millisecond away.

One row a sample: columns to look at and filter by (``id``, ``task``, ``category``, ``level``, ``split``, ``source``),
and ``record``, the whole sample as JSON with paths relative to the data set. Row groups are small, because a row group
is the least that Parquet reads: 128 rows make a random record cheap and keep the list of groups short
(bench/index.py measures both).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from terraprompt.datasets.coding import decode_sample, encode_sample
from terraprompt.datasets.sample import Sample
from terraprompt.errors import DatasetError

__all__ = ["ROW_GROUP", "Index", "open_index", "write_index"]

ROW_GROUP = 128
_BATCH = 64 * ROW_GROUP
_NOTE = b"terraprompt.index"
_FACTS = ("id", "task", "category", "level", "split", "source")
_SCHEMA = pa.schema([*((name, pa.string()) for name in _FACTS), ("record", pa.binary())])


def write_index(
    path: Path,
    samples: Iterable[Sample],
    root: Path,
    *,
    name: str = "",
    split: str = "",
    row_group: int = ROW_GROUP,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write an index; samples are taken one after the other and not kept.

    Args:
        path: of the Parquet file; written in place, so give a temporary name and rename.
        samples: any number.
        root: folder of the data set; paths in the index are relative to it.
        name: of the data set, kept in the file.
        split: of the data set, kept in the file.
        row_group: rows a row group.
        progress: told how many samples are written.

    Returns:
        How many samples were written.
    """
    note = {"version": 1, "name": name, "split": split, "row_group": row_group}
    # Relative to the index: both can be moved together, and no index tells where it was made.
    note["root"] = Path(os.path.relpath(root.resolve(), path.resolve().parent)).as_posix()
    schema = _SCHEMA.with_metadata({_NOTE: json.dumps(note).encode()})
    count = 0
    waiting = iter(samples)
    with pq.ParquetWriter(
        path, schema, compression="zstd", write_statistics=False, use_dictionary=[n for n in _FACTS if n != "id"]
    ) as writer:
        while batch := list(islice(waiting, _BATCH // row_group * row_group)):
            rows = [encode_sample(sample, root) for sample in batch]
            columns: dict[str, list[Any]] = {fact: [row.get(fact) for row in rows] for fact in _FACTS}
            columns["record"] = [json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() for row in rows]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=row_group)
            count += len(batch)
            if progress:
                progress(count)
    return count


class Index(Sequence[Sample]):
    """The samples of an index file; also safe in several threads and picklable for several processes.

    Attributes:
        path: of the file.
        root: folder of the data set.
        name, split: of the data set.
    """

    def __init__(self, path: Path, root: Path | None = None) -> None:
        self.path = Path(path)
        try:
            self._file = pq.ParquetFile(self.path, memory_map=True)
            note = json.loads(self._file.schema_arrow.metadata[_NOTE])
            self.name, self.split = str(note["name"]), str(note["split"])
            self._row_group = int(note["row_group"])
            inside = Path(str(note["root"]))
        except FileNotFoundError:
            raise DatasetError("The index is missing.", received=path) from None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"This is not an index ({error!r}).",
                received=path,
                hint="Write one with: terraprompt dataset index ROOT --dataset NAME -o FILE.parquet.",
            ) from None
        self.root = (self.path.resolve().parent / inside).resolve() if root is None else Path(root).resolve()
        if not self.root.is_dir():
            raise DatasetError(
                "The data set of an index is not where it was.", received=self.root, hint="Say where it is (root)."
            )
        self._length = int(self._file.metadata.num_rows)
        self._lock = threading.Lock()  # a Parquet reader is for one thread at a time
        self._group: tuple[int, Any] = (-1, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, (self.path, self.root)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        place = index + self._length if index < 0 else index
        if not 0 <= place < self._length:
            raise IndexError(f"sample {index} of {self._length}")
        number, row = divmod(place, self._row_group)
        return decode_sample(json.loads(self._records(number)[row].as_py()), self.root)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(self._length))

    def column(self, name: str) -> list[str | None]:
        """One of the columns ``id``, ``task``, ``category``, ``level``, ``split``, ``source`` for all samples.

        Raises:
            DatasetError: another name.
        """
        if name not in _FACTS:
            raise DatasetError("An index has no such column.", received=name, hint=f"Columns: {', '.join(_FACTS)}.")
        with self._lock:
            values: list[str | None] = self._file.read(columns=[name]).column(0).to_pylist()
        return values

    def has(self, *fields: str) -> NDArray[np.bool_]:
        """Which samples have at least one of these fields of :class:`Sample`; nothing is decoded."""
        parts = []
        with self._lock:
            for batch in self._file.iter_batches(_BATCH, columns=["record"]):
                # inside a text of the record the quotes are escaped: it cannot match
                found = [pc.match_substring(batch.column(0), f'"{field}":') for field in fields]
                parts.append(np.logical_or.reduce([one.to_numpy(zero_copy_only=False) for one in found]))
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    def _records(self, number: int) -> Any:
        with self._lock:
            if self._group[0] != number:
                try:
                    table = self._file.read_row_group(number, columns=["record"], use_threads=False)
                except (OSError, pa.ArrowException) as error:
                    raise DatasetError(f"The index is damaged ({error}).", received=self.path) from None
                self._group = (number, table.column(0))
            return self._group[1]


def open_index(path: str | Path, *, root: str | Path | None = None) -> Index:
    """Open an index file.

    Args:
        path: of the file.
        root: folder of the data set, if it was moved away from the index.

    Raises:
        DatasetError: missing, no index, or its data set is not there.
    """
    return Index(Path(path), None if root is None else Path(root))
