"""Half precision where the weight is: in the encoders. Everything behind them stays in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from terraprompt.errors import ConfigError

__all__ = ["Lowered", "precision_of"]

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(name: str) -> torch.dtype:
    """The dtype of "fp32", "bf16" or "fp16".

    Raises:
        ConfigError: another name.
    """
    if name not in _PRECISIONS:
        raise ConfigError("Unknown precision.", received=name, hint=f"Known: {', '.join(_PRECISIONS)}.")
    return _PRECISIONS[name]


class Lowered(nn.Module):
    """Runs ``inner`` in ``dtype`` behind float32 inputs and outputs.

    Prompt coordinates must not be lowered: bfloat16 holds a coordinate of a 1024 grid only to about 4 pixels.
    """

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = inner.to(dtype)
        self.dtype = dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with lowered floats; its outputs are float32."""
        out = self.inner(
            *(_cast(a, self.dtype) for a in args), **{key: _cast(value, self.dtype) for key, value in kwargs.items()}
        )
        for key, value in out.items():  # a ModelOutput of transformers
            out[key] = _cast(value, torch.float32)
        return out


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    if isinstance(value, list | tuple):
        return type(value)(_cast(item, dtype) for item in value)
    return value
