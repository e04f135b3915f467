"""The rewards of a training run: a frozen segmenter that embeds an image once for all completions about it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.sample import Sample
from terraprompt.errors import ConfigError
from terraprompt.prompt import Prompt
from terraprompt.segmenters.base import PromptableSegmenter, SegmenterEmbedding
from terraprompt.training.rewards import (
    Reward,
    format_reward,
    matching_reward,
    no_target_reward,
    non_repetition_reward,
    tag_reward,
    target_reward,
)
from terraprompt.vlm.answer_parser import AnswerRules, Instance
from terraprompt.vlm.conventions import Convention
from terraprompt.vlm.placement import place

__all__ = ["TERMS", "THINK2SEG", "GroupDraw", "rewards_of"]

#: Terms that add up to the reward of Think2Seg-RS, at most 4.
THINK2SEG = ("target", "no_target", "format", "tags")
#: All terms; those of VisionReasoner need no masks at training time.
TERMS = (*THINK2SEG, "matching", "non_repetition")

_PORTION = 32  # prompts at a time; an answer holds 4 bytes a pixel


class GroupDraw:
    """Draws what a completion points at; see :class:`terraprompt.training.rewards.Draw`.

    Completions of a group come one after the other, so the last few images are kept embedded: **each is encoded once a
    group**, not once a completion. Completions that point at the same are drawn once.

    Args:
        segmenter: frozen; must read boxes and points.
        convention: of the reasoner that answers.
        samples: what the entries of the column ``sample`` are indices of.
        keep: embeddings held at a time.

    Raises:
        ConfigError: the segmenter does not read boxes and points.

    Attributes:
        encoded, drawn: how many images were encoded, and how many different answers drawn, so far.
    """

    def __init__(
        self,
        segmenter: PromptableSegmenter,
        convention: Convention,
        samples: Sequence[Sample],
        *,
        keep: int = 4,
    ) -> None:
        if missing := {"boxes", "points"} - segmenter.reads:
            raise ConfigError(
                "The segmenter must read boxes and points.", received=f"{segmenter.info.name}: no {missing}"
            )
        if keep < 1:
            raise ConfigError("At least one embedding must be kept.", received=keep)
        self.segmenter, self.convention, self.samples, self.keep = segmenter, convention, samples, keep
        self.encoded = self.drawn = 0
        self._embeddings: OrderedDict[int, SegmenterEmbedding] = OrderedDict()
        self._truths: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._drawn: dict[int, dict[tuple[Instance, ...], NDArray[np.bool_]]] = {}

    def __call__(self, instances: Sequence[Instance], sample: int) -> NDArray[np.bool_]:
        """Union (height, width) of the masks of ``instances``, which are in the reasoner's coordinates.

        Nothing is drawn where no instance lies in the image, or the coordinates cannot be in the units of the
        convention: such a completion earns 0.
        """
        embedding = self._embedded(sample)
        placed = place(instances, self.convention, embedding.size).instances
        known = self._drawn[sample]
        if placed not in known:
            union = np.zeros(embedding.size, bool)
            prompts = [_prompt(instance) for instance in placed]
            for start in range(0, len(prompts), _PORTION):
                for answer in self.segmenter.predict(embedding, prompts[start : start + _PORTION]):
                    union |= answer.logits > 0
            self.drawn += 1
            known[placed] = union
        return known[placed]

    def truth(self, sample: int) -> NDArray[np.uint8]:
        """The labelled mask (height, width) of a sample."""
        if sample not in self._truths:
            self._truths[sample] = self.samples[sample].load_mask()
            if len(self._truths) > self.keep:
                self._truths.popitem(last=False)
        return self._truths[sample]

    def _embedded(self, sample: int) -> SegmenterEmbedding:
        if sample not in self._embeddings:
            self._embeddings[sample] = self.segmenter.embed([self.samples[sample].load_image()])[0]
            self._drawn[sample] = {}
            self.encoded += 1
            if len(self._embeddings) > self.keep:
                old, _ = self._embeddings.popitem(last=False)
                del self._drawn[old]
        self._embeddings.move_to_end(sample)
        return self._embeddings[sample]


def rewards_of(terms: Sequence[str], draw: GroupDraw, *, rules: AnswerRules | None = None) -> list[Reward]:
    """The functions of the named terms, in that order.

    Raises:
        ConfigError: an unknown or repeated term, or none.
    """
    known: dict[str, Reward] = {
        "target": target_reward(draw, draw.truth, rules=rules),
        "no_target": no_target_reward(draw.truth, rules=rules),
        "format": _ruled(format_reward, "format_reward", rules),
        "tags": tag_reward,
        "matching": _ruled(matching_reward, "matching_reward", rules),
        "non_repetition": non_repetition_reward,
    }
    if not terms or len(set(terms)) < len(terms) or set(terms) - set(known):
        raise ConfigError("A reward is a sum of terms.", received=list(terms), hint=f"Known: {', '.join(TERMS)}.")
    return [known[term] for term in terms]


def _ruled(reward: Callable[..., list[float]], name: str, rules: AnswerRules | None) -> Reward:
    def ruled(completions: Sequence[Any], **kwargs: Any) -> list[float]:
        return reward(completions, rules=rules, **kwargs)

    made: Any = ruled
    made.__name__ = name  # of the curve
    return cast(Reward, made)


def _prompt(instance: Instance) -> Prompt:
    boxes = () if instance.box is None else (instance.box,)
    return Prompt(points=instance.points, labels=instance.labels, boxes=boxes)
