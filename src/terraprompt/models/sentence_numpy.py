"""The sentence encoder in numpy: a sentence has a dozen tokens, so a laptop needs nothing larger to read it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import erf, softmax

from terraprompt.models.sentence_files import open_sentence_encoder

__all__ = ["NumpySentenceEncoder", "packaged_numpy_encoder"]

_Floats = NDArray[np.float32]


class NumpySentenceEncoder:
    """BERT (Devlin et al., 2019) with GELU, post-norm, without its pooler, for one sentence at a time.

    Args:
        folder, verify: see :func:`~terraprompt.models.sentence_files.open_sentence_encoder`.

    Attributes:
        tokenizer: of the sentences, which are read in lower case.
    """

    def __init__(self, folder: Path | None = None, *, verify: bool = True) -> None:
        folder, self.tokenizer = open_sentence_encoder(folder, verify=verify)
        config = json.loads((folder / "config.json").read_text())
        self._layers, self._heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        self._eps = float(config["layer_norm_eps"])
        self._weights = {k: v.astype(np.float32) for k, v in load_file(folder / "model.safetensors").items()}

    def __call__(self, sentence: str) -> _Floats:
        """States of the tokens of a sentence, float32 (L, D)."""
        ids = self.tokenizer.encode(sentence.lower()).ids
        table = {k: self._weights[f"embeddings.{k}_embeddings.weight"] for k in ("word", "position", "token_type")}
        x = self._norm(
            table["word"][ids] + table["position"][: len(ids)] + table["token_type"][0], "embeddings.LayerNorm"
        )
        for layer in range(self._layers):
            at = f"encoder.layer.{layer}"
            x = self._norm(x + self._attention(x, f"{at}.attention"), f"{at}.attention.output.LayerNorm")
            hidden = self._linear(x, f"{at}.intermediate.dense")
            hidden = (hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))).astype(np.float32)
            x = self._norm(x + self._linear(hidden, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        return x

    def _attention(self, x: _Floats, at: str) -> _Floats:
        q, k, v = (
            self._linear(x, f"{at}.self.{name}").reshape(len(x), self._heads, -1).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        weights = softmax(q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1])), axis=-1)
        return self._linear((weights @ v).swapaxes(0, 1).reshape(len(x), -1), f"{at}.output.dense")

    def _linear(self, x: _Floats, at: str) -> _Floats:
        out: _Floats = x @ self._weights[f"{at}.weight"].T + self._weights[f"{at}.bias"]
        return out

    def _norm(self, x: _Floats, at: str) -> _Floats:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(self._eps))
        out: _Floats = scaled * self._weights[f"{at}.weight"] + self._weights[f"{at}.bias"]
        return out


@lru_cache(maxsize=1)
def packaged_numpy_encoder() -> NumpySentenceEncoder:
    """The installed encoder, loaded and verified once a process."""
    return NumpySentenceEncoder()
