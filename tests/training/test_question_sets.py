"""Labelled questions without holding them: indexes, mixing by weight, what a set is called on the command line."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import layout_copies as copies
from terraprompt.datasets.index import Index, write_index
from terraprompt.datasets.registry import open_dataset
from terraprompt.datasets.sample import Sample
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.prompt import Task
from terraprompt.training.question_sets import Questions, QuestionSet, open_questions, parse_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copies.geoseg_bench(tmp_path / "copy", split="train")


def test_an_index_gives_what_the_folder_gives(folder: Path, tmp_path: Path) -> None:
    """The same questions, masks included; in memory are places, not samples."""
    held = Questions(open_dataset("geoseg-1m", folder, split="train").samples)
    streamed = open_questions([QuestionSet("geoseg-1m", folder)], tmp_path / "run")
    assert (tmp_path / "run" / "questions-0.parquet").is_file()
    assert isinstance(streamed.sets[0].samples, Index)
    assert len(held) == len(streamed) == 5
    assert held.natural == streamed.natural
    for task in Task:
        for k in range(6):
            one, other = (q.draw(task, np.random.default_rng(k)) for q in (held, streamed))
            assert (one.id, one.instructions) == (other.id, other.instructions)
            assert (one.load_mask() == other.load_mask()).all()
    sample = held.draw(Task.REFERRING, np.random.default_rng(0))
    assert [s.id for s in streamed.about(sample.image.resolve())] == [sample.id]
    again = pickle.loads(pickle.dumps(streamed))  # noqa: S301  # as worker processes get it
    assert (
        again.draw(Task.REASONING, np.random.default_rng(1)).id
        == held.draw(Task.REASONING, np.random.default_rng(1)).id
    )


def test_a_resumed_training_does_not_read_the_folder_again(folder: Path, tmp_path: Path) -> None:
    sets = [QuestionSet("geoseg-1m", folder)]
    open_questions(sets, tmp_path / "run")
    for manifest in folder.glob("*.json"):
        manifest.unlink()
    assert len(open_questions(sets, tmp_path / "run", reuse=True)) == 5
    with pytest.raises(DatasetError, match="manifest is missing"):
        open_questions(sets, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_questions_without_masks_are_not_drawn(folder: Path, tmp_path: Path) -> None:
    """Of an index that somebody else wrote; a text that looks like the field changes nothing."""
    samples = list(open_dataset("geoseg-1m", folder, split="train").samples)
    boxes = [replace(s, truth=None, id=f"{s.id}!", instructions=('say "truth": 1',)) for s in samples]
    write_index(tmp_path / "i.parquet", [*boxes, *samples], folder, name="geoseg-1m", split="train")
    found = open_questions([QuestionSet("geoseg-1m", tmp_path / "i.parquet")], tmp_path / "run")
    assert len(found) == len(samples)
    assert not (tmp_path / "run").exists(), "an index is taken where it is"
    drawn = {found.draw(task, np.random.default_rng(k)).id for task in Task for k in range(20)}
    assert drawn == {s.id for s in samples}
    write_index(tmp_path / "none.parquet", boxes, folder, name="geoseg-1m", split="train")
    with pytest.raises(DatasetError, match="no question has a mask"):
        open_questions([QuestionSet("geoseg-1m", tmp_path / "none.parquet")], tmp_path / "run")


def of(source: str, tasks: dict[Task, int], like: Sample) -> list[Sample]:
    return [
        replace(like, id=f"{source}-{task}-{k}", task=task, source=source)
        for task, n in tasks.items()
        for k in range(n)
    ]


def test_sets_mix_by_weight(folder: Path) -> None:
    """A question is of a set by its weight, and within the set all are alike; the tasks follow from that."""
    like = open_dataset("geoseg-1m", folder, split="train").samples[0]
    first = of("first", {Task.INTERACTIVE: 60, Task.REFERRING: 30, Task.REASONING: 10}, like)
    second = of("second", {Task.REFERRING: 4}, like)
    mixed = Questions(first, second, weights=(0.8, 0.2))
    assert mixed.natural == pytest.approx((0.48, 0.44, 0.08))
    rng = np.random.default_rng(0)
    sources: Counter[str] = Counter()
    for _ in range(4000):
        task = list(Task)[int(rng.choice(3, p=mixed.natural))]
        sources[mixed.draw(task, rng).source] += 1
    assert sources["second"] / 4000 == pytest.approx(0.2, abs=0.02)
    assert Questions(first, second, weights=(4, 1)).natural == pytest.approx(mixed.natural)
    plain = Questions(first, second)
    assert plain.natural == pytest.approx((60 / 104, 34 / 104, 10 / 104)), "without weights all questions are alike"
    assert len(mixed) == 104
    for weights in ((0.8, None), (1.0, 0.0), (1.0, -1.0)):
        with pytest.raises(ConfigError, match="mix by weights above 0"):
            Questions(first, second, weights=weights)


def test_how_a_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "a=b:2").mkdir()
    for text, wanted in (
        ("GeoSeg:0.8", QuestionSet("forge", Path("GeoSeg"), 0.8)),
        ("remotesam-270k=/data/R:0.2", QuestionSet("remotesam-270k", Path("/data/R"), 0.2)),
        ("/data/x.parquet", QuestionSet("forge", Path("/data/x.parquet"))),
        ("geoseg-1m=G", QuestionSet("geoseg-1m", Path("G"))),
        ("C:3", QuestionSet("forge", Path("C"), 3.0)),
        (str(tmp_path / "a=b:2"), QuestionSet("forge", tmp_path / "a=b:2")),
    ):
        assert parse_set(text, "forge") == wanted
