"""Asks an engine about the samples of one image, through the flow that users have, and keeps what it said."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.sample import Sample
from terraprompt.engines.base import Answer, Embedding, Engine
from terraprompt.errors import BudgetError, DatasetError, EngineError, PromptError, SceneError, TerrapromptError
from terraprompt.evaluation.noc import simulate
from terraprompt.evaluation.predictions import Prediction
from terraprompt.flow.session import Session
from terraprompt.io.rle import RunLengths
from terraprompt.outputs.mask_writer import DEFAULT_MIN_PIXELS
from terraprompt.prompt import Prompt
from terraprompt.raster import Scene, open_scene
from terraprompt.raster.tiles import Tile

__all__ = ["GOOD", "Asked", "ask_image", "by_image", "flow_settings"]

#: IoUs of NoC@85 and NoC@90; clicking ends at the higher one.
GOOD = (0.85, 0.9)
# What a broken sample raises; everything else that an engine raises arrives as an EngineError.
_BROKEN = (DatasetError, SceneError, PromptError)


@dataclass(frozen=True, slots=True)
class Asked:
    """A sample and which of its wordings is asked."""

    sample: Sample
    wording: int = 0

    @property
    def text(self) -> str:
        """The instruction in words; "" for points or boxes alone."""
        return self.sample.instructions[self.wording] if self.sample.instructions else ""


def by_image(asked: Sequence[Asked]) -> list[tuple[Asked, ...]]:
    """Askeds about one image together, so that it is encoded once; images in the order of their first one."""
    groups: dict[object, list[Asked]] = {}
    for one in asked:
        groups.setdefault(one.sample.image, []).append(one)
    return [tuple(group) for group in groups.values()]


def flow_settings(mask: Literal["model", "product"]) -> dict[str, Any]:
    """The options of :meth:`terraprompt.flow.session.Session.segment` that give the model's or the product's mask."""
    sieve = {"min_pixels": 1} if mask == "model" else {"min_pixels": DEFAULT_MIN_PIXELS}
    return {"threshold": 0.5, "refine": True, **sieve}


def ask_image(
    engine: Engine,
    asked: Sequence[Asked],
    *,
    mask: Literal["model", "product"] = "product",
    selector: bool = True,
    keep_going: bool = False,
    clicks: bool = False,
) -> Iterator[Prediction]:
    """Answers to all questions about one image, in their order, as they come.

    Args:
        engine: loaded.
        asked: whose samples have one and the same image.
        mask: the model's own mask, or the product's, without small objects and holes; see :class:`.protocols.Protocol`.
        selector: let the flow decide words of size and place (:mod:`.parse_selector`), as it does for users;
            False sends sentences to the engine as they are.
        keep_going: a broken sample becomes a prediction "skipped" in place of an error.
        clicks: instead of the sample's own prompt, click until the mask is good (:mod:`.noc`); the prediction is the
            last mask, its notes hold the clicks and the IoU after each.

    Raises:
        DatasetError: a sample is broken (image or truth missing, damaged or of different sizes, a prompt outside the
            image); the message names it.
        BudgetError: the tokens or the money of an engine that asks others are used up.
        OutputError: no room for work files.
    """
    with ExitStack() as stack:
        try:
            scene = stack.enter_context(open_scene(asked[0].sample.image))
            session = _Listening(engine, scene)
        except SceneError as error:
            for one in asked:
                yield _broken(one, error, keep_going)
            return
        for one in asked:
            yield _ask(session, one, flow_settings(mask), selector=selector, keep_going=keep_going, clicks=clicks)


def _ask(
    session: _Listening, one: Asked, flow: Mapping[str, Any], *, selector: bool, keep_going: bool, clicks: bool
) -> Prediction:
    sample = one.sample
    status, reason, mask, notes = "failed", None, None, dict[str, Any]()
    session.heard.clear()
    start = time.perf_counter()
    try:
        prompt = _checked(sample, one, (session.scene.height, session.scene.width))
        start = time.perf_counter()
        if clicks:
            found, notes = _click(session, sample.load_mask(), flow)
            status, mask = "found" if found.any() else "no_target", RunLengths.encode(found)
        else:
            with session.segment(prompt, selector="auto" if selector else None, **flow) as result:
                status, reason = result.status.value, result.reason
                if status != "failed":
                    mask = RunLengths.encode(result.mask() == 1)
            told = [_proposed(result.notes)] if result.notes else []
            notes = {"answers": told + session.heard} if told or session.heard else {}
    except BudgetError:
        raise
    except EngineError as error:
        reason = str(error)
    except _BROKEN as error:
        return _broken(one, error, keep_going)
    return Prediction(
        sample.id, status, reason, mask, sample.task.value, one.text, one.wording, notes,
        time.perf_counter() - start, _peak_memory(),
    )  # fmt: skip


def _click(
    session: Session, truth: NDArray[np.uint8], flow: Mapping[str, Any]
) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """The mask after the last simulated click; the clicks ``(x, y, label)`` in pixels, and the IoU after each."""
    if not truth.any():
        raise DatasetError("There is no target to click on.")
    last: NDArray[np.bool_] = np.zeros(truth.shape, bool)
    clicks: list[list[float]] = []

    def predict(points: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        nonlocal last
        clicks[:] = [[x, y, label] for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True)]
        prompt = Prompt(points=tuple((x, y) for x, y, _ in clicks), labels=tuple(int(v) for *_, v in clicks))
        with session.segment(prompt, **flow) as result:
            last = np.asarray(result.mask() == 1)
        return last

    ious = simulate(predict, truth, until=max(GOOD))
    return last, {"clicks": clicks, "ious": ious}


def _checked(sample: Sample, one: Asked, size: tuple[int, int]) -> Prompt:
    """The prompt, once the truth is known to be usable: a broken truth shall not be found after hours of answers."""
    if sample.truth is not None:
        shape = sample.load_mask().shape
        if shape != size:
            raise DatasetError("Image and mask differ in size.", received=f"image {size}, mask {shape}")
    elif sample.box is None:
        raise DatasetError("The sample has neither a mask nor a box to be judged by.")
    return sample.prompt(one.wording)


def _broken(one: Asked, error: TerrapromptError, keep_going: bool) -> Prediction:
    sample = one.sample
    if not keep_going:
        raise DatasetError(
            f'The sample "{sample.id}" is broken: {error.what}',
            received=error.received,
            hint="Repair it, or leave such samples out with --keep-going.",
        ) from error
    return Prediction(
        sample.id, "skipped", str(error), None, sample.task.value, one.text, one.wording, {}, 0.0, float("nan")
    )


def _proposed(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What an engine that points noted on the whole image; its notes on the targets are heard by themselves."""
    return {key: value for key, value in notes.items() if key != "targets"}


class _Listening(Session):
    """A session that writes down what the engine noted beside its logits, in pixels of the image."""

    def __init__(self, engine: Engine, scene: Scene) -> None:
        super().__init__(engine, scene)
        self.heard: list[dict[str, Any]] = []

    def predict(
        self, tiles: Sequence[Tile], embeddings: Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> list[Answer]:
        found = super().predict(tiles, embeddings, prompts)
        self.heard += [answer.notes for answer in found if answer.notes]
        return found


def _peak_memory() -> float:
    """Peak resident memory of this process, MiB; NaN where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
