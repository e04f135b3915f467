"""What a stage is, and the files between two of them.

A stage takes the rows of one part of the stage before and gives the rows of its own part; a gathering stage takes all
parts. Rows are plain dicts of the schemas in :mod:`terraprompt.forge.records`. To add one, write such a function and
put a :class:`Stage` into the list of :mod:`terraprompt.forge.run`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from terraprompt.errors import ConfigError, DatasetError
from terraprompt.forge.recipe import Recipe
from terraprompt.forge.records import Row
from terraprompt.io.atomic import atomic_path
from terraprompt.io.files import translated

if TYPE_CHECKING:
    from terraprompt.vlm.model_pool import ModelPool

__all__ = ["REGIONS", "SAMPLES", "Job", "Parts", "Stage", "last_of", "read_notes", "read_rows", "write_rows"]

_NOTE = b"terraprompt.forge"
#: Rows held at a time while writing and reading.
_BATCH = 64


@dataclass(frozen=True)
class Parts:
    """The files of a finished stage.

    Attributes:
        folder: of the stage.
    """

    folder: Path

    def paths(self) -> list[Path]:
        """In order."""
        return sorted(self.folder.glob("part-*.parquet"))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """All rows in order, some columns only if asked."""
        for path in self.paths():
            yield from read_rows(path, columns)

    def part(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}.parquet"


@dataclass
class Job:
    """What a stage may look at besides its rows.

    Attributes:
        recipe: of the whole run.
        part: number of the part.
        before: finished stages by name.
        out: folder of the data set, for stages that write files into it.
        notes: counts that the report adds up, e.g. ``notes["region: too small"] += 1``.
        panel: models, for stages that ask them.
    """

    recipe: Recipe
    part: int
    before: dict[str, Parts]
    out: Path
    notes: Counter[str] = field(default_factory=Counter)
    panel: ModelPool | None = None

    def asking(self) -> ModelPool:
        """The models.

        Raises:
            ConfigError: this stage was not said to ask any.
        """
        if self.panel is None:
            raise ConfigError(
                "This stage asks models, but its Stage does not say so.", hint="Name their endpoints in `asks`."
            )
        return self.panel

    @property
    def regions(self) -> Parts:
        """Patches with regions, as the last filter left them."""
        return last_of(self.before, REGIONS)

    @property
    def samples(self) -> Parts:
        """Samples, as the last stage before the selection left them."""
        return last_of(self.before, SAMPLES)


#: Stages that hand on patches with regions, and stages that hand on samples, the last of them first.
REGIONS = ("model_filter", "filter")
SAMPLES = ("judge", "write")


def last_of(before: Mapping[str, Parts], names: Sequence[str]) -> Parts:
    """The first of these stages that is there."""
    return next(before[name] for name in names if name in before)


Work = Callable[[Iterator[Row], Job], Iterator[Row]]
Gather = Callable[[Job], Iterator[tuple[int, Iterable[Row]]]]


@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        name: of its folder.
        schema: of its rows.
        work: of a stage that goes part by part: rows of the part before -> rows. Pure: the same rows, recipe and
            finished stages give the same rows, whatever ran before and in whichever process.
        gather: of a stage that needs all parts at once: yields (number of the part, its rows).
        source: whose parts it takes; by default those of the stage before it.
        asks: endpoints that it asks. Its parts are worked on one after the other in this process, with many questions
            at a time, so that rate limits, budget and answers are one.
    """

    name: str
    schema: pa.Schema
    work: Work | None = None
    gather: Gather | None = None
    source: str | None = None
    asks: tuple[str, ...] = ()


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[Row], notes: Callable[[], dict[str, int]]) -> int:
    """Write a part; it is whole or not there.

    Args:
        path: of the part.
        schema: of the rows.
        rows: taken in small batches and not kept.
        notes: asked for the counts at the end.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.

    Returns:
        How many rows were written.
    """
    count = 0
    waiting = iter(rows)
    with translated(path), atomic_path(path) as temporary:
        # nobody searches in work files, and most columns hold no value twice
        plain = {"use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(temporary, schema, compression="zstd", compression_level=1, **plain) as writer:
            while batch := list(islice(waiting, _BATCH)):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                count += len(batch)
            writer.add_key_value_metadata({_NOTE: json.dumps(notes(), sort_keys=True)})
    return count


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of a part, a few at a time.

    Raises:
        DatasetError: missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=columns, use_threads=False).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"A work file is damaged: {error}.", received=path, hint="Delete it and run again with --resume."
        ) from None


def read_notes(path: Path) -> dict[str, int]:
    """Counts of a part.

    Raises:
        DatasetError: missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            raw: Any = json.loads(file.metadata.metadata.get(_NOTE, b"{}"))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DatasetError(
            f"A work file is damaged: {error}.", received=path, hint="Delete it and run again with --resume."
        ) from None
    return {str(key): int(value) for key, value in raw.items()}
