"""Every question about a labelled image, through the whole flow, with engines whose answers are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pack_questions import ask_record, score_row, weak_table
from PIL import Image

from flow_engines import BoxFilterEngine, PointedEngine
from terraprompt.datasets import questions
from terraprompt.datasets.pack import Record, Region
from terraprompt.datasets.questions import Plan
from terraprompt.engines.base import Answer
from terraprompt.evaluation.metrics import Overlap, summarise
from terraprompt.evaluation.tables import headline, mask_table

#: (top, left, bottom, right); of clearly different sizes, so that words of size and place have one meaning
ROOFS = [(10, 12, 30, 30), (60, 70, 110, 140), (20, 100, 35, 112)]
PLAN = Plan(texts=1, objects=3, selections=2, absences=2)


def make_record(folder: Path, kind: str = "mask") -> Record:
    """A picture with bright roofs, labelled with masks, boxes or centre lines."""
    truth = np.zeros((120, 160), np.uint8)
    for top, left, bottom, right in ROOFS:
        truth[top:bottom, left:right] = 1
    image, mask = folder / "a.png", folder / "mask.png"
    Image.fromarray(np.where(truth[..., None] == 1, (250, 245, 240), (10, 12, 14)).astype(np.uint8)).save(image)
    Image.fromarray(truth * 3).save(mask)
    if kind == "box":
        regions = tuple(Region("building", None, 0, (float(x0), y0, x1, y1)) for y0, x0, y1, x1 in ROOFS)
    else:
        regions = (Region("building", mask, 3, None),)
    return Record(
        "vegas_road/a", "vegas_road", "val", image, 160, 120, 0.3, kind, ("building", "lake"), regions, "", "g", False
    )


class Oracle(PointedEngine):
    """All bright pixels for a text, the bright region pointed at for points and boxes; silent if told so."""

    name = "oracle"

    def __init__(self) -> None:
        super().__init__(160, 32)
        self.absent: set[str] = set()

    def predict(self, embeddings, prompts):
        pointed = super().predict(embeddings, prompts)
        return [
            found
            if prompt.is_spatial
            else Answer(np.full(e.size, -9, np.float32) if prompt.text in self.absent else self.logits(e.data))
            for found, e, prompt in zip(pointed, embeddings, prompts, strict=True)
        ]


@pytest.fixture
def oracle(monkeypatch):
    """Knows what it is asked for, because it hears the category with the sentence."""
    engine, write = Oracle(), questions.category_instruction

    def overheard(name, rng, **options):
        text = write(name, rng, **options)
        if name != "building":
            engine.absent.add(" ".join(text.split()))
        return text

    monkeypatch.setattr(questions, "category_instruction", overheard)
    return engine


@pytest.fixture
def silent():
    return BoxFilterEngine(160, 32, spoil=lambda logits: np.full_like(logits, -9))


def seen(rows):
    """Rows with their facts by name."""
    out = []
    for row in rows:
        kind, _, wording = row.level.partition(", ")
        facts = {"kind": kind, "wording": wording, "text": row.item.text, "category": row.category, "task": row.task}
        extra = {"touched": row.extra.get("touched"), "inside": row.extra.get("inside")}
        record = row.sample_id.rsplit("/", 2)[0]
        out.append(SimpleNamespace(**facts, **extra, record=record, overlap=row.overlap, row=row))
    return out


def ask(*arguments):
    return seen(ask_record(*arguments))


def of_kind(rows, kind):
    return [row for row in rows if row.kind == kind]


def test_an_oracle_gives_a_hundred(tmp_path, oracle):
    rows = ask(oracle, make_record(tmp_path), PLAN)
    assert Counter(row.kind for row in rows) == {
        "text": 8, "box": 3, "filled box": 3, "point": 3, "selector": 4, "selector in the model": 4, "absent": 3,
    }  # fmt: skip
    for kind in ("text", "filled box", "selector", "absent"):
        assert [row.overlap.iou for row in of_kind(rows, kind)] == [1.0] * len(of_kind(rows, kind)), kind
    # seen enlarged, outlines move by a part of a pixel
    assert all(row.overlap.iou > 0.85 for row in of_kind(rows, "box") + of_kind(rows, "point"))
    numbers = headline([r.row for r in rows])
    texts = ("referring", "referring, held back", "reasoning", "reasoning, held back")
    assert [numbers[name] for name in texts] == [1.0] * 4
    assert (numbers["N-acc"], numbers["T-acc"]) == (1.0, 1.0)
    assert mask_table([r.row for r in rows])[1][:3] == ["building", "1", "100.0 (100.0)"]


def test_what_is_asked(tmp_path, oracle):
    rows = ask(oracle, make_record(tmp_path), PLAN)
    texts = of_kind(rows, "text")
    assert Counter((r.category, r.task, r.wording) for r in texts) == {
        (category, task, wording): 1
        for category in ("building", "lake")
        for task in ("referring", "reasoning")
        for wording in ("trained", "held back")
    }
    assert {r.overlap.truth for r in texts if r.category == "lake"} == {0}
    absent = of_kind(rows, "absent")
    assert [r.category for r in absent if r.wording == "verified"] == ["lake"]
    assert {r.category for r in absent if r.wording == "assumed"} < {"airplane", "boat", "forest", "landslide"}
    assert len(absent) == 3
    sizes = sorted((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in ROOFS)
    for kind in ("box", "point", "filled box"):
        assert sorted(r.overlap.truth for r in of_kind(rows, kind)) == sizes
    # the model alone hears the whole sentence, the flow asks for the bare phrase
    model = of_kind(rows, "selector in the model")
    assert {r.text for r in model} <= {prompt.text for prompt in oracle.asked}
    assert {r.text for r in of_kind(rows, "selector")} == {r.text for r in model}
    assert {r.record for r in rows} == {"vegas_road/a"}


def test_a_silent_engine_gives_nothing_but_right_silence(tmp_path, silent):
    rows = ask(silent, make_record(tmp_path), PLAN)
    for kind in ("box", "point", "selector", "selector in the model"):
        assert {row.overlap.iou for row in of_kind(rows, kind)} == {0.0}
    target = [row.overlap for row in of_kind(rows, "text") if row.overlap.truth]
    assert summarise(target).giou == summarise(target).ciou == 0
    numbers = headline([r.row for r in rows])
    assert (numbers["N-acc"], numbers["T-acc"], numbers["referring"]) == (1.0, 0.0, 0.0)


def test_the_seed_fixes_the_questions(tmp_path, silent):
    record = make_record(tmp_path)
    first = ask(silent, record, PLAN)
    assert ask(silent, record, PLAN) == first
    other = ask(silent, record, Plan(texts=1, objects=3, selections=2, absences=2, seed=1))
    assert [row.text for row in other] != [row.text for row in first]


def test_boxes_judge_by_touch(tmp_path, oracle, silent):
    record = make_record(tmp_path, "box")
    rows = of_kind(ask(oracle, record, PLAN), "weak text")
    assert [(r.category, r.touched, r.inside, r.overlap.iou) for r in rows] == [("building", 1.0, 1.0, 1.0)] * 4
    rows = ask(silent, record, PLAN)
    assert [(r.touched, r.inside) for r in of_kind(rows, "weak text")] == [(0.0, None)] * 4
    assert {row.kind for row in rows} == {"weak text", "absent"}


def test_a_box_that_reaches_outside(tmp_path, oracle):
    record = make_record(tmp_path, "box")
    outside = Region("building", None, 0, (-9.0, -5.0, 40.0, 35.0))
    object.__setattr__(record, "regions", (outside,))
    rows = of_kind(ask(oracle, record, PLAN), "weak text")
    assert {row.overlap.truth for row in rows} == {40 * 35}
    assert {row.touched for row in rows} == {1.0}


def test_centre_lines_are_not_scored(tmp_path, silent):
    rows = ask(silent, make_record(tmp_path, "centreline"), PLAN)
    assert {row.kind for row in rows} == {"absent"}


def test_small_and_many_objects_are_left_out(tmp_path, silent):
    record = make_record(tmp_path)
    rows = ask(silent, record, Plan(texts=0, objects=1, selections=0, absences=0))
    assert Counter(row.kind for row in rows) == {"box": 1, "filled box": 1, "point": 1}
    rows = ask(silent, record, Plan(texts=0, selections=0, absences=0, least=13))
    assert sorted(row.overlap.truth for row in of_kind(rows, "box")) == [20 * 18, 50 * 70]


def test_boxes_as_the_only_truth(tmp_path):
    record = make_record(tmp_path, "box")
    answers = [("car", (5, 10, 5), {"touched": 0.5, "inside": 1.0}), ("car", (0, 0, 10), {"touched": 0.0}),
               ("bus", (0, 0, 10), {"touched": 0.0})]  # fmt: skip
    rows = [
        replace(score_row(replace(record, id=f"a/{i}"), 0, "weak text", Overlap(*counts), category=name), extra=extra)
        for i, (name, counts, extra) in enumerate(answers)
    ]
    assert weak_table(rows)[1:] == [["bus", "1", "0.0", "-"], ["car", "2", "25.0", "100.0"]]
    assert len(mask_table(rows)) == 2  # header and means: no category has masks
