"""The rule that fills parameters for the golden numbers, and the numbers themselves; see ``tests/golden/README.md``."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden"


def golden_tensor(name: str, *shape: int) -> Tensor:
    """Parameter ``name`` of the golden model: normal numbers seeded by the name, scaled by kind."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    x = np.random.Generator(np.random.PCG64(seed)).standard_normal(size=shape, dtype=np.float32)
    leaf = name.rsplit(".", 1)[-1]
    offset = 0.0
    if name == "model.embed_tokens.weight" or leaf in ("query", "multi_query"):
        scale = 1.0
    elif leaf in ("bias", "global_latents"):
        scale = 0.05
    elif len(shape) == 1:  # the gain of a norm
        scale, offset = 0.1, 1.0
    else:
        scale = 1 / math.sqrt(math.prod(shape[1:]))
    x *= np.float32(scale)
    x += np.float32(offset)
    return torch.from_numpy(x)


@cache
def golden_parts() -> dict[str, np.ndarray]:
    """Everything in ``unigeoseg_parts.npz``."""
    with np.load(FOLDER / "unigeoseg_parts.npz") as stored:
        return {name: stored[name] for name in stored.files}
