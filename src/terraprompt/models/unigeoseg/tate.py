"""Task-adaptive text enhancement (TATE): one branch a task."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from terraprompt.models.unigeoseg.config import TASK_INDEX, TateConfig
from terraprompt.prompt import Task

__all__ = ["AttentionPool", "MeanPool", "TextEnhancement", "masked_mean"]


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``tokens`` (B, L, D) where ``mask`` (B, L) is True."""
    weight = mask.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


class AttentionPool(nn.Module):
    """softmax(q E^T / sqrt d): learned queries weigh tokens (Eq. 2)."""

    def __init__(self, width: int, queries: int = 1) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width) * 0.02)

    def weights(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, queries, L), zero where ``mask`` (B, L) is False."""
        score = torch.einsum("qd,bld->bql", self.query, tokens) / math.sqrt(tokens.shape[-1])
        return score.masked_fill(~mask[:, None], float("-inf")).softmax(-1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, queries, D) weighted means of ``tokens`` (B, L, D)."""
        return torch.einsum("bql,bld->bqd", self.weights(tokens, mask), tokens)


class MeanPool(nn.Module):
    """The plain mean of the tokens (SegEarth-R1), in the shape of :class:`AttentionPool` with one query."""

    def weights(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, 1, L), zero where ``mask`` (B, L) is False."""
        weight = mask.to(tokens.dtype)
        return (weight / weight.sum(1, keepdim=True).clamp(min=1))[:, None]

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, 1, D) mean of ``tokens`` (B, L, D)."""
        return masked_mean(tokens, mask)[:, None]


class TextEnhancement(nn.Module):
    """The three branches; only those that a batch needs are computed.

    ``paper`` form (Eq. 1-5): interactive: a linear fusion of each token with one projection of all coordinates;
    referring: the tokens' attention pool; reasoning: mean of h pools plus a projection of each token, then Dropout
    and LayerNorm. ``official`` form (released weights): interactive: coordinate rows projected one by one, written
    to the first positions, then fused; referring: tokens times their pooling weights; reasoning: one fused vector
    from pools and mean, at every position.

    ``branch`` of the configuration sends all tasks through one branch; coordinates are then read from the words alone.

    The referring pool is shared with the final pooling of the model (spec 6, "official"), so it is passed in.
    """

    def __init__(self, width: int, config: TateConfig) -> None:
        super().__init__()
        self.config = config
        official = config.form == "official"
        self.coordinates = nn.Linear(4 if official else 4 * config.rows, width)
        self.fuse = nn.Linear(2 * width, width)
        self.queries = AttentionPool(width, config.queries)
        self.functional = nn.Linear(width, width)
        self.fusion = nn.Linear(2 * width, width) if official else None
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Tensor, mask: Tensor, task: Tensor, coordinates: Tensor, pool: AttentionPool | MeanPool
    ) -> Tensor:
        """Enhance.

        Args:
            tokens: (M, L, D) token states.
            mask: bool (M, L), True for real tokens.
            task: int64 (M,), see ``TASK_INDEX``.
            coordinates: (M, rows, 4) in [0, 1] of the image: a box ``x0, y0, x1, y1`` or points ``x, y, 0, 0``;
                absent rows are zero.
            pool: the referring branch's query.

        Returns:
            (M, L, D); padding positions are whatever falls out and must stay masked.
        """
        branches: dict[Task, Callable[[Any], Tensor]] = {
            Task.INTERACTIVE: lambda i: self._interactive(tokens[i], coordinates[i]),
            Task.REFERRING: lambda i: self._referring(tokens[i], mask[i], pool),
            Task.REASONING: lambda i: self._reasoning(tokens[i], mask[i]),
        }
        if self.config.branch != "task":
            task = torch.full_like(task, TASK_INDEX[Task(self.config.branch)])
        if torch.compiler.is_exporting():  # a graph has no branches: all are computed, one is taken
            every = [
                branches[name](slice(None)).expand_as(tokens) for name in sorted(branches, key=TASK_INDEX.__getitem__)
            ]
            out = torch.stack(every, 1)[torch.arange(len(tokens)), task]
            return tokens + out if self.config.residual else out
        out = torch.zeros_like(tokens)
        for name, branch in branches.items():
            index = (task == TASK_INDEX[name]).nonzero()[:, 0]
            if len(index):
                out = out.index_copy(0, index, branch(index).to(out.dtype))
        return tokens + out if self.config.residual else out

    def _interactive(self, tokens: Tensor, coordinates: Tensor) -> Tensor:
        if self.config.form == "official":
            rows = self.coordinates(coordinates)
            used = coordinates.abs().sum(-1, keepdim=True) > 0
            where = torch.zeros_like(tokens)
            n = min(rows.shape[1], tokens.shape[1])
            where[:, :n] = (rows * used)[:, :n].to(tokens.dtype)
        else:
            where = self.coordinates(coordinates.flatten(1))[:, None].expand(-1, tokens.shape[1], -1).to(tokens.dtype)
        out: Tensor = self.fuse(torch.cat([tokens, where], -1))
        return out

    def _referring(self, tokens: Tensor, mask: Tensor, pool: AttentionPool | MeanPool) -> Tensor:
        if self.config.form == "official":
            return tokens * pool.weights(tokens, mask).transpose(1, 2)
        pooled: Tensor = pool(tokens, mask)
        return pooled.expand_as(tokens)

    def _reasoning(self, tokens: Tensor, mask: Tensor) -> Tensor:
        pooled = self.queries(tokens, mask).mean(1)
        if self.fusion is None:
            enhanced = pooled[:, None] + self.functional(tokens)
        else:
            overview = masked_mean(self.functional(tokens), mask)
            enhanced = self.fusion(torch.cat([pooled, overview], -1))[:, None].expand_as(tokens)
        out: Tensor = self.norm(self.dropout(enhanced))
        return out
