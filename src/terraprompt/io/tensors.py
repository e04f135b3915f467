"""Files of tensors by name, read without running what a pickle names."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from terraprompt.errors import CheckpointError

__all__ = ["load_pickled_tensors"]


def load_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.bin``, ``.pt`` or ``.pth`` that holds nothing else, on the CPU, mapped where that is possible.

    Raises:
        CheckpointError: damaged, truncated, or not tensors by name alone.
    """
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped and (broken := zipfile.ZipFile(path).testzip()) is not None:
            raise CheckpointError("A shard is damaged.", received=f"{path}: checksum of {broken}")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, KeyError, OSError) as error:
        said = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            "A shard cannot be read as tensors.",
            received=f"{path}: {type(error).__name__} {said[0] if said else ''}",
            hint="It is truncated, damaged, or holds code; download it again from its authors.",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError("A shard holds more than tensors by name.", received=path)
    return dict(state)
