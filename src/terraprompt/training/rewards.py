"""Rewards of completions: plain functions ``(completions, **kwargs) -> list[float]``, as TRL's GRPO trainer takes them.

Think2Seg-RS, sum at most 4: :func:`target_reward` (2 IoU) and :func:`no_target_reward` (2 or 0), of which an image gets
one; :func:`format_reward` (1) and :func:`tag_reward` (1). They equal the recorded ones but for two bugs of the
published code: a box whose corners are not numbers earned the format reward when it was alone (here it is
``bad_box``), and **such a box took the mask reward from every completion that was scored with it**. Here each
completion is scored on its own.

VisionReasoner (arXiv 2505.12081) offers terms without masks: :func:`matching_reward`, :func:`non_repetition_reward`.

Completions are texts, or lists of chat messages (the last one counts). Keyword arguments are columns of the data set,
one entry a completion; columns a reward does not know are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from terraprompt.errors import ConfigError
from terraprompt.geometry.boxes import box_iou
from terraprompt.vlm.answer_parser import AnswerRules, Instance, Verdict, parse_strict, reasoning_of, tagged
from terraprompt.vlm.placement import without_duplicates

__all__ = [
    "Draw",
    "Reward",
    "format_reward",
    "matching_reward",
    "matching_score",
    "no_target_reward",
    "non_repetition_reward",
    "tag_reward",
    "target_reward",
]

Completion = str | Sequence[dict[str, Any]]
Truth = Callable[[Any], NDArray[np.generic]]


class Reward(Protocol):
    """What TRL calls: one number a completion; ``__name__`` is the name of its curve."""

    __name__: str

    def __call__(self, completions: Sequence[Completion], **kwargs: Any) -> list[float]:
        """Score completions."""
        ...


class Draw(Protocol):
    """A segmenter, as a reward sees it."""

    def __call__(self, instances: Sequence[Instance], sample: Any) -> NDArray[np.generic]:
        """Union of the masks of ``instances``, (height, width), not 0 = target.

        Args:
            instances: at least one, in the coordinates that the reasoner was asked for; boxes may reach outside the
                image or be inverted.
            sample: the entry of the column ``sample``; what says which image it is.
        """
        ...


def target_reward(draw: Draw, truth: Truth, *, rules: AnswerRules | None = None) -> Reward:
    """2 IoU of the drawn union with the truth; 0 for a text the strict reader refuses, and for an empty list.

    An image without target gives 0 here; :func:`no_target_reward` is its reward.

    Args:
        draw: the frozen segmenter. It may well keep the embedding of an image for its whole group.
        truth: mask (height, width) of an entry of the column ``sample``, not 0 = target.
        rules: what an item must hold.
    """

    def reward(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
        scores = []
        for text, sample in _paired(completions, kwargs, "sample"):
            parsed = parse_strict(text, rules)
            mask = truth(sample) != 0
            if parsed.verdict is not Verdict.OK or not mask.any():
                scores.append(0.0)
                continue
            drawn = draw(without_duplicates(parsed.instances), sample) != 0
            if drawn.shape != mask.shape:
                raise ConfigError("The drawn mask has another size than the truth.", received=(drawn.shape, mask.shape))
            scores.append(2.0 * float((drawn & mask).sum()) / float((drawn | mask).sum()))
        return scores

    return _named(reward, "target_reward")


def no_target_reward(truth: Truth, *, rules: AnswerRules | None = None) -> Reward:
    """2 where the image has no target and the strict reader finds an empty list, else 0; ``truth`` as above."""

    def reward(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
        return [
            2.0 if parse_strict(text, rules).verdict is Verdict.NO_TARGET and not truth(sample).any() else 0.0
            for text, sample in _paired(completions, kwargs, "sample")
        ]

    return _named(reward, "no_target_reward")


def format_reward(completions: Sequence[Completion], *, rules: AnswerRules | None = None, **_: Any) -> list[float]:
    """1 where the strict reader accepts the answer, an empty list included."""
    return [float(parse_strict(_text(completion), rules).ok) for completion in completions]


def tag_reward(completions: Sequence[Completion], **_: Any) -> list[float]:
    """1 where the whole text is ``<think>…</think><answer>…</answer>``."""
    return [float(tagged(_text(completion))) for completion in completions]


def matching_reward(
    completions: Sequence[Completion],
    *,
    truth_boxes: Sequence[ArrayLike],
    truth_points: Sequence[ArrayLike] | None = None,
    rules: AnswerRules | None = None,
    **_: Any,
) -> list[float]:
    """:func:`matching_score` of each completion, 0 to 3; 0 for a text the strict reader refuses.

    Args:
        completions: texts.
        truth_boxes: column: boxes (n, 4) of the sample in the reasoner's coordinates, n may be 0.
        truth_points: column: one point (n, 2) on each of them; None = the centres of the boxes.
        rules: what an item must hold.
    """
    columns: dict[str, Any] = {"boxes": truth_boxes, "points": truth_points}
    if truth_points is None:
        columns["points"] = [_centres(boxes) for boxes in truth_boxes]
    points_of = [points for _text_again, points in _paired(completions, columns, "points")]
    scores = []
    for (text, boxes), points in zip(_paired(completions, columns, "boxes"), points_of, strict=True):
        parsed = parse_strict(text, rules)
        scores.append(matching_score(parsed.instances, boxes, points) if parsed.ok else 0.0)
    return scores


def matching_score(instances: Sequence[Instance], truth_boxes: ArrayLike, truth_points: ArrayLike) -> float:
    """VisionReasoner's accuracy: instances and truths are matched one to one (Hungarian) for the largest sum of

    1[IoU > 0.5] + 1[mean absolute difference of the four box coordinates < 10 px] + 1[mean distance of the instance's
    positive points from the truth's point < 30 px, and all of them inside the truth's box],

    divided by the larger of the two counts; 3 for two empty sets. Inside the *truth's* box, so that a box over the
    whole image earns nothing. Pixels are those of the reasoner's coordinates.
    """
    boxes = np.asarray(truth_boxes, np.float64).reshape(-1, 4)
    spots = np.asarray(truth_points, np.float64).reshape(-1, 2)
    if len(boxes) != len(spots):
        raise ConfigError("Every truth needs a box and a point.", received=(len(boxes), len(spots)))
    if not instances and not len(boxes):
        return 3.0
    if not instances or not len(boxes):
        return 0.0
    gains = np.zeros((len(instances), len(boxes)))
    for i, instance in enumerate(instances):
        if instance.box is not None:
            gains[i] += box_iou(instance.box, boxes)[0] > 0.5
            gains[i] += np.abs(boxes - instance.box).mean(1) < 10
        positive = [p for p, label in zip(instance.points, instance.labels, strict=True) if label]
        if positive:
            points = np.asarray(positive, np.float64)
            far = np.hypot(*(points[:, None] - spots[None]).transpose(2, 0, 1)).mean(0)
            inside = ((points[:, None] >= boxes[None, :, :2]) & (points[:, None] <= boxes[None, :, 2:])).all((0, 2))
            gains[i] += (far < 30) & inside
    pairs = linear_sum_assignment(gains, maximize=True)
    return float(gains[pairs].sum()) / max(gains.shape)


def non_repetition_reward(completions: Sequence[Completion], **_: Any) -> list[float]:
    """1 where no sentence of the reasoning comes twice, less the share of repeated ones; 0 without reasoning."""
    scores = []
    for completion in completions:
        parts = re.split(r"(?<=[.!?])\s+|\n", reasoning_of(_text(completion)).lower())
        sentences = [words for part in parts if (words := " ".join(part.split()).rstrip(".!?"))]
        scores.append(len(set(sentences)) / len(sentences) if sentences else 0.0)
    return scores


def _centres(boxes: ArrayLike) -> NDArray[np.float64]:
    corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2)
    return (corners[:, 0] + corners[:, 1]) / 2


def _text(completion: Completion) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) else ""


def _paired(completions: Sequence[Completion], columns: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    column = columns.get(name)
    if column is None or len(column) != len(completions):
        raise ConfigError(
            f"The reward needs a column {name} with one entry a completion.",
            received="none" if column is None else f"{len(column)} for {len(completions)} completions",
        )
    return [(_text(completion), entry) for completion, entry in zip(completions, column, strict=True)]


def _named(reward: Callable[..., list[float]], name: str) -> Reward:
    reward.__name__ = reward.__qualname__ = name
    return reward
