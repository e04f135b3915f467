"""The report as one HTML file: no script, no request, readable on a phone and in the dark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from terraprompt.evaluation.cases import Case, choose_cases, panels
from terraprompt.evaluation.charts import bar, histogram
from terraprompt.evaluation.report import (
    Report,
    faults,
    headline,
    interval,
    provenance,
    published_table,
    shown,
    size_name,
)
from terraprompt.evaluation.scores import Estimate, Group

__all__ = ["to_html"]

# Groups beyond these say little on a page; all are in summary.json.
_MOST_GROUPS = 120
_MOST_LISTED = 100

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#16202a;--faint:#5b6875;--rule:#d9e0e6;--ground:#eef2f5;--bar:#2f7fb5;
--mark:#b3261e;--warn:#fff4d6;--warn-ink:#5c4300}
@media(prefers-color-scheme:dark){:root{--paper:#12171c;--ink:#e8edf2;--faint:#9aa7b3;--rule:#2b343d;--ground:#1f272e;
--bar:#5aa9dc;--mark:#ff8a80;--warn:#3b3115;--warn-ink:#ffe3a3}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:1rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}
p,dd{margin:.2rem 0}.faint{color:var(--faint)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;overflow-wrap:normal}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--rule);vertical-align:middle}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.ours{font-weight:600}td.bars{min-width:7rem;width:40%}
.warning{background:var(--warn);color:var(--warn-ink);padding:.6rem .8rem;border-radius:.4rem;margin:.5rem 0}
.big{display:flex;flex-wrap:wrap;gap:.5rem 2rem;margin:1rem 0}.big b{display:block;font-size:1.8rem;line-height:1.1}
svg.bar{display:block;width:100%;height:.8rem}svg.chart{display:block;width:100%;max-width:40rem;height:auto}
svg text{fill:var(--faint);font-size:11px}.grid{stroke:var(--rule)}.axis{stroke:var(--faint)}
.column{fill:var(--bar)}.ground{fill:var(--ground)}.interval{fill:var(--ink)}
.case{border-top:1px solid var(--rule);padding:1rem 0}
.case .row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr));gap:.6rem}
figure{margin:0}figcaption{color:var(--faint);font-size:.85rem}
img{display:block;width:100%;height:auto;border-radius:.3rem}
pre{white-space:pre-wrap;background:var(--ground);padding:.6rem;border-radius:.3rem;font-size:.85rem}
dl{display:grid;grid-template-columns:minmax(7rem,auto) 1fr;gap:.1rem 1rem}dt{color:var(--faint)}
"""


def to_html(report: Report, *, pictures: bool = True) -> str:
    """The page.

    Args:
        report: what it says.
        pictures: show best, median and worst answers with their images; without them a report may leave the house where
            the images may not.

    Raises:
        DatasetError: an image or a truth that shall be shown is missing by now.
    """
    settings = report.settings
    title = f"{settings.engine} on {settings.dataset}, {settings.split}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">Protocol <b>{escape(report.protocol.name)}</b>: {escape(report.protocol.origin)}. '
        f"{len(report.judged):,} samples, {report.scores.overall.failed:,} failed.</p>",
        *(f'<p class="warning" role="note">{escape(warning)}</p>' for warning in report.warnings),
        _big(report),
        _overall(report),
        _published(report),
        _section("How good single answers are", _distribution(report)),
        *(_grouping(name, groups) for name, groups in report.scores.groups.items()),
        *(_section(title, _plain(table)) for title, table in report.extra),
        _section("Failures", _counted(report.scores.failures, "reason", "times")),
        _section("Left out", _left_out([*report.scope.unreadable, *report.skipped])),
        _section("Best, median and worst", _cases(report)) if pictures else "",
        _section("Made with", _facts(report)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _number(name: str, estimate: Estimate) -> str:
    """A cell that shows a rounded number and carries the exact one."""
    exact = "" if estimate.value is None else repr(estimate.value)
    return f'<td class="n" data-metric="{escape(name)}" data-value="{exact}">{shown(estimate)}</td>'


def _big(report: Report) -> str:
    metrics = report.scores.overall.metrics
    parts = []
    for name in ("gIoU", "cIoU"):
        span = interval(metrics[name])
        note = f'<span class="faint">95 %: {span}</span>' if span else ""
        parts.append(f"<div>{escape(name)}<b>{shown(metrics[name])}</b>{note}</div>")
    seconds = report.run["seconds_median"]
    parts.append(f'<div>seconds an answer<b>{seconds:.2f}</b><span class="faint">median</span></div>')
    return f'<div class="big">{"".join(parts)}</div>'


def _overall(report: Report) -> str:
    rows = [
        f"<tr><td>{escape(name)}</td>{_number(name, estimate)}"
        f'<td class="n faint">{interval(estimate)}</td><td class="n faint">{estimate.samples:,}</td>'
        f'<td class="bars">{_bar(estimate)}</td></tr>'
        for name, estimate in headline(report.scores.overall).items()
    ]
    head = ("metric", "n per cent", "n 95 % interval", "n samples", "")
    return _section("All samples", _table(head, rows))


def _bar(estimate: Estimate) -> str:
    return "" if estimate.value is None else bar(estimate.value, estimate.low, estimate.high)


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    """A table that scrolls by itself; "n " before a heading means numbers."""
    cells = "".join(
        f'<th class="n">{escape(h[2:])}</th>' if h.startswith("n ") else f"<th>{escape(h)}</th>" for h in head
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _published(report: Report) -> str:
    if not report.published:
        return ""
    head, *table = published_table(report)
    rows = []
    for row in table:
        cells = "".join(f'<td class="n">{escape(cell)}</td>' for cell in row[3:])
        names = "".join(f"<td>{escape(cell)}</td>" for cell in row[:3])
        rows.append(f'<tr class="{"ours" if row[0].endswith("(this run)") else "theirs"}">{names}{cells}</tr>')
    notes = "".join(f'<p class="faint">{escape(fault)}</p>' for fault in faults(report))
    differs = any(row.protocol != report.protocol.name for row in report.published)
    mark = '<p class="faint">≠: another protocol, not comparable with this run.</p>' if differs else ""
    shown_table = _table([*head[:3], *(f"n {name}" for name in head[3:])], rows)
    return _section("Beside published numbers", shown_table + mark + notes)


def _distribution(report: Report) -> str:
    label = "Histogram of the IoU of samples with a target"
    return f'<p class="faint">{label}</p>{histogram(report.histogram, label=escape(label))}'


def _grouping(grouping: str, groups: Mapping[str, Group]) -> str:
    rows = []
    for value, group in list(groups.items())[:_MOST_GROUPS]:
        giou = group.metrics["gIoU"]
        rows.append(
            f"<tr><td>{escape(size_name(grouping, value))}</td>{_number('gIoU', giou)}"
            f'<td class="n faint">{interval(giou)}</td><td class="n">{shown(group.metrics["cIoU"])}</td>'
            f'<td class="n faint">{group.samples:,}</td><td class="n faint">{group.failed or ""}</td>'
            f'<td class="bars">{_bar(giou)}</td></tr>'
        )
    head = (grouping, "n gIoU", "n 95 % interval", "n cIoU", "n samples", "n failed", "")
    more = len(groups) - _MOST_GROUPS
    note = f'<p class="faint">{more:,} more are in summary.json.</p>' if more > 0 else ""
    return _section(f"By {grouping}", _table(head, rows) + note)


def _plain(table: Sequence[Sequence[str]]) -> str:
    rows = ["".join(f"<td>{escape(cell.strip('*'))}</td>" for cell in row) for row in table[1:]]
    return _table(table[0], [f"<tr>{row}</tr>" for row in rows])


def _counted(counts: Mapping[str, int], what: str, times: str) -> str:
    if not counts:
        return ""
    rows = [
        f'<tr><td>{escape(name)}</td><td class="n">{n:,}</td></tr>' for name, n in list(counts.items())[:_MOST_LISTED]
    ]
    return _table((what, f"n {times}"), rows) + _rest(len(counts))


def _left_out(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    rows = [f"<tr><td>{escape(what)}</td><td>{escape(why)}</td></tr>" for what, why in pairs[:_MOST_LISTED]]
    return _table(("what", "reason"), rows) + _rest(len(pairs))


def _rest(count: int) -> str:
    return f'<p class="faint">{count - _MOST_LISTED:,} more are in summary.json.</p>' if count > _MOST_LISTED else ""


def _cases(report: Report) -> str:
    return "".join(_case(case) for case in choose_cases(report.judged))


def _case(case: Case) -> str:
    one, sample = case.judged, case.judged.asked.sample
    pictures = panels(one)
    figures = "".join(
        f'<figure><img src="{uri}" alt="{escape(name)}" loading="lazy"><figcaption>{escape(name)}</figcaption></figure>'
        for name, uri in pictures.items()
    )
    facts = {
        "instruction": one.asked.text or "(points or boxes, drawn in the image)",
        "task": sample.task.value,
        "category": sample.category or "",
        "level": sample.level or "",
        "answer": ", ".join(sample.answer),
        "failed": one.prediction.reason or "" if one.prediction.mask is None else "",
    }
    notes = [_note(answer) for answer in one.prediction.notes.get("answers", ())]
    said = "".join(f"<pre>{escape(note)}</pre>" for note in notes if note)
    return (
        f'<div class="case"><p><b>{escape(case.kind)}</b>: IoU {100 * one.score.iou:.2f} '
        f'<span class="faint">{escape(one.score.sample_id)}</span></p>'
        f'<div class="row">{figures}</div>{_pairs(facts)}{said}</div>'
    )


def _note(answer: Mapping[str, Any]) -> str:
    """What the system said on its way, one line a note; long lists of numbers are for predictions.parquet."""
    lines = []
    for key, value in answer.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{key}: {text if len(text) <= 2000 else text[:2000] + '…'}")
    return "\n".join(lines)


def _pairs(facts: Mapping[str, str]) -> str:
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    return f"<dl>{cells}</dl>"


def _facts(report: Report) -> str:
    return _pairs(provenance(report))
