"""A decoder-only language model reads image and instruction in one sentence (spec 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, Cache
from transformers.cache_utils import CacheLayerMixin

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.config import UniGeoSegConfig
from terraprompt.models.unigeoseg.connector import build_connector

__all__ = ["CausalReader", "Context", "Dialogue", "Reading"]

#: Tokens in, tokens of the same shape out: the text enhancement with everything but the tokens given.
Enhance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """M instructions about B images, as token ids: ``prefix | image | template | tokens``.

    Attention is causal, so what follows an instruction changes no mask: to segment, ``tokens`` ends with it.

    Attributes:
        prefix: int64 (P,), the words before the image.
        template: int64 (T,), the words between image and instruction.
        tokens: int64 (M, L), the instruction (its last id is [SEG]) and, to train, all that follows; right-padded.
        refer: bool (M, L), True at the instruction.
        task: int64 (M,), see ``TASK_INDEX``.
        coordinates: (M, rows, 4) in [0, 1] of the picture before the letterbox, zero where absent.
        image: int64 (M,), the image that each is about.
        labels: int64 (M, L), the ids to learn and -100 elsewhere, or None.
    """

    prefix: Tensor
    template: Tensor
    tokens: Tensor
    refer: Tensor
    task: Tensor
    coordinates: Tensor
    image: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device | str) -> Dialogue:
        """The same on another device."""
        parts = {name: getattr(self, name) for name in self.__slots__}
        moved = {name: part.to(device, non_blocking=True) for name, part in parts.items() if part is not None}
        return replace(self, **moved)


class Context(NamedTuple):
    """What the language model keeps of a beginning that it has read: keys and values (B, heads, n, d) a layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Tokens read."""
        return int(self.layers[0][0].shape[2])

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)

    def rows(self, index: Tensor) -> Context:
        """One row for each entry of ``index`` int64 (M,)."""
        return Context(tuple((k[index], v[index]) for k, v in self.layers))

    def part(self, row: int, start: int, stop: int) -> Context:
        """The positions from ``start`` to ``stop`` of one row, copied."""
        one = slice(row, row + 1)
        return Context(tuple((k[one, :, start:stop].clone(), v[one, :, start:stop].clone()) for k, v in self.layers))

    @staticmethod
    def stack(contexts: Sequence[Context]) -> Context:
        """Contexts of one length as one batch."""
        layers = zip(*(c.layers for c in contexts), strict=True)
        return Context(tuple((torch.cat([k for k, _ in of]), torch.cat([v for _, v in of])) for of in layers))


class _Continued(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: those of beginnings, joined when they are looked at, and those of what is read now.

    Beginnings are joined layer by layer and not kept, and one row stands for as many as are read: a batch costs the
    memory of one layer.
    """

    is_sliding = False

    def __init__(self, beginnings: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.beginnings = beginnings

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        count = len(key_states)

        def joined(which: int, fresh: Tensor) -> Tensor:
            return torch.cat([*(pair[which].expand(count, -1, -1, -1) for pair in self.beginnings), fresh], 2)

        return joined(0, key_states), joined(1, value_states)

    def get_seq_length(self) -> int:
        return sum(int(k.shape[2]) for k, _ in self.beginnings)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class Reading(NamedTuple):
    """What came out.

    Attributes:
        states: (M, L, D) last hidden states at ``Dialogue.tokens``.
        context: of what was read in this call, without the beginnings, if the call was given any; else None.
    """

    states: Tensor
    context: Context | None


class CausalReader(nn.Module):
    """Connector and language model: any decoder-only model of transformers whose base model takes embeddings."""

    def __init__(self, config: UniGeoSegConfig) -> None:
        super().__init__()
        causal, connector = config.causal, config.connector
        if causal is None or connector is None:
            raise ConfigError("A causal reader needs causal and connector.", received=config.name)
        settings = AutoConfig.for_model(causal.model_type, **causal.settings)
        width = int(settings.hidden_size)
        if width != config.language_width:
            raise ConfigError("language_width is not the language model's.", received=(config.language_width, width))
        self.scope = config.tate.scope if config.tate else None
        self.connector = build_connector(connector, config.vision.channels[-1], width, config.vision.size // 32)
        self.language = AutoModel.from_config(settings, attn_implementation="sdpa")
        self.lm_head = nn.Linear(width, int(settings.vocab_size), bias=False) if causal.lm_head else None

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model."""
        weight: Tensor = self.language.get_input_embeddings().weight
        return weight.dtype

    def begin(self, prefix: Tensor) -> Context:
        """Read ``prefix`` int64 (P,), which nothing changes: one row."""
        _, context = self._read([self._embed(prefix)[None]], [])
        assert context is not None
        return context

    def open(self, res5: Tensor, begun: Context) -> Context:
        """Read B images, which no instruction changes, after what :meth:`begin` read; ``res5`` (B, c, h, w).

        The context that comes back is of the images alone.
        """
        _, context = self._read([self._look(res5)], [begun])
        assert context is not None
        return context

    def forward(
        self,
        dialogue: Dialogue,
        res5: Tensor | None,
        enhance: Enhance | None = None,
        *,
        after: Sequence[Context] | None = None,
        template: bool = True,
    ) -> Reading:
        """Read to the end of ``dialogue.tokens``.

        Args:
            dialogue: M instructions.
            res5: (B, c, h, w); None if ``after`` holds the images.
            enhance: the text enhancement of these M instructions.
            after: what was read before, each of M rows or of one that stands for all; None reads everything, the
                prefix too, in one pass (to train).
            template: whether the template is still to be read.
        """
        count = len(dialogue.tokens)
        parts = []
        if after is None:
            if res5 is None:
                raise ConfigError("Without a context the image features are needed.")
            parts.append(self._embed(dialogue.prefix).expand(count, -1, -1))
        if res5 is not None:
            parts.append(self._look(res5)[dialogue.image])
        if template:
            words = self._embed(dialogue.template).expand(count, -1, -1)
            if enhance is not None and self.scope == "template":
                words = enhance(words, torch.ones(words.shape[:2], dtype=torch.bool, device=words.device))
            parts.append(words)
        words = self._embed(dialogue.tokens)
        if enhance is not None and self.scope == "instruction":
            words = torch.where(dialogue.refer[..., None], enhance(words, dialogue.refer).to(words.dtype), words)
        states, context = self._read([*parts, words], after)
        return Reading(states[:, -words.shape[1] :], context)

    def answer_loss(self, states: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each label against the state before it; ``states`` (M, L, D), ``labels`` (M, L)."""
        if self.lm_head is None:
            raise ConfigError("The head over the vocabulary was left out.", hint="Build with causal.lm_head = True.")
        wanted = labels[:, 1:]
        learned = wanted != -100
        logits: Tensor = self.lm_head(states[:, :-1][learned])
        return F.cross_entropy(logits.float(), wanted[learned])

    def _embed(self, ids: Tensor) -> Tensor:
        words: Tensor = self.language.get_input_embeddings()(ids)
        return words

    def _look(self, res5: Tensor) -> Tensor:
        tokens: Tensor = self.connector(res5.to(self.dtype))
        return tokens

    def _read(self, parts: Sequence[Tensor], after: Sequence[Context] | None) -> tuple[Tensor, Context | None]:
        # Padding is on the right and attention causal: no mask is needed, and SDPA takes its causal path.
        words = torch.cat([part.to(self.dtype) for part in parts], 1)
        if after is None:
            return self.language(inputs_embeds=words, use_cache=False).last_hidden_state, None
        layers = range(self.language.config.num_hidden_layers)
        cache = Cache(layers=[_Continued([context.layers[i] for context in after]) for i in layers])
        out = self.language(inputs_embeds=words, past_key_values=cache, use_cache=True)
        return out.last_hidden_state, Context(tuple((layer.keys, layer.values) for layer in cache.layers))
