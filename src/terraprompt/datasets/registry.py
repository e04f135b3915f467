"""Data sets by name, from the table of layouts and the entry points ``terraprompt.layouts``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terraprompt.datasets.layouts import LAYOUTS, AbsentSplitError, Faults, Layout, Problem
from terraprompt.datasets.sample import Sample
from terraprompt.errors import DatasetError
from terraprompt.io.entry_points import installed, load_installed

__all__ = ["Dataset", "Problem", "dataset_names", "layout_of", "open_dataset", "read_samples"]

GROUP = "terraprompt.layouts"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A split of a data set.

    Attributes:
        name: as on the command line.
        split: "train", "val", "test".
        samples: in a fixed order; pixels are read when they are asked for. Ids are unique.
        problems: what was left out because it is broken; empty unless told to keep going.
    """

    name: str
    split: str
    samples: Sequence[Sample]
    problems: tuple[Problem, ...] = ()


def dataset_names() -> tuple[str, ...]:
    """Names that :func:`open_dataset` knows, sorted."""
    return tuple(sorted({*LAYOUTS, *installed(GROUP)}))


def layout_of(name: str) -> Layout:
    """The layout of a data set; a built-in one goes before an installed one of the same name.

    Raises:
        DatasetError: an unknown name, or an entry point that names no layout.
        ConfigError: an entry point that cannot be imported.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    if name not in installed(GROUP):
        raise DatasetError("Unknown data set.", received=name, hint=f"Known: {', '.join(dataset_names())}.")
    layout = load_installed(GROUP, name)
    if not isinstance(layout, Layout) or layout.name != name:
        raise DatasetError(
            f'The entry point "{name}" of {GROUP} is no Layout of that name.',
            received=f"{type(layout).__name__} {getattr(layout, 'name', '')}".strip(),
            hint="See docs/extend/layout.md.",
        )
    return layout


def open_dataset(
    name: str, root: str | Path, *, split: str = "test", keep_going: bool = False, **options: Any
) -> Dataset:
    """A split of a data set on disk.

    Manifests are read and files looked for; pixels are not, :func:`terraprompt.datasets.check.check_samples` does that.

    Args:
        name: one of :func:`dataset_names`.
        root: folder of the copy, or an index of it (``.parquet``, see :mod:`.index`), which opens at once.
        split: which part.
        keep_going: leave broken items out and list them, instead of stopping at the first.
        options: of the layout, e.g. ``plan`` of "pack".

    Raises:
        DatasetError: an unknown name, split or option, no copy at ``root``, a broken manifest, or a broken item.
    """
    if Path(root).suffix.lower() == ".parquet" and Path(root).is_file():
        return _from_index(layout_of(name), Path(root), split, options)
    faults = Faults(keep_going)
    samples = tuple(read_samples(name, root, split=split, faults=faults, **options))
    return Dataset(name, split, samples, tuple(faults.found))


def read_samples(
    name: str, root: str | Path, *, split: str = "test", faults: Faults | None = None, **options: Any
) -> Iterator[Sample]:
    """The samples of :func:`open_dataset` one after the other, for sets too large to hold; errors come as they do."""
    layout = layout_of(name)
    folder = Path(root).expanduser()
    if split not in layout.splits:
        raise DatasetError(
            f"{layout.title} has no such split.", received=split, hint=f"Splits: {', '.join(layout.splits)}."
        )
    if not folder.is_dir():
        raise DatasetError(f"There is no copy of {layout.title} here.", received=folder, hint=layout.where)
    fixed = getattr(layout.read, "keywords", {})
    taken = inspect.signature(layout.read).parameters.values()
    known = [p.name for p in taken if p.kind is p.KEYWORD_ONLY and p.name not in fixed]
    if unknown := sorted(set(options) - set(known)):
        raise DatasetError(
            f"{layout.title} has no such option.",
            received=", ".join(unknown),
            hint=f"Options: {', '.join(known) or 'none'}.",
        )
    faults = faults or Faults()
    return _unique(layout.read(folder, split, faults, **options), folder, split, faults)


def _from_index(layout: Layout, path: Path, split: str, options: dict[str, Any]) -> Dataset:
    from terraprompt.datasets.index import open_index  # pyarrow, which reading a folder does not need

    index = open_index(path)
    if (index.name, index.split) != (layout.name, split):
        raise DatasetError(
            "The index is of another data set or split.",
            received=f"{index.name}, {index.split}",
            hint=f"Asked for: {layout.name}, {split}.",
        )
    if options:
        raise DatasetError(
            "An index takes no options: they were settled when it was written.", received=", ".join(sorted(options))
        )
    return Dataset(layout.name, split, index)


def _unique(samples: Iterator[Sample], folder: Path, split: str, faults: Faults) -> Iterator[Sample]:
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            faults.add(sample.image, f"two samples have the id {sample.id!r}")
            continue
        seen.add(sample.id)
        yield sample
    if not seen and not faults.found:
        raise AbsentSplitError(folder, f"nothing here belongs to the split {split!r}")
