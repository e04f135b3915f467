"""A decoder-only language model of transformers as the start of a training: its folder to our reader (spec 5)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from terraprompt.errors import CheckpointError
from terraprompt.io.hub import weights_folder
from terraprompt.models.unigeoseg.config import CausalConfig, UniGeoSegConfig

__all__ = ["ADDED_TOKENS", "LanguageModel", "open_language"]

#: Added to the language model's tokenizer, in this order, where they are missing; [SEG] ends every instruction.
ADDED_TOKENS = ("[PAD]", "[SEG]")
_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
_NOT_OF_THE_NETWORK = {"use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "pretraining_tp"}
_SAID_BY_TRANSFORMERS = (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """A folder of a language model, opened; its weights are still to be read.

    Attributes:
        folder: where it lies.
        causal: configuration of our reader; the vocabulary is that of the tokenizer, added tokens included.
        width: of its states.
        tokenizer: of transformers, with the added tokens.
        added: tokens that the folder's own tokenizer lacked.
    """

    folder: Path
    causal: CausalConfig
    width: int
    tokenizer: Any
    added: tuple[str, ...]

    def reads_for(self, member: UniGeoSegConfig) -> UniGeoSegConfig:
        """The member with this language model in place of its own."""
        return replace(member, language="causal", causal=self.causal, language_width=self.width)

    def load(self) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Weights by our names in float32, and what of the folder is not used.

        The embeddings, and the head over the vocabulary (the embeddings themselves where the two are tied), get one
        row a token of the tokenizer: rows that no token has are cut, rows of added tokens begin as the mean.

        Raises:
            CheckpointError: transformers cannot load the weights, or they are not finite.
        """
        try:
            model = AutoModelForCausalLM.from_pretrained(str(self.folder), local_files_only=True, dtype=torch.float32)
        except _SAID_BY_TRANSFORMERS as error:
            raise _unreadable(self.folder, error) from error
        rows = int(self.causal.settings["vocab_size"])
        state = {f"reader.language.{name}": value for name, value in model.base_model.state_dict().items()}
        table = model.get_input_embeddings().weight
        [embedding] = [name for name, value in state.items() if value.data_ptr() == table.data_ptr()]
        head = model.get_output_embeddings()
        unused = []
        if rows < len(table):
            unused.append(f"rows {rows} to {len(table) - 1} of the embeddings")
        if getattr(head, "bias", None) is not None:
            unused.append("bias of the head over the vocabulary")
        state[embedding] = _resized(table, rows, len(self.added))
        state["reader.lm_head.weight"] = _resized(head.weight, rows, len(self.added))
        if bad := [name for name, value in state.items() if not bool(value.isfinite().all())]:
            raise CheckpointError("A tensor of the language model is not finite.", received=f"{self.folder}: {bad[0]}")
        return {name: value.detach() for name, value in state.items()}, tuple(unused)


def open_language(source: str | Path) -> LanguageModel:
    """Open a folder (or hub name) of a decoder-only language model, e.g. Phi-1.5.

    Raises:
        CheckpointError: no such folder, none of a decoder-only model, or it holds no tokenizer.
    """
    folder = weights_folder(source, patterns=_FILES, what="language model's weights are")
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        known = type(config) in AutoModelForCausalLM._model_mapping and not config.is_encoder_decoder
    except _SAID_BY_TRANSFORMERS as error:
        raise _unreadable(folder, error) from error
    if not known or not hasattr(config, "vocab_size"):
        raise CheckpointError(
            "The folder is not of a decoder-only language model.",
            received=f"{folder}: {config.model_type}",
            hint="Take one that transformers loads as AutoModelForCausalLM, such as microsoft/phi-1_5.",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except _SAID_BY_TRANSFORMERS as error:
        raise _unreadable(folder, error) from error
    added = tuple(token for token in ADDED_TOKENS if token not in tokenizer.get_vocab())
    tokenizer.add_special_tokens({"pad_token": ADDED_TOKENS[0]})
    tokenizer.add_tokens([ADDED_TOKENS[1]])
    meta = PreTrainedConfig().to_dict().keys() | _NOT_OF_THE_NETWORK
    settings = {name: value for name, value in config.to_dict().items() if name not in meta}
    settings["vocab_size"] = max(tokenizer.get_vocab().values()) + 1
    causal = CausalConfig(config.model_type, json.loads(json.dumps(settings)))
    return LanguageModel(folder, causal, int(config.hidden_size), tokenizer, added)


def _resized(table: Tensor, rows: int, added: int) -> Tensor:
    """``rows`` rows; those of the last ``added`` tokens, and those that ``table`` lacks, are the mean of the others."""
    kept = table.detach()[: rows - added]
    return torch.cat([kept, kept.mean(0, keepdim=True).expand(rows - len(kept), -1)]).contiguous()


def _unreadable(folder: Path, error: BaseException) -> CheckpointError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        "The language model cannot be read.",
        received=f"{folder}: {said}",
        hint="A folder of transformers is needed: config.json, weights, and the tokenizer's files.",
    )
