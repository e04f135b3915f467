"""A decoder-only language model reads image and instruction in one sentence (spec 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, DynamicCache

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

    def tokens(self, start: int, stop: int) -> Context:
        """The positions from ``start`` to ``stop``, copied."""
        return Context(tuple((k[:, :, start:stop].clone(), v[:, :, start:stop].clone()) for k, v in self.layers))

    def then(self, *others: Context) -> Context:
        """This and what was read after it; one row stands for as many as another has."""
        parts = (self, *others)
        count = max(len(part.layers[0][0]) for part in parts)

        def join(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([t.expand(count, -1, -1, -1) for t in tensors], 2)

        layers = zip(*(part.layers for part in parts), strict=True)
        return Context(tuple((join([k for k, _ in of]), join([v for _, v in of])) for of in layers))

    @staticmethod
    def stack(contexts: Sequence[Context]) -> Context:
        """Contexts of one length as one batch."""
        layers = zip(*(c.layers for c in contexts), strict=True)
        return Context(tuple((torch.cat([k for k, _ in of]), torch.cat([v for _, v in of])) for of in layers))


class Reading(NamedTuple):
    """What came out.

    Attributes:
        states: (M, L, D) last hidden states at ``Dialogue.tokens``.
        context: of all that was read, in a call that was given one; else None.
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
        _, context = self._read([self._embed(prefix)[None]], Context(()))
        assert context is not None
        return context

    def open(self, res5: Tensor, begun: Context) -> Context:
        """Read B images, which no instruction changes, after what :meth:`begin` read; ``res5`` (B, c, h, w).

        The context that comes back is of the images alone.
        """
        images = self._look(res5)
        _, context = self._read([images], begun.rows(torch.zeros(len(images), dtype=torch.int64, device=res5.device)))
        assert context is not None
        return context.tokens(begun.length, context.length)

    def forward(
        self,
        dialogue: Dialogue,
        res5: Tensor | None,
        enhance: Enhance | None = None,
        *,
        context: Context | None = None,
        template: bool = True,
    ) -> Reading:
        """Read to the end of ``dialogue.tokens``.

        Args:
            dialogue: M instructions.
            res5: (B, c, h, w); not needed with a context.
            enhance: the text enhancement of these M instructions.
            context: of M rows, to go on from; None reads everything in one pass (to train).
            template: whether the template is still to be read.
        """
        count = len(dialogue.tokens)
        parts = []
        if context is None:
            if res5 is None:
                raise ConfigError("Without a context the image features are needed.")
            parts += [self._embed(dialogue.prefix).expand(count, -1, -1), self._look(res5)[dialogue.image]]
        if template:
            words = self._embed(dialogue.template).expand(count, -1, -1)
            if enhance is not None and self.scope == "template":
                words = enhance(words, torch.ones(words.shape[:2], dtype=torch.bool, device=words.device))
            parts.append(words)
        words = self._embed(dialogue.tokens)
        if enhance is not None and self.scope == "instruction":
            words = torch.where(dialogue.refer[..., None], enhance(words, dialogue.refer).to(words.dtype), words)
        states, context = self._read([*parts, words], context)
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

    def _read(self, parts: Sequence[Tensor], context: Context | None) -> tuple[Tensor, Context | None]:
        # Padding is on the right and attention causal: no mask is needed, and SDPA takes its causal path.
        words = torch.cat([part.to(self.dtype) for part in parts], 1)
        cache: Any = None if context is None else DynamicCache(context.layers or None)
        out = self.language(inputs_embeds=words, past_key_values=cache, use_cache=cache is not None)
        read = None if cache is None else Context(tuple((layer.keys, layer.values) for layer in cache.layers))
        return out.last_hidden_state, read
