"""A decoder-only language model in GGUF (llama.cpp's format) to a folder of transformers, weights dequantised."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from terraprompt.errors import CheckpointError
from terraprompt.io.atomic import atomic_folder

__all__ = ["GgufConversion", "convert_gguf", "is_gguf"]

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class GgufConversion:
    """What a conversion wrote.

    Attributes:
        model_type: of transformers, e.g. "llama".
        parameters: of the network; tied embeddings count once.
        vocabulary: tokens of its tokenizer.
    """

    model_type: str
    parameters: int
    vocabulary: int


def is_gguf(source: str | Path) -> bool:
    """Whether this is a file that begins as GGUF does."""
    path = Path(source)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def convert_gguf(
    source: str | Path, target: Path, *, dtype: str | None = None, overwrite: bool = False
) -> GgufConversion:
    """Write a folder of transformers: ``config.json``, safetensors and the tokenizer; it appears at the end, whole.

    Such a folder is what a causal member can begin with (``terraprompt train --language``).

    Args:
        source: GGUF with a tokenizer, of an architecture that transformers reads. Needs the package gguf.
        target: folder.
        dtype: "float16", "bfloat16" or "float32" on disk; None = float32, which keeps what the quantised weights mean.
        overwrite: replace it.

    Raises:
        CheckpointError: damaged, of another architecture, without tokenizer or without a finite tensor; gguf is not
            installed; or ``target`` exists.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise CheckpointError("Unknown precision.", received=dtype, hint=f"Known: {', '.join(_DTYPES)}.")
    if target.exists() and not overwrite:
        raise CheckpointError("The target exists.", received=target, hint="Choose another, or pass --overwrite.")
    path = Path(source)
    # newer versions leave weights packed, older ones know no such setting
    packed = getattr(transformers, "GgufConfig", None)
    options = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, local_files_only=True, dtype=_DTYPES[dtype or "float32"], **options
        )
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    except ImportError as error:
        raise CheckpointError("Reading GGUF needs the package gguf.", received=path, hint="pip install gguf") from error
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        RuntimeError,
        struct.error,
        NotImplementedError,
    ) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            "This GGUF cannot be read.",
            received=f"{path}: {said}",
            hint="It must be whole, of a decoder-only model that transformers knows, with its tokenizer.",
        ) from error
    if bad := next((name for name, value in model.named_parameters() if not bool(value.isfinite().all())), None):
        raise CheckpointError("A tensor is not finite.", received=f"{path}: {bad}")
    if hasattr(model.config, "quantization_config"):  # the weights are plain numbers now
        del model.config.quantization_config
    model.hf_quantizer = None
    with atomic_folder(target) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    parameters = sum(value.numel() for value in model.parameters())
    return GgufConversion(model.config.model_type, parameters, len(tokenizer))
