"""A run over the pack and the pack as a data set ask the same, because one piece of code writes the questions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pack_questions import ask_record

import layout_copies as copies
from flow_engines import BoxFilterEngine
from terraprompt.datasets import find_pack, open_dataset, read_pack
from terraprompt.datasets.questions import Plan, questions
from terraprompt.prompt import Task

PLAN = Plan(texts=1, objects=2)
#: Rows that a run adds to the questions: a baseline, and a second way to answer.
ADDED = ("filled box", "selector in the model")


def test_rows_and_samples_are_about_the_same_questions(tmp_path: Path) -> None:
    root = copies.pack(tmp_path)
    silent = BoxFilterEngine(64, 16, spoil=lambda logits: np.full_like(logits, -9))
    rows = [row for record in read_pack(root, "val") for row in ask_record(silent, record, PLAN)]
    asked = [
        (r.sample_id.rsplit("/", 2)[0], r.category, kind, r.task, r.item.text, r.truth)
        for r in rows
        if (kind := r.level.partition(", ")[0]) not in ADDED
    ]
    samples = open_dataset("pack", root, split="val", plan=PLAN).samples
    told = [
        (
            s.id.rsplit("/", 2)[0],
            s.category,
            (s.level or "").partition(",")[0],
            s.task.value,
            s.instructions[0] if s.instructions else "",
            int(s.load_mask().sum()) if s.truth else round((s.box[2] - round(s.box[0])) * (s.box[3] - s.box[1])),
        )
        for s in samples
        if s.truth or s.box
    ]
    assert told == asked
    assert {kind for _, _, kind, *_ in told} == {"text", "box", "point", "selector", "absent", "weak text"}


@pytest.mark.data
def test_the_real_pack_as_a_data_set() -> None:
    root = find_pack()
    if root is None:
        pytest.skip("no imagery pack: set TERRAPROMPT_DATA or put it at ../shared/data")
    records = [r for r in read_pack(root, "val") if r.source in ("gsi_solar", "estonia_ortho")]
    wanted = Counter(q.kind for r in records for q in questions(r, Plan()) if q.marked is None or len(q.marked) == 1)
    samples = [s for s in open_dataset("pack", root, split="val").samples if s.source in ("gsi_solar", "estonia_ortho")]
    assert Counter((s.level or "").partition(",")[0] for s in samples) == wanted
    assert len({s.id for s in samples}) == len(samples)
    for sample in samples:
        assert (sample.truth is None) == (sample.box is not None)
        if sample.task is Task.INTERACTIVE:
            assert sample.load_mask().any()
