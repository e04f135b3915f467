"""A source of the same few samples, for benches and tests that learn them by heart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.prompt import Task
from terraprompt.training.crops import Crop

__all__ = ["FixedSource"]


class FixedSource:
    """A few samples, each task's drawn evenly."""

    def __init__(self, samples: Sequence[Crop]) -> None:
        self.by_task = {task: [s for s in samples if s.items[0].task is task] for task in Task}

    @property
    def natural(self) -> tuple[float, float, float]:
        """Proportions of the tasks."""
        interactive, referring, reasoning = (float(len(self.by_task[task])) for task in TASK_INDEX)
        return interactive, referring, reasoning

    def draw(self, task: Task, rng: np.random.Generator) -> Crop:
        """One of ``task``."""
        pool = self.by_task[task]
        if not pool:
            raise ConfigError("The schedule asks for a task without samples.", received=task.value)
        return pool[int(rng.integers(len(pool)))]
