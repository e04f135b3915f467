"""Learning from labelled questions: what ``dataset forge`` wrote, or any data set that has a reader and masks.

A question brings its own words, and they may name a side of the image or say "the only one". So the whole image is
shown, upright, and only its light changes. Points and boxes bear turning and zooming.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.sample import Sample
from terraprompt.engines.dialogue import coordinate_rows
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.geometry.frame import Frame
from terraprompt.language.interactive import interactive_instruction
from terraprompt.models.preprocess import letterboxed
from terraprompt.prompt import Task
from terraprompt.raster.pictures import picture_size
from terraprompt.training.augment import CropMap, change_light
from terraprompt.training.crops import (
    Crop,
    CropRecipe,
    TrainingExample,
    no_points,
    no_rows,
    object_crop,
    presence_of,
    single_crop,
)
from terraprompt.training.dialogues import CropProvider
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.loader import Crops
from terraprompt.training.question_sets import Questions
from terraprompt.training.schedule import TaskSchedule

__all__ = ["MixedSource", "QuestionCrops", "QuestionSource", "question_words"]

#: Targets tried until one suits a crop round an object.
_TRIES = 64


class QuestionCrops(Crops):
    """Crop ``i`` of a training of ``total`` crops, for members that read with a sentence encoder (``nano``).

    A text crop shows a whole image with up to ``recipe.items`` of its questions. An interactive one is cut round the
    target of a question; its points and box are drawn anew each time.

    Args:
        questions: what there is.
        schedule: task shares over progress.
        recipe: how crops are cut.
        seed: of everything.
        total: crops of the whole training, for the schedule.
    """

    def __init__(self, questions: Questions, schedule: TaskSchedule, recipe: CropRecipe, seed: int, total: int) -> None:
        super().__init__(total)
        self.questions, self.schedule = questions, questions.scheduled(schedule)
        self.recipe, self.seed = recipe, seed

    def __getitem__(self, index: int) -> Crop:
        rng = np.random.default_rng([self.seed, index])
        task = self.schedule.draw(index / self.total, rng)
        if task is Task.INTERACTIVE:
            return self._object(rng)
        sample = self.questions.draw(task, rng)
        others = [s for s in self.questions.about(sample.image) if s.id != sample.id]
        picked = rng.permutation(len(others))[: self.recipe.items - 1].tolist()
        return _whole([sample, *(others[i] for i in picked)], self.recipe, rng)

    def _object(self, rng: np.random.Generator) -> Crop:
        for _ in range(_TRIES):
            sample = self.questions.draw(Task.INTERACTIVE, rng)
            image, mask = _pixels(sample)
            target = {sample.category or "": mask.astype(np.int32)}
            labeled = LabeledImage(sample.id, sample.source, image, target, {}, centreline=False, absent=())
            crop = object_crop(labeled, self.recipe, rng, named=False)  # its category may be in no list of ours
            if crop is not None:
                return crop
        raise DatasetError(
            "The targets of points and boxes are too small to cut crops round them.",
            received=f"{_TRIES} drawn",
        )


class QuestionSource:
    """Samples of the causal members: the whole image, letterboxed as the engine does it, and one question.

    Args:
        questions: what there is.
        size: the model's.
        light: change brightness, contrast, colour.
    """

    def __init__(self, questions: Questions, size: int, *, light: bool = True) -> None:
        self.questions, self.size, self.light = questions, size, light

    def draw(self, task: Task, rng: np.random.Generator) -> Crop:
        """A question of ``task``."""
        sample = self.questions.draw(task, rng)
        image, mask = _pixels(sample)
        frame = Frame.letterbox((image.shape[0], image.shape[1]), self.size)
        target = np.zeros(frame.grid, np.uint8)
        left, top = frame.pad
        target[top : top + frame.content[0], left : left + frame.content[1]] = _nearest(mask, frame.content)
        shown = letterboxed(change_light(image, rng) if self.light else image, frame)
        rows = coordinate_rows(sample.prompt(), image.shape[:2]).numpy()
        text, answer = _words(sample, rows, rng), _answer(sample, bool(mask.any()), rng)
        example = TrainingExample(text, task, target, rows, presence_of(target), answer=answer)
        return single_crop(shown, example, sample.source)


class MixedSource:
    """Two sources in one.

    Args:
        first: it has samples of every task.
        second: questions.
        share: of ``second`` among the samples of the tasks that it has.
    """

    def __init__(self, first: CropProvider, second: QuestionSource, share: float) -> None:
        if not 0 < share < 1:
            raise ConfigError("Two sources mix by a share between 0 and 1.", received=share)
        self.first, self.second, self.share = first, second, share

    def draw(self, task: Task, rng: np.random.Generator) -> Crop:
        """A sample of ``task``."""
        chosen = rng.random() < self.share and self.second.questions.has(task)
        return (self.second if chosen else self.first).draw(task, rng)


def _pixels(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    image, mask = sample.load_image(), sample.load_mask()
    if image.shape[:2] != mask.shape:
        raise DatasetError(
            f"Image and mask of {sample.id} differ in size.", received=f"{image.shape[:2]} and {mask.shape}"
        )
    return image, mask


def _whole(samples: Sequence[Sample], recipe: CropRecipe, rng: np.random.Generator) -> Crop:
    """The image, as large as it fits or up to a fifth smaller, somewhere in the crop."""
    image = samples[0].load_image()
    height, width = image.shape[:2]
    scale = recipe.size / max(height, width) * float(rng.uniform(0.8, 1.0))
    x, y = (length / 2 + (recipe.size / scale - length) * float(rng.uniform(-0.5, 0.5)) for length in (width, height))
    crop_map = CropMap.make(recipe.size, (x, y), scale, 0.0, flip=False)
    items = []
    for sample in samples:
        _, mask = _pixels(sample)
        target = crop_map.labels(mask.astype(np.int32)).astype(np.uint8)
        presence = 0 if not mask.any() else 1 if presence_of(target) == 1 else -1
        text = sample.instructions[int(rng.integers(len(sample.instructions)))]
        items.append(TrainingExample(text, sample.task, target, no_rows(), presence))
    shown = crop_map.image(image)
    if recipe.light:
        shown = change_light(shown, rng)
    return Crop(shown, no_points(), np.zeros(4, np.float32), tuple(items), samples[0].source)


def _nearest(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The value under the centre of each pixel of the new grid."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size, mask.shape, strict=True)
    )
    out: NDArray[np.uint8] = mask[rows[:, None], columns]
    return out


def _words(sample: Sample, rows: NDArray[np.float32], rng: np.random.Generator) -> str:
    if sample.instructions:
        return sample.instructions[int(rng.integers(len(sample.instructions)))]
    used = [[float(v) for v in row] for row in rows if row.any()]
    if sample.boxes:
        return interactive_instruction(boxes=used)
    return interactive_instruction(points=[row[:2] for row in used])


def question_words(sample: Sample, rng: np.random.Generator) -> tuple[str, str]:
    """Instruction and answer of a question, of which no pixels are read: a target is taken to be there."""
    size = picture_size(sample.image)[::-1] if sample.points or sample.boxes else (1, 1)
    rows = coordinate_rows(sample.prompt(), size).numpy()
    return _words(sample, rows, rng), _answer(sample, True, rng)


def _answer(sample: Sample, found: bool, rng: np.random.Generator) -> str:
    """What the language model learns to answer: the data set's own words where it has some."""
    if sample.answer:
        return sample.answer[int(rng.integers(len(sample.answer)))]
    if not found:
        return "nothing in this image"
    return "the object at that place" if sample.task is Task.INTERACTIVE else "the marked area"
