"""Converted checkpoints: a folder or a hub name to a loaded model, checked on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor

from terraprompt.engines.convert import FORMAT
from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.io.identity import file_sha256
from terraprompt.models.unigeoseg.config import UniGeoSegConfig
from terraprompt.models.unigeoseg.model import UniGeoSeg

__all__ = ["load_converted"]

_HEAVY = ("vision.", "reader.")
_LM_HEAD = "reader.lm_head."


def load_converted(
    folder: Path, *, dtype: torch.dtype = torch.float32, lm_head: bool = False, verify: bool = True
) -> tuple[UniGeoSeg, dict[str, Any]]:
    """The model in a folder that ``terraprompt models convert`` wrote, in eval mode, and its provenance.

    Args:
        folder: holds ``provenance.json``, ``config.json`` and the shards.
        dtype: of vision and language; the decoders stay in float32.
        lm_head: also load the head over the vocabulary, which only training needs.
        verify: read every shard once more to compare its checksum.

    Raises:
        CheckpointError: not such a folder, or a file of it is missing, damaged or changed.
    """
    if not (folder / "provenance.json").is_file():
        raise CheckpointError(
            "This folder was not written by the converter.",
            received=folder,
            hint=f"Released weights are converted once: terraprompt models convert {folder} DST",
        )
    try:
        provenance: dict[str, Any] = json.loads((folder / "provenance.json").read_text())
        files: dict[str, dict[str, Any]] = provenance["files"]
        config = UniGeoSegConfig.from_dict(json.loads((folder / "config.json").read_text()))
        known = provenance["format"]
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError("The description of the weights is damaged.", received=f"{folder}: {error}") from error
    if known != FORMAT:
        raise CheckpointError("The folder is of another format.", received=known, hint=f"Expected {FORMAT}.")
    for name, facts in files.items():
        _check(folder / Path(name).name, facts, verify=verify)
    if config.causal is not None and not lm_head:
        config = replace(config, causal=replace(config.causal, lm_head=False))
    with init_empty_weights(include_buffers=False):
        model = UniGeoSeg(config)
    state: dict[str, Tensor] = {}
    for name in files:
        try:
            with safe_open(folder / Path(name).name, framework="pt") as shard:
                for key in shard.keys():  # noqa: SIM118 (not a mapping)
                    if lm_head or not key.startswith(_LM_HEAD):
                        state[key] = shard.get_tensor(key).to(dtype if key.startswith(_HEAVY) else torch.float32)
        except SafetensorError as error:
            raise CheckpointError("A shard cannot be read.", received=f"{folder / name}: {error}") from error
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise CheckpointError("The weights are of another architecture.", received=f"{folder}: {said}") from error
    return model.requires_grad_(False).eval(), provenance


def _check(path: Path, facts: dict[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise CheckpointError("A shard is missing.", received=path, hint="Convert the released weights again.")
    if path.stat().st_size != facts["bytes"]:
        raise CheckpointError(
            "A shard is truncated or was changed.", received=path, hint="Convert the released weights again."
        )
    if verify:
        found = file_sha256(path)
        if found != facts["sha256"]:
            raise CheckpointError(
                "A shard is damaged or was changed.",
                received=f"{path} with sha256 {found}",
                hint="Convert the released weights again.",
            )
