"""Crops and batches of members that read with a sentence encoder: crop ``i`` depends on the seed and ``i`` alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.training.crops import Crop, CropRecipe, make_crop
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.schedule import TaskSchedule

__all__ = ["Batch", "CropStream", "Crops", "Mixed", "collate"]


@dataclass(frozen=True, slots=True)
class Batch:
    """B crops with M instructions.

    Attributes:
        images: uint8 (B, 3, S, S).
        points, boxes: (B, 6, 3) and (B, 4), drawn on the images.
        texts: M sentences.
        task, image, presence: int64 (M,).
        coordinates: (M, 3, 4).
        target: uint8 (M, S, S).
        known: uint8 (M, S, S) or None when all is known.
        weak: bool (M,), items of which only boxes are known.
        weak_boxes, weak_item: (K, 4) and int64 (K,), the boxes of weak items.
    """

    images: Tensor
    points: Tensor
    boxes: Tensor
    texts: tuple[str, ...]
    task: Tensor
    image: Tensor
    presence: Tensor
    coordinates: Tensor
    target: Tensor
    known: Tensor | None
    weak: Tensor
    weak_boxes: Tensor
    weak_item: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name in self.__slots__
            if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **moved)


def collate(crops: Sequence[Crop]) -> Batch:
    """Stack crops."""
    items = [(i, item) for i, crop in enumerate(crops) for item in crop.items]
    boxes = [(m, box) for m, (_, item) in enumerate(items) if item.boxes is not None for box in item.boxes]
    known = None
    if any(item.known is not None for _, item in items):
        known = torch.from_numpy(
            np.stack([np.ones_like(item.target) if item.known is None else item.known for _, item in items])
        )
    return Batch(
        images=torch.from_numpy(np.stack([c.image for c in crops])).permute(0, 3, 1, 2).contiguous(),
        points=torch.from_numpy(np.stack([c.points for c in crops])),
        boxes=torch.from_numpy(np.stack([c.box for c in crops])),
        texts=tuple(item.text for _, item in items),
        task=torch.tensor([TASK_INDEX[item.task] for _, item in items]),
        image=torch.tensor([i for i, _ in items]),
        presence=torch.tensor([item.presence for _, item in items]),
        coordinates=torch.from_numpy(np.stack([item.coordinates for _, item in items])),
        target=torch.from_numpy(np.stack([item.target for _, item in items])),
        known=known,
        weak=torch.tensor([item.boxes is not None for _, item in items]),
        weak_boxes=torch.tensor(np.stack([b for _, b in boxes])) if boxes else torch.zeros(0, 4),
        weak_item=torch.tensor([m for m, _ in boxes], dtype=torch.int64),
    )


class Crops(Dataset[Crop]):
    """The crops of a training of ``total``; number ``i`` depends on nothing but its number."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __len__(self) -> int:
        return self.total


class CropStream(Crops):
    """Crop ``i`` of a training of ``total`` crops.

    Within a source, an image is drawn in proportion to the root of how rare its rarest category is there: few images
    show boats, nearly all show cars.

    Args:
        images: the labelled images.
        shares: probability per source; sources without images are left out.
        schedule: task shares over progress.
        recipe: how crops are cut.
        seed: of everything.
        total: crops of the whole training, for the schedule.
    """

    def __init__(
        self,
        images: Sequence[LabeledImage],
        shares: Mapping[str, float],
        schedule: TaskSchedule,
        recipe: CropRecipe,
        seed: int,
        total: int,
    ) -> None:
        super().__init__(total)
        self.by_source: dict[str, list[LabeledImage]] = {}
        for labeled in images:
            self.by_source.setdefault(labeled.source, []).append(labeled)
        self.sources = [s for s in self.by_source if shares.get(s, 0) > 0]
        if not self.sources:
            raise ConfigError("No source has a training share.", received=sorted(self.by_source))
        weights = np.array([shares[s] for s in self.sources])
        self.weights = weights / weights.sum()
        self.within = {s: _rarity(self.by_source[s]) for s in self.sources}
        self.schedule, self.recipe, self.seed = schedule, recipe, seed

    def __getitem__(self, index: int) -> Crop:
        rng = np.random.default_rng([self.seed, index])
        progress = index / self.total
        source = self.sources[int(rng.choice(len(self.sources), p=self.weights))]
        labeled = self.by_source[source][int(rng.choice(len(self.by_source[source]), p=self.within[source]))]
        _, referring, reasoning = self.schedule.shares(progress)
        task = self.schedule.draw(progress, rng)
        texts = referring + reasoning
        return make_crop(labeled, task, reasoning / texts if texts else 0.0, self.recipe, rng)


def _rarity(images: Sequence[LabeledImage]) -> NDArray[np.float64]:
    """Probability of each image of a source."""
    present = [labeled.present for labeled in images]
    count = Counter(category for categories in present for category in categories)
    most = max(count.values(), default=1)
    weights = np.array([max(((most / count[c]) ** 0.5 for c in categories), default=1.0) for categories in present])
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances


class Mixed(Crops):
    """Two streams in one: each number is taken from one of them.

    Args:
        first, second: for trainings of the same length.
        share: of ``second``, between 0 and 1.
        seed: of the choice.
    """

    def __init__(self, first: Crops, second: Crops, share: float, seed: int) -> None:
        if not 0 < share < 1 or len(first) != len(second):
            raise ConfigError(
                "Two streams of one length mix by a share between 0 and 1.", received=(len(first), len(second), share)
            )
        super().__init__(len(first))
        self.first, self.second, self.share, self.seed = first, second, share, seed

    def __getitem__(self, index: int) -> Crop:
        # a third number, so that the choice has nothing to do with what the stream then draws
        chosen = np.random.default_rng([self.seed, index, 1]).random() < self.share
        return self.second[index] if chosen else self.first[index]
