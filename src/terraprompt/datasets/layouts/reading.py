"""What every reader of a layout shares: how faults are told, and how manifests, stems and phrases are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from terraprompt.datasets.sample import Sample
from terraprompt.errors import DatasetError, PickleRefusedError
from terraprompt.io.pickles import load_pickle

__all__ = [
    "PICTURES",
    "AbsentSplitError",
    "BrokenItemError",
    "Faults",
    "Layout",
    "Problem",
    "by_stem",
    "existing",
    "load_json",
    "texts",
    "unpickled",
]

_T = TypeVar("_T")
PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True, slots=True)
class Problem:
    """An item that was left out.

    Attributes:
        file: the file that is at fault; of a line or an entry the file that holds it.
        reason: what is wrong with it.
    """

    file: str
    reason: str


class BrokenItemError(DatasetError):
    """One item of a data set is broken; the others are not.

    Args:
        file: the file that is at fault.
        reason: what is wrong with it, without a full stop.
    """

    def __init__(self, file: Path | str, reason: str) -> None:
        self.problem = Problem(str(file), reason)
        super().__init__(
            f"{reason[:1].upper()}{reason[1:]}.",
            received=file,
            hint="Repair the copy, or leave broken items out (keep_going, --keep-going).",
        )

    @classmethod
    def of(cls, file: Path | str, error: DatasetError) -> BrokenItemError:
        """A fault that was found without its file at hand."""
        return cls(file, error.what.rstrip(".") + ("" if error.received is None else f" ({error.received})"))


class AbsentSplitError(DatasetError):
    """A copy does not hold a split: its list, manifest or folder is not there.

    Args:
        file: what was looked for.
        reason: what is wrong with it, without a full stop.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{reason[:1].upper()}{reason[1:]}.", received=file, hint="Get the whole data set.")


@dataclass(slots=True)
class Faults:
    """Broken items of one reading: the first is an error, or all are collected.

    Attributes:
        keep_going: collect instead of raising.
        found: what was left out.
    """

    keep_going: bool = False
    found: list[Problem] = field(default_factory=list)

    def add(self, file: Path | str, reason: str) -> None:
        """Report a broken item.

        Raises:
            BrokenItemError: unless ``keep_going``.
        """
        if not self.keep_going:
            raise BrokenItemError(file, reason)
        self.found.append(Problem(str(file), reason))

    def attempt(self, file: Path | str, build: Callable[[], _T]) -> _T | None:
        """What ``build`` makes, or None if it met a broken item; ``file`` is named where the error names none.

        Raises:
            DatasetError: unless ``keep_going``.
        """
        try:
            return build()
        except AbsentSplitError:
            raise
        except DatasetError as error:
            if not self.keep_going:
                raise
            self.found.append(error.problem if isinstance(error, BrokenItemError) else Problem(str(file), str(error)))
            return None


@dataclass(frozen=True, slots=True)
class Layout:
    """How a data set lies on disk.

    Attributes:
        name: on the command line.
        title: as its authors write it.
        splits: which there are.
        tree: what the folder must hold, one line.
        where: where to get a copy, one sentence.
        read: ``(root, split, faults, **options)`` -> samples; keyword-only options are the layout's own.
        hub: id of the data set's repository on the Hugging Face hub, or None where none is known for certain.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    tree: str
    where: str
    read: Callable[..., Iterator[Sample]]
    hub: str | None = None


def existing(path: Path, what: str) -> Path:
    """The path, which must be a file.

    Raises:
        BrokenItemError: it is not there.
    """
    if not path.is_file():
        raise BrokenItemError(path, f"the {what} is missing")
    return path


def load_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        BrokenItemError: missing, not UTF-8 or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BrokenItemError(path, "the file is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenItemError(path, f"not readable as JSON ({error})") from None


def texts(raw: Any, path: Path, field_name: str) -> tuple[str, ...]:
    """The sentences of a field: a list of strings or one string; blank ones are dropped.

    Raises:
        BrokenItemError: another kind of value.
    """
    listed = [raw] if isinstance(raw, str) else [] if raw is None else raw
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise BrokenItemError(path, f"the field {field_name!r} does not hold sentences")
    return tuple(" ".join(item.split()) for item in listed if item.strip())


def by_stem(folder: Path, suffixes: tuple[str, ...], faults: Faults) -> Mapping[str, Path]:
    """Files of a folder by stem, sorted; names that begin with a dot are no items.

    Raises:
        DatasetError: no such folder.
        BrokenItemError: two files of one stem, unless faults are collected; then the first is kept.
    """
    if not folder.is_dir():
        raise DatasetError("A folder of the data set is missing.", received=folder)
    out: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in out:
            faults.add(path, f"has the stem of {out[path.stem].name}, so nobody can tell which is meant")
            continue
        out[path.stem] = path
    return out


def unpickled(path: Path) -> Any:
    """:func:`terraprompt.io.pickles.load_pickle`; what it refuses is a broken item."""
    try:
        return load_pickle(path)
    except PickleRefusedError as error:
        raise BrokenItemError(path, error.what[:1].lower() + error.what[1:].rstrip(".")) from None
