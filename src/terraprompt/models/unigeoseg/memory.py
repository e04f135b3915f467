"""Latent knowledge memory (LKM): a few learned vectors that states are pulled towards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from terraprompt.models.unigeoseg.config import MemoryConfig

__all__ = ["LatentMemory"]


class LatentMemory(nn.Module):
    """``z = softmax(x M^T) M; x <- (1 - l) x + l z`` with lambda per sample's task (Eq. 6-7)."""

    lambda_: Tensor

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(config.slots, width) * 0.02)
        self.register_buffer("lambda_", torch.tensor(config.lambda_), persistent=False)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """``x`` (M, D) or (M, L, D); ``task`` int64 (M,)."""
        recalled = (x @ self.slots.T).softmax(-1) @ self.slots
        share = self.lambda_[task].to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        return (1 - share) * x + share * recalled
