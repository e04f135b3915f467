"""Asks an engine about the samples of one image, through the flow that users have, and keeps what it said."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.sample import Sample
from terraprompt.engines.base import Engine
from terraprompt.errors import BudgetError, DatasetError, EngineError, PromptError, SceneError, TerrapromptError
from terraprompt.evaluation.noc import simulate
from terraprompt.evaluation.predictions import EvalItem, Prediction
from terraprompt.flow.session import Session
from terraprompt.flow.settings import Flow, SegmentSettings
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene
from terraprompt.raster.pictures import open_picture

__all__ = ["GOOD", "ask_image", "by_image", "flow_settings"]

#: IoUs of NoC@85 and NoC@90; clicking ends at the higher one.
GOOD = (0.85, 0.9)
# What a broken sample raises; everything else that an engine raises arrives as an EngineError.
_BROKEN = (DatasetError, SceneError, PromptError)


def by_image(items: Sequence[EvalItem]) -> list[tuple[EvalItem, ...]]:
    """Group questions by image, so that each is encoded once; images in the order of their first question."""
    groups: dict[object, list[EvalItem]] = {}
    for one in items:
        groups.setdefault(one.sample.image, []).append(one)
    return [tuple(group) for group in groups.values()]


def flow_settings(flow: Flow, *, selector: bool = True) -> SegmentSettings:
    """Settings under which a sample is asked: as users ask, or as published evaluators feed their model."""
    # Benchmarks ask every sentence, and score what the engine says to it.
    return SegmentSettings(flow=flow, selector="auto" if selector else None, understand=False)


def ask_image(
    engine: Engine,
    items: Sequence[EvalItem],
    *,
    flow: Flow = "product",
    selector: bool = True,
    keep_going: bool = False,
    clicks: bool = False,
    any_size: bool = False,
) -> Iterator[Prediction]:
    """Answers to all questions about one image, in their order, as they come.

    Args:
        engine: loaded.
        items: whose samples have one and the same image.
        flow: how the engine is fed, see :class:`terraprompt.flow.settings.SegmentSettings`. In the published one an
            8-bit picture is not stretched, and all of its pixels count.
        selector: let the product flow decide words of size and place (:mod:`.parse_selector`), as it does for users;
            False sends sentences to the engine as they are.
        keep_going: a broken sample becomes a prediction "skipped" in place of an error.
        clicks: instead of the sample's own prompt, click until the mask is good (:mod:`.noc`); the prediction is the
            last mask, its notes hold the clicks and the IoU after each.
        any_size: the truth may be of another size than the image (:meth:`.grids.Grid.joins`).

    Raises:
        DatasetError: a sample is broken (image or truth missing, damaged or of different sizes, a prompt outside the
            image); the message names it.
        BudgetError: the tokens or the money of an engine that asks others are used up.
    """
    settings = flow_settings(flow, selector=selector)
    with ExitStack() as stack:
        try:
            image, published = items[0].sample.image, flow == "published"
            scene = stack.enter_context(open_picture(image) if published else open_scene(image, warp=False))
            as_it_is = published and scene.dtype == np.uint8
            session = Session(engine, scene, stretch="none" if as_it_is else "auto")
        except (DatasetError, SceneError) as error:
            for one in items:
                yield _broken(one, error, keep_going)
            return
        for one in items:
            yield _ask(session, one, settings, keep_going=keep_going, clicks=clicks, any_size=any_size)


def _ask(
    session: Session, one: EvalItem, settings: SegmentSettings, *, keep_going: bool, clicks: bool, any_size: bool
) -> Prediction:
    sample = one.sample
    status, reason, mask, notes = "failed", None, None, dict[str, Any]()
    start = time.perf_counter()
    try:
        prompt = _checked(sample, one, None if any_size else (session.scene.height, session.scene.width))
        start = time.perf_counter()
        if clicks:
            found, notes = _click(session, sample.load_mask(), settings)
            status, mask = "found" if found.any() else "no_target", RunLengths.encode(found)
        else:
            answer = session.predict_mask(prompt, settings)
            status, reason = answer.status.value, answer.reason
            if answer.mask is not None:
                mask = RunLengths.encode(answer.mask)
            proposed = {key: value for key, value in answer.evidence.proposed.items() if key != "targets"}
            answers = [*([proposed] if proposed else []), *answer.evidence.answers]
            notes = {"answers": answers} if answers else {}
    except BudgetError:
        raise
    except EngineError as error:
        reason = str(error)
    except _BROKEN as error:
        return _broken(one, error, keep_going)
    return Prediction(
        sample.id, status, reason, mask, sample.task.value, one.text, one.wording, notes,
        time.perf_counter() - start, _peak_memory(), one.fingerprint(),
    )  # fmt: skip


def _click(
    session: Session, truth: NDArray[np.uint8], settings: SegmentSettings
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
        found = session.predict_mask(prompt, settings).mask
        assert found is not None  # only engines that propose fail, and they propose for texts alone
        last = found
        return last

    ious = simulate(predict, truth, target_iou=max(GOOD))
    return last, {"clicks": clicks, "ious": ious}


def _checked(sample: Sample, one: EvalItem, size: tuple[int, int] | None) -> Prompt:
    """The prompt, once the truth is known to be usable: a broken truth shall not be found after hours of answers."""
    if sample.truth is not None:
        shape = sample.load_mask().shape
        if size is not None and shape != size:
            raise DatasetError("Image and mask differ in size.", received=f"image {size}, mask {shape}")
    elif sample.box is None:
        raise DatasetError("The sample has neither a mask nor a box to be judged by.")
    return sample.prompt(one.wording)


def _broken(one: EvalItem, error: TerrapromptError, keep_going: bool) -> Prediction:
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


def _peak_memory() -> float:
    """Peak resident memory of this process, MiB; NaN where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
