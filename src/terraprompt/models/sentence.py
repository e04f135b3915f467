"""The frozen sentence encoder that reads instructions for ``nano``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from terraprompt.models.sentence_files import open_sentence_encoder

__all__ = ["SentenceEncoder", "packaged_sentence_encoder"]


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2: 6 layers, width 384, frozen; gives the states of every token of a sentence.

    Args:
        folder, verify: see :func:`~terraprompt.models.sentence_files.open_sentence_encoder`.
    """

    def __init__(self, folder: Path | None = None, *, verify: bool = True) -> None:
        super().__init__()
        folder, self.tokenizer = open_sentence_encoder(folder, verify=verify)
        self.tokenizer.enable_padding()
        config = BertConfig.from_json_file(str(folder / "config.json"))
        self.bert = BertModel(config, add_pooling_layer=False)
        state = {
            k: v.float() for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("pooler.")
        }
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
