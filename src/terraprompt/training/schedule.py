"""Progressive task scheduling (PTS): from interactive towards reasoning while training goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from terraprompt.errors import ConfigError
from terraprompt.prompt import Task

__all__ = ["TaskSchedule"]


@dataclass(frozen=True, slots=True)
class TaskSchedule:
    """Sampling shares of the tasks as a function of progress (UniGeoSeg, PTS).

    Interactive falls to ``floor`` of its natural weight. What becomes of the others is not given by the paper; two
    readings, by name (``by``):

    - "multipliers" (default): weights on the natural proportions, interactive ``w``, referring 1, reasoning
      ``1 + (1 - w)``; shares are the normalised products, so that referring's moves a little.
    - "shares": referring's share of the batch is constant, and the share that interactive gives up is reasoning's.

    Attributes:
        natural: proportions of interactive, referring, reasoning in the data.
        floor: where the interactive multiplier ends; 1.0 switches the schedule off.
        curve: "linear" or "cosine".
        horizon: share of the training after which the floor is reached.
        by: "multipliers" or "shares", see above; a data set without reasoning has nobody to take a freed share, and
            both readings then normalise.
    """

    natural: tuple[float, float, float]
    floor: float = 0.7
    curve: Literal["linear", "cosine"] = "linear"
    horizon: float = 1.0
    by: Literal["multipliers", "shares"] = "multipliers"

    def __post_init__(self) -> None:
        if min(self.natural) < 0 or sum(self.natural) <= 0:
            raise ConfigError("Task proportions must be non-negative and not all zero.", received=self.natural)
        if not 0 <= self.floor <= 1 or not 0 < self.horizon <= 1:
            raise ConfigError(
                "The task schedule needs 0 <= floor <= 1 and 0 < horizon <= 1.", received=(self.floor, self.horizon)
            )
        for what, value, known in (
            ("curve", self.curve, ("linear", "cosine")),
            ("reading", self.by, ("multipliers", "shares")),
        ):
            if value not in known:
                raise ConfigError(
                    f"Unknown {what} of the task schedule.", received=value, hint=f"Known: {', '.join(known)}."
                )

    def multipliers(self, progress: float) -> tuple[float, float, float]:
        """Of interactive, referring, reasoning at ``progress`` in [0, 1]."""
        t = min(max(progress, 0.0) / self.horizon, 1.0)
        fallen = t if self.curve == "linear" else (1 - math.cos(math.pi * t)) / 2
        interactive = 1 - (1 - self.floor) * fallen
        return interactive, 1.0, 2.0 - interactive

    def shares(self, progress: float) -> tuple[float, float, float]:
        """Probabilities of the three tasks, sum 1."""
        interactive, referring, reasoning = self.natural
        first, second, third = self.multipliers(progress)
        weights = [interactive * first, referring * second, reasoning * third]
        if self.by == "shares" and reasoning:
            weights[2] = reasoning + interactive * (1 - first)
        total = sum(weights)
        return weights[0] / total, weights[1] / total, weights[2] / total

    def draw(self, progress: float, rng: np.random.Generator) -> Task:
        """One task."""
        return list(Task)[int(rng.choice(3, p=self.shares(progress)))]
