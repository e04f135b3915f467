"""Low-rank adaptation (LoRA, arXiv 2106.09685): a frozen linear layer learns a product of two narrow matrices."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terraprompt.errors import ConfigError

__all__ = ["LoraConfig", "LoraLinear", "add_lora", "merged"]

_A, _B = ".lora_a", ".lora_b"


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Which linear layers, how narrow, how strong.

    Attributes:
        rank: columns of the narrow matrices.
        alpha: their product is scaled by ``alpha / rank``.
        targets: patterns of module names; every one must match a linear layer.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("reader.language.*.q_proj", "reader.language.*.v_proj")

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets:
            raise ConfigError("LoRA needs a rank of at least 1 and targets.", received=(self.rank, self.targets))


class LoraLinear(nn.Linear):
    """``x W^T + b + (alpha / rank) x A^T B^T``; B starts at zero, so nothing changes at first.

    The frozen weight keeps its name, so checkpoints without LoRA stay readable.
    """

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = config.alpha / config.rank
        make: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_a = nn.Parameter(torch.empty(config.rank, base.in_features, **make))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, config.rank, **make))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        return super().forward(x) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale


def add_lora(model: nn.Module, config: LoraConfig) -> tuple[str, ...]:
    """Replace the targets in ``model``, their own weights frozen; the names of the replaced modules.

    Raises:
        ConfigError: a pattern matches no linear layer.
    """
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    for pattern in config.targets:
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise ConfigError("A target of LoRA matches no linear layer.", received=pattern)
    chosen = tuple(name for name in linear if any(fnmatchcase(name, p) for p in config.targets))
    for name in chosen:
        parent, _, leaf = name.rpartition(".")
        adapted = LoraLinear(linear[name].requires_grad_(False), config)
        setattr(model.get_submodule(parent), leaf, adapted)
    return chosen


def merged(state: dict[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """A state dict with every product added to its weight, as if there had never been LoRA."""
    out = {name: value for name, value in state.items() if not name.endswith((_A, _B))}
    for name in [n.removesuffix(_A) for n in state if n.endswith(_A)]:
        weight = out[f"{name}.weight"]
        change = (state[name + _B].float() @ state[name + _A].float()) * (config.alpha / config.rank)
        out[f"{name}.weight"] = (weight.float() + change).to(weight.dtype)
    return out
