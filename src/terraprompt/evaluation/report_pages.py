"""A report as HTML (no script, no request) and as Markdown, from the templates in ``templates/``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from terraprompt.evaluation import charts
from terraprompt.evaluation.cases import choose_cases, panels
from terraprompt.evaluation.report import (
    Report,
    faults,
    headline,
    headline_table,
    interval,
    provenance,
    published_table,
    shown,
    size_name,
)
from terraprompt.evaluation.scored_prediction import ScoredPrediction
from terraprompt.evaluation.tables import markdown

__all__ = ["to_html", "to_markdown"]

#: Longer notes are cut on the page; they are whole in predictions.parquet.
_MAX_NOTE = 2000


def to_html(report: Report, *, pictures: bool = True) -> str:
    """Render the page.

    Args:
        report: what it says.
        pictures: show best, median and worst answers with their images; off where the images may not be passed on.

    Raises:
        DatasetError: an image or a truth that shall be shown is missing by now.
    """
    return _render("report.html", report, cases=list(_cases(report)) if pictures else [])


def to_markdown(report: Report) -> str:
    """Render numbers, groups, published results, failures and provenance."""
    return _render("report.md", report)


def _render(template: str, report: Report, **values: Any) -> str:
    return (
        _environment()
        .get_template(template)
        .render(
            report=report,
            title=f"{report.settings.engine} on {report.settings.dataset}, {report.settings.split}",
            published=published_table(report) if report.published else None,
            other_protocols=any(row.protocol != report.protocol.name for row in report.published),
            faults=faults(report),
            left_out=[*report.scope.unreadable, *report.skipped],
            provenance=provenance(report),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("terraprompt.evaluation"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=_cell, exact=repr)
    environment.globals.update(
        bar=lambda *values: Markup(charts.bar(*values)),
        histogram=lambda counts, label: Markup(charts.histogram(counts, label=label)),
        headline=headline,
        headline_table=headline_table,
        interval=interval,
        markdown=markdown,
        shown=shown,
        size_name=size_name,
    )
    return environment


def _cases(report: Report) -> Iterator[tuple[str, ScoredPrediction, dict[str, str], dict[str, str], list[str]]]:
    for kind, one in choose_cases(report.scored):
        assert one.item is not None
        assert one.prediction is not None
        sample = one.item.sample
        facts = {
            "instruction": one.item.text or "(points or boxes, drawn in the image)",
            "task": sample.task.value,
            "category": sample.category or "",
            "level": sample.level or "",
            "answer": ", ".join(sample.answer),
            "failed": one.prediction.reason or "" if one.prediction.mask is None else "",
        }
        notes = [_note(answer) for answer in one.prediction.notes.get("answers", ())]
        yield kind, one, panels(one), facts, [note for note in notes if note]


def _note(answer: Mapping[str, Any]) -> str:
    """What the system noted beside its mask, one line a note."""
    lines = []
    for key, value in answer.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{key}: {text if len(text) <= _MAX_NOTE else text[:_MAX_NOTE] + '…'}")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that neither breaks a Markdown table nor becomes markup."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
