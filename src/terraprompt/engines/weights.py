"""Weights on disk: safetensors beside a JSON file that says what they are, checked at load."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from terraprompt.errors import CheckpointError
from terraprompt.io.atomic import atomic_path, write_atomic
from terraprompt.io.files import translated
from terraprompt.io.identity import file_sha256

__all__ = ["load_weights", "packaged", "save_weights"]


def packaged(name: str) -> Path:
    """Path of ``<name>.safetensors`` inside the package.

    Raises:
        CheckpointError: the package was installed without it.
    """
    path = Path(str(resources.files("terraprompt.weights") / f"{name}.safetensors"))
    if not path.is_file():
        raise CheckpointError("The packaged weights are missing.", received=path, hint="Reinstall terraprompt.")
    return path


def save_weights(path: Path, state: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write half-precision weights and ``<path>.json`` with ``card`` plus checksum and size."""
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}
    with translated(path):
        with atomic_path(path) as temporary:
            try:
                save_file(half, temporary, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(str(error)) from error
        card = {**card, "sha256": file_sha256(path), "bytes": path.stat().st_size, "tensors": len(half)}
        write_atomic(path.with_suffix(".json"), json.dumps(card, indent=1) + "\n")


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights (as float32) and their card.

    Raises:
        CheckpointError: a file is missing, damaged or truncated, or the checksum is not the recorded one.
    """
    card_path = path.with_suffix(".json")
    for needed in (path, card_path):
        if not needed.is_file():
            raise CheckpointError(
                "A weights file is missing.", received=needed, hint="Both .safetensors and .json are needed."
            )
    try:
        card: dict[str, Any] = json.loads(card_path.read_text())
        expected = card["sha256"]
    except (ValueError, KeyError, TypeError) as error:  # no JSON, no text at all, or another JSON
        raise CheckpointError(
            "The weights' card is damaged.",
            received=f"{card_path}: {error}",
            hint="It must be the JSON file that was written beside the weights; install or download both again.",
        ) from error
    if (found := file_sha256(path)) != expected:
        raise CheckpointError(
            "The weights are damaged or were changed.",
            received=f"{path} with sha256 {found}",
            hint=f"Expected {expected}; install or download them again.",
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            "The weights cannot be read.", received=f"{path}: {error}", hint="A .safetensors file is needed."
        ) from error
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()}, card
