"""Answers on disk: Parquet parts that are either whole or not there, merged into one file when the run is done.

A run folder holds ``predictions/part-00000.parquet`` and so on while it goes on, and ``predictions.parquet`` at its
end. Every file carries in its metadata what the answers depend on, so that none is mistaken for another's.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from terraprompt.datasets.sample import Sample
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.io.atomic import atomic_path, remove_temporaries
from terraprompt.io.files import translated
from terraprompt.io.rle import RunLengths

__all__ = [
    "MERGED",
    "PARTS",
    "EvalItem",
    "Key",
    "Prediction",
    "PredictionWriter",
    "Settings",
    "has_predictions",
    "merge_parts",
    "read_predictions",
]

MERGED = "predictions.parquet"
PARTS = "predictions"
#: Engine and flow of masks that another program wrote.
FOREIGN = "masks"
#: Question rule of a run that clicks instead of asking the samples' own questions.
CLICKS = "clicks"
_KEY = b"terraprompt"
#: Sample id and wording: what makes a question.
Key = tuple[str, int]
_STATUSES = ("found", "no_target", "failed", "skipped")

_SCHEMA = pa.schema([
    ("sample_id", pa.string()),
    ("status", pa.dictionary(pa.int8(), pa.string())),
    ("reason", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("counts", pa.string()),
    ("task", pa.dictionary(pa.int8(), pa.string())),
    ("instruction", pa.string()),
    ("instruction_index", pa.int32()),
    ("notes", pa.string()),
    ("seconds", pa.float64()),
    ("memory_mb", pa.float64()),
    ("fingerprint", pa.string()),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What answers depend on: two runs with equal settings may be joined.

    Attributes:
        dataset, split: names, as the reader knows them.
        engine, model, revision, checksum, engine_settings: as in :class:`terraprompt.engines.base.ModelInfo`.
        question: rule that chose among the wordings of a sample.
        seed: of that choice.
        selector: whether words of size and place were decided by the flow.
        flow: how the engine was fed, "published" or "product", see :class:`.protocols.Protocol`.
        flow_settings: effective settings of the flow (:class:`terraprompt.flow.settings.SegmentSettings`).
        version: of the package.
        code: fingerprint of the code and data files of the flow and the engine (:mod:`terraprompt.io.identity`).
    """

    dataset: str
    split: str
    engine: str
    model: str
    revision: str
    checksum: str
    engine_settings: Mapping[str, Any]
    question: str
    seed: int
    selector: bool
    flow: str
    flow_settings: Mapping[str, Any]
    version: str
    code: str

    def check_same(self, there: Settings, where: Path) -> None:
        """Refuse to mix answers.

        Raises:
            ConfigError: names every setting that differs.
        """
        pairs = [(f.name, getattr(self, f.name), getattr(there, f.name)) for f in fields(self)]
        changed = [f"{name}: there {theirs}, now {ours}" for name, ours, theirs in pairs if ours != theirs]
        if changed:
            raise ConfigError(
                f"The predictions in {where} were made with other settings.",
                received="; ".join(changed),
                hint="Resume with the settings of that run, or choose another output folder.",
            )

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True, default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> Settings:
        """The inverse of :meth:`to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class EvalItem:
    """A question: a sample and which of its wordings is asked."""

    sample: Sample
    wording: int = 0

    @property
    def text(self) -> str:
        """The instruction in words; "" for points or boxes alone."""
        return self.sample.instructions[self.wording] if self.sample.instructions else ""

    @property
    def key(self) -> Key:
        """Sample id and wording."""
        return self.sample.id, self.wording

    def fingerprint(self) -> str:
        """SHA-256 of what the answer depends on: the prompt, and the image file's content ("" where it is missing)."""
        sample = self.sample
        asked = (self.text, sample.task.value, sample.points, sample.labels, sample.boxes)
        digest = hashlib.sha256(repr(asked).encode())
        digest.update(_file_digest(sample.image, sample.image.stat().st_mtime_ns if sample.image.is_file() else 0))
        return digest.hexdigest()


@lru_cache(maxsize=1)  # questions about one image follow each other
def _file_digest(path: Path, changed: int) -> bytes:
    if not changed:
        return b""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One sample as it was answered.

    Attributes:
        sample_id: of :class:`terraprompt.datasets.sample.Sample`.
        status: "found", "no_target", "failed" (the engine, see ``reason``) or "skipped" (the sample is broken).
        reason: why it failed or was skipped.
        mask: the answer at the image's own size, COCO run lengths; None unless found or no_target.
        task: of the prompt.
        instruction: what was asked, in words; "" for points or boxes alone.
        instruction_index: which wording of the sample.
        notes: the engine's intermediate evidence (boxes, points, reasoning text, …) as JSON values, coordinates in
            pixels of the image.
        seconds: from prompt to mask; encoding the image is part of its first sample.
        memory_mb: peak resident memory of the process until then, MiB; NaN where the system does not say.
        fingerprint: of the question, see :meth:`EvalItem.fingerprint`; another one is asked again by a resumed run.
    """

    sample_id: str
    status: str
    reason: str | None
    mask: RunLengths | None
    task: str
    instruction: str
    instruction_index: int
    notes: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    memory_mb: float = float("nan")
    fingerprint: str = ""

    @property
    def key(self) -> Key:
        """Which question this answers."""
        return self.sample_id, self.instruction_index


def _table(rows: Sequence[Prediction], settings: Settings) -> pa.Table:
    coded = ("height", "width", "counts")
    columns = {n: [getattr(row.mask if n in coded else row, n, None) for row in rows] for n in _SCHEMA.names}
    columns["notes"] = [json.dumps(row.notes, sort_keys=True, default=str) if row.notes else None for row in rows]
    return pa.table(columns, schema=_SCHEMA).replace_schema_metadata({_KEY: settings.to_json()})


def _write(rows: Sequence[Prediction], settings: Settings, path: Path) -> None:
    with translated(path), atomic_path(path) as temporary:
        pq.write_table(_table(rows, settings), temporary, compression="zstd")


def _read(path: Path) -> tuple[Settings, list[Prediction]]:
    try:
        table = pq.read_table(path)
        settings = Settings.from_json(table.schema.metadata[_KEY])
        rows = [_row(**values) for values in table.to_pylist()]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"A file of predictions cannot be read ({type(error).__name__}: {error}).",
            received=path,
            hint="Give what `terraprompt evaluate` wrote; a damaged part may be removed and its samples asked again.",
        ) from error
    return settings, rows


def _row(
    height: int | None, width: int | None, counts: str | None, notes: str | None, status: str, **values: Any
) -> Prediction:
    if status not in _STATUSES or (counts is None) == (status in ("found", "no_target")):
        raise ValueError(f"status {status} with{'out' if counts is None else ''} a mask")
    mask = None if height is None or width is None or counts is None else RunLengths(height, width, counts)
    return Prediction(mask=mask, notes=json.loads(notes) if notes else {}, status=status, **values)


def _files(path: Path) -> list[Path]:
    """Where answers may be: the merged file first, then the parts that came after it."""
    if path.is_file():
        return [path]
    merged = [path / MERGED] if (path / MERGED).is_file() else []
    folder = path / PARTS if (path / PARTS).is_dir() else path
    return merged + sorted(folder.glob("part-*.parquet"))


def read_predictions(path: Path | str) -> tuple[Settings, list[Prediction]]:
    """All answers of a run.

    Args:
        path: a run folder, a folder of parts, or one file.

    Returns:
        The settings, and one prediction a question: the last one written, in the order in which questions were first
        written.

    Raises:
        DatasetError: nothing there, or a damaged file.
        ConfigError: parts made with different settings.
    """
    path = Path(path)
    files = _files(path)
    if not files:
        raise DatasetError("There are no predictions.", received=path, hint="Give the output folder of a run.")
    settings: Settings | None = None
    rows: dict[Key, Prediction] = {}
    for file in files:
        found, part = _read(file)
        if settings is None:
            settings = found
        settings.check_same(found, file)
        rows |= {row.key: row for row in part}
    assert settings is not None
    return settings, list(rows.values())


def has_predictions(path: Path) -> bool:
    """Whether a run folder holds any answers."""
    return bool(_files(path))


class PredictionWriter:
    """Appends parts to a run folder; a context manager that writes what is left when it ends, however it ends.

    Args:
        folder: of the run; made if missing.
        settings: of every part.
        rows: predictions in a part, at most.
        seconds: after which a part is written although it is not full, so that a slow engine loses little.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Settings, *, rows: int = 200, seconds: float = 20.0) -> None:
        self.folder, self.settings = folder / PARTS, settings
        self._rows, self._seconds = rows, seconds
        self._waiting: list[Prediction] = []
        self._since = time.monotonic()
        with translated(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_temporaries(self.folder)
        numbers = [int(p.stem.removeprefix("part-")) for p in self.folder.glob("part-*.parquet")]
        self._number = max(numbers, default=-1) + 1

    def add(self, rows: Iterable[Prediction]) -> None:
        """Keep predictions; a full part goes to the disk."""
        self._waiting += rows
        if len(self._waiting) >= self._rows or time.monotonic() - self._since > self._seconds:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a part."""
        if self._waiting:
            _write(self._waiting, self.settings, self.folder / f"part-{self._number:05d}.parquet")
            self._number += 1
            self._waiting = []
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def merge_parts(folder: Path, order: Sequence[Key]) -> Path:
    """Join all parts of a run folder into ``predictions.parquet``, then remove them.

    Killed in between, both are there and say the same.

    Args:
        folder: of the run.
        order: questions; predictions come in this order, those of other questions after them.

    Raises:
        DatasetError, ConfigError: as :func:`read_predictions`.
        OutputError: the disk is full.
    """
    settings, rows = read_predictions(folder)
    place = {key: i for i, key in enumerate(order)}
    rows.sort(key=lambda row: place.get(row.key, len(place)))
    target = folder / MERGED
    _write(rows, settings, target)
    for part in (folder / PARTS).glob("part-*.parquet"):
        part.unlink()
    with suppress(OSError):  # somebody keeps something else there
        (folder / PARTS).rmdir()
    return target
