"""Results that papers print, beside which a report may put its own; read from ``published.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["FAULTS", "NOT_STATED", "Published", "listing", "published", "published_for"]

#: Protocol of numbers whose evaluator is not known.
NOT_STATED = "not stated"

#: Known faults of reporting, to be said beside numbers of the methods named.
FAULTS: Mapping[str, str] = {
    "SegEarth-R1, UniGeoSeg": (
        "Their evaluators feed the true answer to the language model (teacher forcing). The mask depends on what comes "
        "before the answer alone, so the mask metrics are not touched; answer metrics would be."
    ),
    "GeoPixel": "UniGeoSeg's Table 3 prints GeoPixel's P@0.5 on RRSIS-D as its cIoU; its oIoU is 84.90.",
    "DiCoR": "The number printed as gIoU is cumulative, so it is a cIoU.",
}


@dataclass(frozen=True, slots=True)
class Published:
    """One method on one part of a data set.

    Attributes:
        dataset: e.g. "earthreason".
        split: "val" or "test".
        method: as its paper calls it.
        protocol: preset that describes the evaluator, or :data:`NOT_STATED`.
        values: metric by the name it has in ``Scores`` -> percent, as printed.
        source: paper and table that print the numbers.
        task, level: the part of the split that the numbers are about; None = all of it.
        trained: what the method was fine-tuned on for this table; empty if it is as its authors released it.
        note: what must be said beside the numbers; empty if nothing.
    """

    dataset: str
    split: str
    method: str
    protocol: str
    values: Mapping[str, float]
    source: str
    task: str | None = None
    level: str | None = None
    trained: str = ""
    note: str = ""

    @property
    def title(self) -> str:
        """The method, and what it was fine-tuned on."""
        return f"{self.method} (fine-tuned on {self.trained})" if self.trained else self.method


@cache
def published() -> tuple[Published, ...]:
    """Every row, in the order of the papers' tables."""
    text = files("terraprompt.evaluation").joinpath("published.toml").read_text(encoding="utf-8")
    rows = []
    for table in tomllib.loads(text)["table"]:
        common = {key: table[key] for key in ("source", "dataset", "split", "task", "level") if key in table}
        for row in table["rows"]:
            values = {name: float(row[name]) for name in table["metrics"] if name in row}
            note = " ".join(part for part in (table.get("note", ""), row.get("note", "")) if part)
            rows.append(
                Published(
                    **common,
                    method=row["method"],
                    protocol=row.get("protocol", table["protocol"]),
                    values=values,
                    trained=row.get("trained", ""),
                    note=note,
                )
            )
    return tuple(rows)


def published_for(dataset: str, split: str | None = None) -> tuple[Published, ...]:
    """Rows of a data set; "RRSIS-D", "rrsis-d" and "rrsisd" are one. Empty if no result is known.

    Args:
        dataset: its name.
        split: rows of this split alone; None = all.
    """
    name = _plain(dataset)
    return tuple(p for p in published() if _plain(p.dataset) == name and split in (None, p.split))


def listing(rows: Iterable[Published]) -> list[list[str]]:
    """A table of results: part, method, metrics in percent, protocol, source; the header first."""
    rows = list(rows)
    metrics = list(dict.fromkeys(name for row in rows for name in row.values))
    out = [["data set", "split", "part", "method", *metrics, "protocol", "source", "note"]]
    for row in rows:
        part = " ".join(word for word in (row.task, row.level) if word)
        values = (f"{row.values[name]:.2f}" if name in row.values else "-" for name in metrics)
        out.append([row.dataset, row.split, part, row.title, *values, row.protocol, row.source, row.note])
    return out


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
