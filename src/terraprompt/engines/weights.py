"""Weights on disk: safetensors beside a JSON file that says what they are, checked at load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from terraprompt.engines.base import ModelInfo
from terraprompt.errors import CheckpointError
from terraprompt.io.atomic import atomic_path, write_atomic
from terraprompt.io.files import translated
from terraprompt.io.identity import file_sha256
from terraprompt.language.categories import training_vocabulary

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["card_categories", "card_info", "load_arrays", "load_weights", "packaged", "save_weights"]


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
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu().numpy() for k, v in state.items()}
    with translated(path):
        with atomic_path(path) as temporary:
            try:
                save_file(half, temporary, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(str(error)) from error
        card = {**card, "sha256": file_sha256(path), "bytes": path.stat().st_size, "tensors": len(half)}
        write_atomic(path.with_suffix(".json"), json.dumps(card, indent=1) + "\n")


def load_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read weights (as float32) and their card, without torch.

    Raises:
        CheckpointError: a file is missing, damaged or truncated, or the checksum is not the recorded one.
    """
    card_path = path.with_suffix(".json") if path.name else path  # "." has no name
    for needed in (path, card_path):
        if not needed.is_file():
            raise CheckpointError(
                "A weights file is missing.", received=needed, hint="Both .safetensors and .json are needed."
            )
    try:
        card: dict[str, Any] = json.loads(card_path.read_text())
        expected = card["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # no JSON, no text, or another JSON
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
    state = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in state.items()}
    spoilt = [name for name, value in state.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if spoilt:
        raise CheckpointError(
            "The weights hold numbers that are not finite.",
            received=f"{path}: {', '.join(spoilt[:3])}",
            hint="The training that wrote them failed; take an earlier checkpoint.",
        )
    return state, card


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As :func:`load_arrays`, in tensors."""
    import torch

    state, card = load_arrays(path)
    return {name: torch.from_numpy(value) for name, value in state.items()}, card


def card_info(card: Mapping[str, Any], path: Path, name: str, settings: dict[str, Any]) -> ModelInfo:
    """What the card of the weights at ``path`` says of them, for an engine that runs as ``settings`` say.

    Raises:
        CheckpointError: the card is damaged.
    """
    try:
        gsd = tuple(map(float, card.get("gsd_m", ())))
    except (TypeError, ValueError) as error:
        raise CheckpointError("The weights' card is damaged.", received=f"{path}: gsd_m {card['gsd_m']}") from error
    return ModelInfo(
        name, str(card.get("revision", "")), str(card["sha256"]), settings,
        (gsd[0], gsd[1]) if len(gsd) == 2 else None, str(card.get("gsd_note", "")),
        tuple(map(str, card.get("limits", ()))),
    )  # fmt: skip


def card_categories(card: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Categories that the card says were learnt; all of the training vocabulary where it says nothing.

    Raises:
        CheckpointError: the card is damaged.
    """
    known = training_vocabulary().categories
    named = card.get("categories", list(known))
    if not isinstance(named, list) or not named or set(map(str, named)) - set(known):
        raise CheckpointError("The weights' card is damaged.", received=f"{path}: categories {named}")
    return tuple(name for name in known if name in named)
