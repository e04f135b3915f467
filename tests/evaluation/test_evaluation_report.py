"""What a report says, and that its page is whole, safe and needs nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluation_grounds import HOSTILE, BrightLoader, make_dataset
from PIL import Image

from terraprompt.datasets.layouts import Problem
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.evaluation.cases import choose_cases, evidence, panels
from terraprompt.evaluation.charts import BINS, bar, bin_counts, histogram
from terraprompt.evaluation.harness import EvalOptions, evaluate, write_report
from terraprompt.evaluation.protocols import protocol
from terraprompt.evaluation.report_pages import to_html, to_markdown
from terraprompt.evaluation.runner import Run
from terraprompt.evaluation.scores import compare
from terraprompt.evaluation.scoring import read_scores, write_scores

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: dict[str, str] = {}
        self._cell: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._cell = dict(attrs).get("data-metric") if tag == "td" else None
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._cell = None

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data
        if self._cell is not None:
            self.cells.setdefault(self._cell, data)


def make_report(folder, dataset, *, rules="native", options=None, loader=None):
    run = Run(folder, keep_going=True)
    return evaluate(
        dataset, loader or BrightLoader(), protocol(rules), run, options or EvalOptions(), lambda _: nullcontext()
    )


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data")


def hostile(dataset):
    """Every text that comes from outside tries to be markup."""
    samples = [
        replace(s, instructions=(f"{t} {HOSTILE}",) if (t := "".join(s.instructions)) else (), category=HOSTILE,
                level=HOSTILE, source=HOSTILE, answer=(HOSTILE,))
        for s in dataset.samples
    ]  # fmt: skip
    samples[0] = replace(samples[0], instructions=(f"break {HOSTILE}",), id=HOSTILE)
    problems = (Problem(HOSTILE, HOSTILE),)
    return replace(dataset, name=HOSTILE, samples=tuple(samples), problems=problems)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path, dataset):
    page = Page(to_html(make_report(tmp_path / "out", dataset)))
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "form"} & set(names)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            if name in attributes:
                assert tag == "img"
                assert attributes[name].startswith("data:image/webp;base64,")
    viewport = [a["content"] for t, a in page.tags if t == "meta" and a.get("name") == "viewport"]
    assert viewport == ["width=device-width, initial-scale=1"]
    text = to_html(make_report(tmp_path / "out2", dataset))
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"url\(|@import|https?:", text)


def test_numbers_on_the_page_are_those_of_the_json(tmp_path, dataset):
    report = make_report(tmp_path / "out", dataset, rules="think2seg")
    write_report(report, tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text())
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    metrics = {k: v for k, v in summary["scores"]["overall"]["metrics"].items() if k != "seconds"}
    assert set(page.cells) >= set(metrics)
    assert {"gIoU", "cIoU", "Pr@0.5", "N-acc", "T-acc"} <= set(metrics)
    exact = {a["data-metric"]: a["data-value"] for t, a in reversed(page.tags) if t == "td" and "data-metric" in a}
    for name, estimate in metrics.items():
        assert float(exact[name]) == estimate["value"]
        assert page.cells[name] == f"{100 * estimate['value']:.2f}"
        assert f"| {name} | {100 * estimate['value']:.2f} |" in (tmp_path / "out/report.md").read_text()
    assert summary["iou_histogram"] == bin_counts([j.iou for j in report.scored if j.truth])
    assert sum(summary["iou_histogram"]) == 12
    assert (summary["dataset"], summary["split"], summary["protocol"]["name"]) == ("made", "test", "think2seg")
    assert summary["answers"]["engine"] == "bright"
    assert read_scores(tmp_path / "out") == list(report.scored)


def test_no_text_becomes_markup(tmp_path, dataset):
    report = make_report(tmp_path / "out", hostile(dataset), options=EvalOptions(command=f"terraprompt {HOSTILE}"))
    text = to_html(report)
    page = Page(text)
    assert "<script" not in text
    assert 'alert("x")' not in text.replace("&quot;", "'")
    # said on the page as text: title, group names, failure, left out, cases, command
    assert page.text.count(HOSTILE) >= 6
    assert not [tag for tag, _ in page.tags if tag == "script"]
    markdown = to_markdown(report)
    assert "<script" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("| ")]
    pipes = {re.sub(r"\\\|", "", line).count("|") for line in tables}
    assert pipes <= {3, 4, 5, 7}


def test_without_pictures_none_is_carried(tmp_path, dataset):
    report = make_report(tmp_path / "out", dataset)
    text = to_html(report, pictures=False)
    assert "<img" not in text
    assert "base64" not in text
    assert "0/text-0" not in text
    assert Page(text).cells["gIoU"] == Page(to_html(report)).cells["gIoU"]


def test_a_reader_is_warned(tmp_path, dataset):
    named = replace(dataset, name="earthreason", problems=(Problem("a.json", "is not JSON"),))
    report = make_report(tmp_path / "out", named, options=EvalOptions(limit=3))
    warned = " ".join(report.warnings)
    assert "3 of 16 samples" in warned
    assert "think2seg" in warned
    assert "not comparable" in warned
    assert "1 broken samples were left out" in warned
    page = Page(to_html(report))
    assert all(warning in page.text for warning in report.warnings)
    assert "UniGeoSeg" in page.text
    assert "73.12" in page.text
    assert "unigeoseg ≠" in page.text
    assert "bright (this run)" in page.text
    assert "teacher forcing" in page.text


def test_rows_under_the_protocol_of_the_run_are_not_marked(tmp_path, dataset):
    report = make_report(tmp_path / "out", replace(dataset, name="earthreason"), rules="unigeoseg")
    page = Page(to_html(report))
    assert "unigeoseg ≠" not in page.text
    assert "think2seg ≠" in page.text


def test_cases_are_the_best_median_and_worst(tmp_path):
    dataset = make_dataset(tmp_path / "data", 9, texts=("the roofs", "nothing of it", "break"))
    report = make_report(tmp_path / "out", dataset)
    cases = choose_cases(report.scored, each=3)
    assert [kind for kind, _ in cases] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert len({one.item.sample.image for _, one in cases}) == 9
    assert {one.iou for kind, one in cases if kind == "best"} == {1.0}
    assert {one.iou for kind, one in cases if kind == "worst"} == {0.0}
    assert all(one.truth for kind, one in cases if kind != "worst")
    ids = [one.sample_id for _, one in cases]
    assert [one.sample_id for _, one in choose_cases(report.scored[::-1], each=3)] == ids
    few = choose_cases(report.scored, each=7)
    assert [sum(found == kind for found, _ in few) for kind in ("best", "median", "worst")] == [3, 3, 3]


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"), np.int16)


def test_pictures_show_truth_prediction_and_marks(tmp_path):
    dataset = make_dataset(tmp_path / "data", 1, texts=("the roofs", "break"))
    scored = {one.sample_id: one for one in make_report(tmp_path / "out", dataset).scored}
    text, box, failed = (panels(scored[f"0/{name}"], side=192) for name in ("text-0", "box", "text-1"))
    assert list(text) == list(box) == ["image", "truth", "prediction"]
    assert list(failed) == ["image", "truth"]
    picture, truth = decoded(text["image"]), decoded(text["truth"])
    assert picture.shape == (128, 192, 3)
    inside, outside = (slice(22, 44), slice(24, 50)), (slice(60, 74), slice(20, 100))
    assert (truth[inside][..., 1] - truth[inside][..., 0]).mean() > 25  # green over white
    assert abs(truth[outside] - picture[outside]).mean() < 8
    assert abs(decoded(box["image"]) - picture).max() > 60  # the box of the prompt is drawn
    answered = decoded(text["prediction"])
    assert np.median(answered[inside][..., 0] - answered[inside][..., 1]) > 25  # red over white, marks aside
    edge = answered[38:42, 14:34]  # of the box in the notes, (4, 4) to (20, 20) of a picture twice as large
    assert (edge[..., 2] - edge[..., 0]).max() > 60


def test_evidence_of_any_form_is_taken_or_left():
    notes = {"answers": [
        {"boxes": [[1, 2, 3, 4], [1, 2, 1, 4]], "points": [[5, 6]]},
        {"boxes": [[1.0, 2, 3, 4, 0.9]], "points": [[5, 6, 0], [7, 8, 1]]},
        {"boxes": "left, top", "points": [["a", "b"], 3, None]},
        {"reasoning": "only words"},
    ]}  # fmt: skip
    found = evidence(notes)
    assert [(p.boxes, p.points, p.labels) for p in found] == [
        (((1.0, 2.0, 3.0, 4.0),), ((5.0, 6.0),), (1,)),
        (((1.0, 2.0, 3.0, 4.0),), ((5.0, 6.0), (7.0, 8.0)), (0, 1)),
    ]
    assert evidence({}) == []


def test_charts_are_well_formed():
    assert bin_counts([0, 0.049, 0.05, 0.999, 1.0]) == [2, 1, *[0] * (BINS - 3), 2]
    page = Page(histogram([0, 3, 1], label="a &amp; b") + bar(0.5, 0.25, 0.75) + bar(1.2, None, None))
    heights = [float(a["height"]) for t, a in page.tags if t == "rect" and a.get("class") == "column"]
    assert heights[0] == 0
    assert heights[1] == pytest.approx(3 * heights[2], rel=1e-2)
    interval = next(a for t, a in page.tags if a.get("class") == "interval")
    assert (interval["x"], interval["width"]) == ("25.0", "50.00")


def test_scores_on_disk_come_back_or_are_refused(tmp_path, dataset):
    report = make_report(tmp_path / "out", dataset, rules="geoseg810")
    scores = list(report.scored)
    strange = replace(scores[0], sample_id="line\u2028break", reason="new\nline")
    write_scores(tmp_path / "scores.jsonl", [strange, *scores[1:]])
    assert read_scores(tmp_path / "scores.jsonl") == [strange, *scores[1:]]
    with pytest.raises(DatasetError, match="There are no scores"):
        read_scores(tmp_path / "nowhere")
    (tmp_path / "scores.jsonl").write_text('{"iou": 1}\n')
    with pytest.raises(DatasetError, match="cannot be read"):
        read_scores(tmp_path / "scores.jsonl")
    (tmp_path / "scores.jsonl").write_text("")
    with pytest.raises(ConfigError, match="nothing to compare"):
        read_scores(tmp_path / "scores.jsonl")


def test_two_runs_are_compared_in_pairs(tmp_path, dataset):
    good = make_report(tmp_path / "a", dataset)
    less = make_report(tmp_path / "b", dataset, loader=BrightLoader(slack=12))
    for report, name in ((good, "a"), (less, "b")):
        write_report(report, tmp_path / name, pictures=False)
    done = compare(read_scores(tmp_path / "a"), read_scores(tmp_path / "b"))
    change = done.metrics["gIoU"]
    assert change.a == good.scores.overall.metrics["gIoU"].value
    assert change.b == less.scores.overall.metrics["gIoU"].value
    assert change.low <= change.difference <= change.high < 0
    assert done.worse == 12 - sum(one.iou == good.scored[i].iou for i, one in enumerate(less.scored) if one.truth)
