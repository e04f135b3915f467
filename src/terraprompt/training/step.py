"""What a training is made of: settings of the loop, and a model with its losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from terraprompt.errors import ConfigError

__all__ = ["SEED_STRIDE", "LoopConfig", "Movable", "TrainStep", "cosine", "group_parameters"]

#: A prime, so that seeds of two trainings rarely meet.
SEED_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Budget and optimiser, common to all trainings.

    Attributes:
        steps: optimiser steps.
        batch: samples a step, over all processes and passes.
        micro_batch_size: samples in one pass of one process; passes are accumulated until ``batch`` is reached. The
            result depends on the batch and the micro batch, not on the number of processes. None = ``batch`` in one
            pass of each process.
        lr: peak learning rate of AdamW; cosine to 1 % after ``warmup`` share of linear rise.
        weight_decay: of matrices.
        max_grad_norm: gradients are scaled down to it; 0 does not clip.
        ema: decay of averaged weights, which are then exported; 0 for none.
        precision: "bf16" (autocast, weights stay as they are) or "fp32".
        save_every: steps between checkpoints.
        save_seconds: seconds between checkpoints, where steps are slow; 0 = by steps alone.
        keep: checkpoints that are kept.
        log_every: steps between lines of metrics.
        seed: of weights, samples, points and dropout.
    """

    steps: int = 2000
    batch: int = 16
    micro_batch_size: int | None = None
    lr: float = 1e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema: float = 0.0
    warmup: float = 0.03
    precision: str = "bf16"
    save_every: int = 500
    save_seconds: float = 600.0
    keep: int = 2
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.batch, self.micro_batch_size or 1, self.save_every, self.keep, self.log_every)
        if self.steps < 0 or min(counts) < 1:
            raise ConfigError("Batches and intervals must be at least 1, steps not negative.", received=self)
        if not 0 <= self.save_seconds < math.inf:
            raise ConfigError("save_seconds must be a number that is not negative.", received=self.save_seconds)
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError("Unknown precision of training.", received=self.precision, hint="Known: bf16, fp32.")
        if not 0 <= self.ema < 1 or not 0 <= self.warmup < 1 or self.lr <= 0:
            raise ConfigError("ema and warmup lie in [0, 1), lr is above 0.", received=self)

    def per_process(self, processes: int) -> tuple[int, int]:
        """Samples in one pass, and passes of each process in a step: micro batch size and gradient accumulation steps.

        Raises:
            ConfigError: the batch cannot be dealt out evenly.
        """
        size = self.micro_batch_size or max(self.batch // processes, 1)
        if self.batch % (size * processes):
            raise ConfigError(
                "The batch must be a multiple of the micro batch times the processes.",
                received=f"{self.batch}, not a multiple of {size} x {processes}",
                hint="Change batch or micro_batch_size.",
            )
        return size, self.batch // (size * processes)


class Movable(Protocol):
    """A batch."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        ...


class TrainStep(nn.Module):
    """What is trained: a model with its losses in one module, because distributed wrappers hook into one forward call.

    Attributes:
        model: the network.
        betas: of AdamW.
        collate: samples to a batch; runs in worker processes.
    """

    betas = (0.9, 0.999)
    collate: Callable[[Sequence[Any]], Any]

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, totals: Sequence[float], step: int) -> dict[str, Tensor]:
        """Weighted loss terms of one pass; over all passes of all processes they add up to the loss of the step.

        Args:
            batch: of this pass.
            totals: :meth:`counts` of the whole step.
            step: number of the optimiser step, for seeds.
        """
        raise NotImplementedError

    def counts(self, batch: Any) -> Sequence[float]:
        """What the losses divide by; summed over passes and processes."""
        raise NotImplementedError

    def seed(self, batch: Any, step: int) -> int:
        """Number that decides dropout of this pass, so that a resumed training drops what an unbroken one drops."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, ``lr`` at its peak."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What the model is; must be the same when a training is resumed."""
        raise NotImplementedError

    def metrics(self, totals: Sequence[float]) -> dict[str, float]:
        """More columns of ``metrics.jsonl``."""
        return {}


def group_parameters(
    named: Iterator[tuple[str, nn.Parameter]], lr: Callable[[str], float], weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups of the parameters that learn: by learning rate, with weight decay on matrices alone.

    Raises:
        ConfigError: none learns.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault((lr(name), weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    if not groups:
        raise ConfigError("Everything is frozen.", hint="Let some parameters learn.")
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


def cosine(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: a linear rise over the ``warmup`` share, then a cosine to 1 %."""
    rise = max(1, int(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    t = (step - rise) / max(1, steps - rise)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(t, 1.0))) / 2
