"""Tables of a pack evaluation, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from terraprompt.evaluation.metrics import bootstrap, summarise
from terraprompt.evaluation.scored_prediction import ScoredPrediction

__all__ = [
    "Table",
    "absence_table",
    "headline",
    "markdown",
    "mask_table",
    "pack_tables",
    "selector_table",
]

Table = list[list[str]]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the header."""
    head, *body = rows
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in body)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _select(rows: Iterable[ScoredPrediction], **wanted: str) -> list[ScoredPrediction]:
    return [r for r in rows if all(_facts(r)[k] == v for k, v in wanted.items())]


def _facts(row: ScoredPrediction) -> dict[str, str | None]:
    kind, _, wording = (row.level or "").partition(", ")
    return {"kind": kind, "wording": wording, "task": row.task, "category": row.category}


def _kind(row: ScoredPrediction) -> str | None:
    return _facts(row)["kind"]


def _record(row: ScoredPrediction) -> str:
    return row.sample_id.rsplit("/", 2)[0]


def _target(rows: Iterable[ScoredPrediction]) -> list[ScoredPrediction]:
    return [r for r in rows if r.truth > 0]


def _both(rows: Sequence[ScoredPrediction]) -> str:
    if not rows:
        return "-"
    s = summarise(r.overlap for r in rows)
    return f"{_percent(s.giou)} ({_percent(s.ciou)})"


#: Column of the mask table -> which rows it is made of.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "referring": {"kind": "text", "task": "referring", "wording": "trained"},
    "referring, held back": {"kind": "text", "task": "referring", "wording": "held back"},
    "reasoning": {"kind": "text", "task": "reasoning", "wording": "trained"},
    "reasoning, held back": {"kind": "text", "task": "reasoning", "wording": "held back"},
    "U-Net": {"kind": "unet"},
    "nothing": {"kind": "nothing"},
    "box": {"kind": "box"},
    "filling the box": {"kind": "filled box"},
    "point": {"kind": "point"},
}


def categories(rows: Iterable[ScoredPrediction]) -> list[str]:
    """Mask-labelled categories with targets, sorted."""
    return sorted({r.category or "" for r in _target(rows) if _kind(r) == "text"})


def mask_table(rows: Sequence[ScoredPrediction]) -> Table:
    """gIoU (cIoU) of images with a target, per category and kind of prompt; the last row averages categories."""
    columns = {name: wanted for name, wanted in COLUMNS.items() if _select(rows, **wanted)}
    table: Table = [["category", "images", *columns]]
    target = _target(rows)
    for category in categories(rows):
        mine = _select(target, category=category)
        images = len({_record(r) for r in _select(mine, kind="text")})
        table.append([category, str(images), *(_both(_select(mine, **w)) for w in columns.values())])
    means = [_mean_giou(target, w) for w in columns.values()]
    table.append(["**mean of categories**", "", *(f"**{_percent(m)}**" for m in means)])
    return table


def _mean_giou(target: Sequence[ScoredPrediction], wanted: Mapping[str, str]) -> float | None:
    per = [
        summarise(r.overlap for r in s).giou for c in categories(target) if (s := _select(target, category=c, **wanted))
    ]
    return float(np.mean(per)) if per else None


def headline(rows: Sequence[ScoredPrediction]) -> dict[str, float | None]:
    """The numbers that the targets of the model card are about; gIoU as means of categories."""
    target = _target(rows)
    out = {name: _mean_giou(target, wanted) for name, wanted in COLUMNS.items()}
    texts = [r for r in rows if _kind(r) in ("text", "weak text")]
    negatives = [r for r in rows if r.truth == 0 and _kind(r) in ("text", "absent")]
    out["N-acc"] = summarise(r.overlap for r in negatives).n_acc if negatives else None
    masks = [r for r in texts if _kind(r) == "text" and r.truth > 0]
    out["T-acc, masks"] = summarise(r.overlap for r in masks).t_acc if masks else None
    out["T-acc"] = summarise(r.overlap for r in texts).t_acc if texts else None
    return out


def absence_table(rows: Sequence[ScoredPrediction]) -> Table:
    """N-acc by how sure the absence is, and T-acc."""
    table: Table = [["question", "sentences", "answered rightly", "95 % interval"]]
    groups = {
        "labelled category, none in the image": [r for r in rows if _kind(r) == "text" and r.truth == 0],
        "looked for, none marked": _select(rows, kind="absent", wording="verified"),
        "implausible for the source": _select(rows, kind="absent", wording="assumed"),
    }
    groups["**all without target (N-acc)**"] = [r for g in groups.values() for r in g]
    groups["mask-labelled category (T-acc)"] = [r for r in rows if _kind(r) == "text" and r.truth > 0]
    groups["box-labelled category"] = [r for r in rows if _kind(r) == "weak text" and r.truth > 0]
    groups["**all with target (T-acc)**"] = groups["mask-labelled category (T-acc)"] + groups["box-labelled category"]
    for name, group in groups.items():
        if group:
            right = [float((r.predicted == 0) == (r.truth == 0)) for r in group]
            low, high = bootstrap(right)
            table.append([name, str(len(group)), _percent(float(np.mean(right))), f"{_percent(low)}-{_percent(high)}"])
    return table


def selector_table(rows: Sequence[ScoredPrediction]) -> Table:
    """gIoU of words of size and place: decided by the flow over the whole scene, or left to the model."""
    table: Table = [["wording", "sentences", "decided by the flow", "left to the model"]]
    for wording in ("trained", "held back"):
        flow = _select(rows, kind="selector", wording=wording)
        model = _select(rows, kind="selector in the model", wording=wording)
        if flow:
            table.append([wording, str(len(flow)), _both(flow), _both(model)])
    return table


def pack_tables(rows: Sequence[ScoredPrediction]) -> list[tuple[str, Table]]:
    """(title, table) of the samples of a pack, scored at native resolution; tables without rows are left out.

    A sample of the pack is called ``<record>/<category>/<kind>-<number>``, and its level is "<kind>, <wording>".
    """
    tables = (
        ("By kind of prompt: gIoU (cIoU), per cent, native resolution", mask_table(rows) if categories(rows) else []),
        ("Words of size and place, gIoU (cIoU)", selector_table(rows)),
        ("Targets that are there, and that are not", absence_table(rows)),
    )
    return [(title, table) for title, table in tables if len(table) > 1]
