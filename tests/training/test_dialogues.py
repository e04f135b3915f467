"""Samples of the causal members: tasks follow the schedule, processes share one stream, answers are learned."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from causal_job import samples, source, writer
from fixed_source import FixedSource
from labeled_images import parking, street, town

from terraprompt.errors import ConfigError, DatasetError
from terraprompt.prompt import Task
from terraprompt.training.crops import Crop, CropRecipe, TrainingExample, single_crop
from terraprompt.training.dialogues import CropSource, TaskStream, collate
from terraprompt.training.loop import step_batches
from terraprompt.training.schedule import TaskSchedule


def blank(task: Task, text: str = "the pond", answer: str = "the marked area") -> Crop:
    square, rows = np.zeros((64, 64), np.uint8), np.zeros((3, 4), np.float32)
    return single_crop(np.zeros((64, 64, 3), np.uint8), TrainingExample(text, task, square, rows, 0, answer=answer))


ONE_EACH = FixedSource([blank(task) for task in Task])


@pytest.mark.parametrize("curve", ["linear", "cosine"])
def test_proportions_follow_the_progressive_schedule(curve: str) -> None:
    """In each of three epochs: interactive falls to 0.7 of its share, reasoning takes what is freed."""
    schedule = TaskSchedule((0.5, 0.3, 0.2), curve=curve)  # type: ignore[arg-type]
    total = 6_000
    stream = TaskStream(ONE_EACH, schedule, 0, total)
    for epoch in range(3):
        part = range(epoch * total // 3, (epoch + 1) * total // 3)
        count = Counter(stream[i][1].items[0].task for i in part)
        wanted = np.mean([schedule.shares(i / total) for i in part], 0)
        found = [count[task] / len(part) for task in Task]
        np.testing.assert_allclose(found, wanted, atol=3 * (0.25 / len(part)) ** 0.5)
    assert schedule.multipliers(0.0) == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(schedule.multipliers(1.0), (0.7, 1.0, 1.3))


def test_crops_are_of_the_task_that_was_drawn() -> None:
    """Also where many images cannot be asked for it: shares must not drift."""
    for task in Task:
        for seed in range(20):
            crop = source().draw(task, np.random.default_rng(seed))
            (drawn,) = crop.items
            assert drawn.task is task
            assert crop.image.shape == (64, 64, 3)
            assert bool(drawn.coordinates.any()) == (task is Task.INTERACTIVE)
            assert drawn.target.any() or drawn.answer == "nothing in this image" or task is not Task.INTERACTIVE


def test_spoken_coordinates_are_the_rows() -> None:
    spoken = [source().draw(Task.INTERACTIVE, np.random.default_rng(seed)).items[0] for seed in range(20)]
    for sample in spoken:
        first = sample.coordinates[0]
        said = [float(number) for number in re.findall(r"(?<=\[)[\d.]+", sample.text)]
        assert said[0] == round(float(np.clip(first[0], 0, 1)), 3), (sample.text, first)


def test_what_cannot_be_drawn_is_said() -> None:
    shares = {"town": 1.0, "parking": 1.0, "street": 1.0}
    with pytest.raises(DatasetError, match=r"nothing to train on.*1 images, none with masks"):
        CropSource([parking()], shares, CropRecipe(size=64))
    roads = CropSource([street()], shares, CropRecipe(size=64))
    with pytest.raises(DatasetError, match=r"nothing that this task can ask for.*interactive"):
        roads.draw(Task.INTERACTIVE, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="without samples"):
        FixedSource([blank(Task.REFERRING)]).draw(Task.REASONING, np.random.default_rng(0))
    assert FixedSource([blank(Task.REFERRING)] * 3).natural == (0.0, 3.0, 0.0)
    assert CropSource([town(), parking()], shares, CropRecipe(size=64)).pools[Task.REFERRING][0].id == "town/1"


def test_processes_share_one_stream(tmp_path: Path) -> None:
    """Two processes see what one sees, pass by pass; a later start continues."""
    made = partial(collate, writer(tmp_path))
    alone = list(step_batches(samples(), made, batch=4, micro_batch_size=1))
    parts = [list(step_batches(samples(), made, batch=4, micro_batch_size=1, rank=r, ranks=2)) for r in range(2)]
    assert [len(passes) for passes in alone] == [4] * 4
    for step, whole in enumerate(alone):
        both = [parts[k % 2][step][k // 2] for k in range(4)]
        for a, b in zip(whole, both, strict=True):
            assert int(a.index[0]) == int(b.index[0])
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.dialogue.tokens, b.dialogue.tokens)
            assert torch.equal(a.target, b.target)
    later = list(step_batches(samples(), made, batch=4, micro_batch_size=1, start=3))
    assert len(later) == 1
    assert torch.equal(later[0][2].images, alone[3][2].images)


def test_the_answer_is_learned_and_the_instruction_is_not(tmp_path: Path) -> None:
    words = writer(tmp_path)
    long = blank(Task.REASONING, "where could a helicopter land?", "the flat roof")
    batch = collate(words, [(7, blank(Task.REFERRING)), (9, long)])
    dialogue = batch.dialogue
    assert dialogue.labels is not None
    assert batch.index.tolist() == [7, 9]
    assert batch.known is None
    learned = dialogue.labels[1] != -100
    assert torch.equal(dialogue.tokens[1][learned], dialogue.labels[1][learned])
    text = words.tokenizer.decode(dialogue.tokens[1][learned].tolist(), skip_special_tokens=False)
    assert text == " Sure, It is . \nthe flat roof[SEG]. <|endoftext|>"
    whole = words.tokenizer.decode(dialogue.tokens[1].tolist(), skip_special_tokens=False)
    assert whole.startswith(" where could a helicopter land?[SEG] [/INST] Sure")
    asked = dialogue.tokens[1][dialogue.refer[1]].tolist()
    assert asked == words.instruction("where could a helicopter land?")
    assert not (dialogue.refer & (dialogue.labels != -100)).any()
    assert batch.words == int((dialogue.labels != -100).sum())
