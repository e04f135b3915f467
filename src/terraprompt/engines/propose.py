"""Base of the engines that propose: a reasoner says where a text's targets are, a frozen segmenter draws them.

A session shows the reasoner an overview and looks at each of its proposals at native resolution; :meth:`predict` does
the whole for a single image.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer, Embedding, Engine, ModelInfo, Proposals, TileSpec, check_pairs
from terraprompt.engines.registry import engine_names, load_engine
from terraprompt.errors import BudgetError, ConfigError, EngineError, LimitError, ReasonerError
from terraprompt.io.text import sanitize_text
from terraprompt.prompt import Prompt, Task
from terraprompt.segmenters import PromptableSegmenter, SegmenterEmbedding, load_segmenter
from terraprompt.segmenters.from_engine import UniGeoSegSegmenter
from terraprompt.vlm.ask import AskLimits, Reading
from terraprompt.vlm.base import Reasoner, Reply
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.conventions import Convention
from terraprompt.vlm.open import open_reasoner
from terraprompt.vlm.probe import Settled, settled_convention

__all__ = ["ABSENT", "REMARK", "ProposingEngine", "ReasonerOptions", "Window", "evidence_text", "load_mask_segmenter"]

#: Logit where nothing is drawn.
ABSENT = -30.0
#: Characters of a remark or a name.
REMARK = 300
_VLM_ENGINES = ("geoseg", "think2seg")
#: The SAM family sees squares of about 1024 pixels, and encoding one costs far more than a prompt.
_SAM_TILE = TileSpec(size=1024, overlap=128, multiple=1, batch=8, shared=True, resizes=True)
_LONGEST = 20_000  # characters of a text that are kept as evidence
_T = TypeVar("_T")


@dataclass(slots=True)
class Window:
    """An image and its embedding.

    Attributes:
        image: RGB uint8 (H, W, 3).
        embedding: by the segmenter; None until it is needed.
        calls, seconds: of embedding it, until an answer takes them on its account.
    """

    image: NDArray[np.uint8]
    embedding: SegmenterEmbedding | None = None
    calls: int = 0
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Memory held by image and embedding."""
        return self.image.nbytes + (0 if self.embedding is None else self.embedding.nbytes)


class ProposingEngine(Generic[_T]):
    """Answers texts through a reasoner, points and boxes by the segmenter alone.

    Subclasses say how the reasoner is asked (:meth:`ask`), what its targets are as prompts and as evidence, and how
    prompts are drawn.

    Args:
        reasoner: that is asked; first about a picture whose answer is known, unless its units were named
            (:func:`terraprompt.vlm.probe.settled_convention`).
        segmenter: draws.
        limits: on questions about one image and their targets.
        max_seconds: after which a query fails; None = any.
        tile: how scenes are cut; None = what suits the segmenter.
    """

    name: ClassVar[str]
    tasks = frozenset(Task)
    #: Of its proposals, see :class:`terraprompt.engines.base.Proposals`.
    certain: ClassVar[bool] = False
    info: ModelInfo

    def __init__(
        self,
        reasoner: Reasoner,
        segmenter: PromptableSegmenter,
        limits: AskLimits,
        *,
        max_seconds: float | None = None,
        tile: TileSpec | None = None,
    ) -> None:
        self.reasoner, self.segmenter, self.limits, self.max_seconds = reasoner, segmenter, limits, max_seconds
        self.tile = tile or default_tile_spec(segmenter)

    @property
    def parts(self) -> dict[str, Any]:
        """Settings that both engines record: reasoner, segmenter and limits."""
        asked, draws = self.reasoner.info, self.segmenter.info
        return {
            "reasoner": {"kind": asked.name, "model": asked.model, "where": asked.where, **asked.settings},
            "segmenter": {"name": draws.name, **draws.settings},
            "tries": self.limits.tries,
            "limit": self.limits.limit,
            "overlap_iou": self.limits.overlap,
        }

    # What the two engines differ in

    def ask(
        self, image: NDArray[np.uint8], instruction: str, convention: Convention, deadline: float | None
    ) -> Reading[_T]:
        """Ask the reasoner about an image."""
        raise NotImplementedError

    def prompt(self, target: _T) -> Prompt:
        """A target as a prompt, in pixels of the image."""
        raise NotImplementedError

    def evidence(self, reading: Reading[_T]) -> dict[str, Any]:
        """JSON values on the targets of a reading, beside those of all engines."""
        raise NotImplementedError

    def refusal(self, calls: int, targets: int) -> str:
        """Why so many targets may not be drawn after so many calls of the reasoner; "" if they may."""
        return ""

    def draw(self, window: Window, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Draw proposals, one answer each, in order."""
        raise NotImplementedError

    def draw_pointed(self, window: Window, prompts: Sequence[Prompt]) -> list[Answer]:
        """Draw what a user points at."""
        plain = [replace(prompt, text=None, task_override=None) for prompt in prompts]
        drawn = self.segmenter.predict(self.embedding_of(window), plain)
        return [Answer(answer.logits, answer.presence, {"score": answer.score}) for answer in drawn]

    def notes_of(self, prompts: Sequence[Prompt], drawn: Sequence[Answer], notes: Mapping[str, Any]) -> dict[str, Any]:
        """Notes of a text's answer, beside ``notes`` of its proposals."""
        raise NotImplementedError

    # The scene, as a whole

    def overview(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the reasoner is shown an image of ``size``."""
        return self.reasoner.convention.view.size(size)

    def propose(self, image: NDArray[np.uint8], instruction: str) -> Proposals:
        """Ask the reasoner; see :meth:`terraprompt.engines.base.Proposer.propose`.

        A reasoner that cannot be reached, refuses, or gives no usable answer is a failed proposal with the reason, and
        so is a query that passes its limits.
        """
        deadline = None if self.max_seconds is None else time.monotonic() + self.max_seconds
        try:
            settled = self.convention((image.shape[0], image.shape[1]))
            if settled.fault:
                return Proposals("failed", reason=evidence_text(settled.fault), notes={"units_from": settled.how})
            reading = self.ask(image, instruction, settled.convention, deadline)
        except BudgetError:
            raise
        except (ReasonerError, LimitError) as error:
            return Proposals("failed", reason=evidence_text(str(error)))
        shown = self.overview((image.shape[0], image.shape[1]))
        notes = {
            "think": evidence_text(reading.reasoning),
            "units": reading.convention.units.value,
            **({"units_from": settled.how} if settled.how else {}),
            "shown": {"width": shown[1], "height": shown[0]},
            "verdicts": list(reading.verdicts),
            "mended": [evidence_text(note, REMARK) for note in reading.notes],
            "replies": [_reply_to_json(reply) for reply in reading.replies],
            **_usage(reading.replies),
            **self.evidence(reading),
        }
        mended = (evidence_text(note, REMARK) for note in reading.notes)
        remarks = (*getattr(self.reasoner, "remarks", ()), *([settled.remark] if settled.remark else []), *mended)
        if reading.status == "failed":
            return Proposals("failed", reason=evidence_text(reading.reason), notes=notes, remarks=remarks)
        if reading.status == "no_target":
            reason = _no_target_reason(reading.reasoning)
            return Proposals("no_target", reason=reason, notes=notes, remarks=remarks)
        if deadline is not None and time.monotonic() > deadline:
            late = f"The query took more than {self.max_seconds:g} seconds before anything was drawn."
            return Proposals("failed", reason=late, notes=notes)
        if refused := self.refusal(notes["calls"], len(reading.targets)):
            return Proposals("failed", reason=refused, notes=notes)
        prompts = tuple(map(self.prompt, reading.targets))
        return Proposals("found", prompts, notes=notes, deadline=deadline, remarks=remarks, certain=self.certain)

    def convention(self, size: tuple[int, int]) -> Settled:
        """How to read coordinates about an image of ``size`` (height, width)."""
        return settled_convention(self.reasoner, size)

    # One image

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode RGB uint8 images (H, W, 3) for the segmenter; the reasoner is not asked."""
        windows = [Window(image) for image in images]
        self.embed(windows)
        return [Embedding((w.image.shape[0], w.image.shape[1]), w, w.nbytes) for w in windows]

    def embed(self, windows: Sequence[Window]) -> None:
        """Embed images by the segmenter."""
        started = time.monotonic()
        made = self.segmenter.embed([window.image for window in windows])
        each = (time.monotonic() - started) / max(len(windows), 1)
        for window, embedding in zip(windows, made, strict=True):
            window.embedding, window.calls, window.seconds = embedding, 1, each

    def embedding_of(self, window: Window) -> SegmenterEmbedding:
        """The segmenter's embedding, made now if it is missing."""
        if window.embedding is None:
            ProposingEngine.embed(self, [window])
        assert window.embedding is not None
        return window.embedding

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer ``prompts[i]`` on ``embeddings[i]``.

        A text is asked of the reasoner, about this image alone; its targets are drawn and joined. The notes of the
        answer hold the evidence, with "boxes" and "points" in pixels of the image.

        Raises:
            ReasonerError: no usable answer to a text.
            LimitError: more calls or seconds than a query may take.
            BudgetError: nothing more may be asked.
        """
        check_pairs(embeddings, prompts)
        out: dict[int, Answer] = {}
        pointed: dict[int, list[int]] = {}
        for i, (embedding, prompt) in enumerate(zip(embeddings, prompts, strict=True)):
            if prompt.is_spatial:
                pointed.setdefault(id(embedding), []).append(i)
            else:
                out[i] = self._answer_text(embedding.data, prompt.text or "")
        for indexes in pointed.values():
            drawn = self.draw_pointed(embeddings[indexes[0]].data, [prompts[i] for i in indexes])
            out |= zip(indexes, drawn, strict=True)
        return [out[i] for i in range(len(prompts))]

    def _answer_text(self, window: Window, text: str) -> Answer:
        proposals = self.propose(window.image, text)
        if proposals.status == "failed":
            raise ReasonerError(proposals.reason)
        logits = np.full(window.image.shape[:2], ABSENT, np.float32)
        drawn: list[Answer] = []
        answers = self.draw(window, proposals.prompts)
        for _ in proposals.prompts:
            if proposals.deadline is not None and time.monotonic() > proposals.deadline:
                raise LimitError(
                    f"The query took more than {self.max_seconds:g} seconds.",
                    received=f"{len(drawn)} of {len(proposals.prompts)} targets drawn",
                )
            answer = next(answers)
            if answer.presence is None or answer.presence >= 0.5:
                np.maximum(logits, answer.logits, out=logits)
            drawn.append(replace(answer, logits=logits))  # the notes are kept, not a mask for each
        known = [answer.presence for answer in drawn if answer.presence is not None]
        presence = max(known, default=0.0) if len(known) == len(drawn) else None
        return Answer(logits, presence, {**proposals.notes, **self.notes_of(proposals.prompts, drawn, proposals.notes)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonerOptions:
    """How an engine reaches its reasoner.

    Attributes:
        endpoint, model: of an OpenAI-compatible server; else ``TERRAPROMPT_ENDPOINT``, ``TERRAPROMPT_REASONER_MODEL``.
        local: folder or hub name of a reasoner for this process; else ``TERRAPROMPT_REASONER_LOCAL``.
        units: of the reasoner's coordinates: "pixels", "0..1", "0..1000", or "auto" = find out; None = the default of
            its family (:mod:`terraprompt.vlm.conventions`).
        side: show the reasoner a square of so many pixels; None = the default of its family.
        cache: folder for replies of an endpoint; a question that was answered is not asked again.
        tokens: how many may be used by this engine, question and answer together.
        budget: in place of ``tokens``: also of money, or shared by several engines.
        key_env: environment variable that holds the endpoint's key.
        timeout: seconds for one reply.
        max_tokens: of one answer.
        tries, limit, overlap: see :class:`terraprompt.vlm.ask.AskLimits`; ``limit`` None = the engine's default.
        server: further fields of :class:`terraprompt.vlm.transport.ServerConfig`.
        asking: further fields of :class:`terraprompt.vlm.endpoint.EndpointSettings` or
            :class:`terraprompt.vlm.local.LocalReasoner` (template, temperature, …).
    """

    endpoint: str | None = None
    model: str | None = None
    local: str | Path | None = None
    units: str | None = None
    side: int | None = None
    cache: str | Path | None = None
    tokens: int | None = None
    budget: Budget | None = None
    key_env: str | None = None
    timeout: float | None = None
    max_tokens: int | None = None
    tries: int = 3
    limit: int | None = None
    overlap: float = 0.5
    server: Mapping[str, Any] | None = None
    asking: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, engine: str, options: Mapping[str, Any]) -> ReasonerOptions:
        """From the options of an engine's loader.

        Raises:
            EngineError: an unknown one.
        """
        from terraprompt.vlm.endpoint import EndpointSettings
        from terraprompt.vlm.transport import ServerConfig

        options, mine = dict(options), {field.name for field in fields(cls)}
        for group, kind in (("asking", EndpointSettings), ("server", ServerConfig)):
            named = {f.name for f in fields(kind)} & options.keys() - mine
            if named:
                options[group] = {**(options.get(group) or {}), **{name: options.pop(name) for name in named}}
        try:
            return cls(**options)
        except TypeError as error:
            raise EngineError(
                f'The engine "{engine}" does not take these options ({error}).', received=", ".join(options)
            ) from None

    def limits(self, most: int) -> AskLimits:
        """The limits; ``most`` targets where none was given."""
        return AskLimits(tries=self.tries, limit=most if self.limit is None else self.limit, overlap=self.overlap)

    def open(self, *, device: str, served: Mapping[str, Any] | None = None, **settings: Any) -> Reasoner:
        """Open the reasoner; see :func:`terraprompt.vlm.open.open_reasoner` for ``served``, ``settings`` and errors."""
        budget = self.budget
        if self.tokens is not None:
            if budget is not None:
                raise ConfigError(
                    "A budget is given twice.", received=self.tokens, hint="Put the tokens into the budget."
                )
            budget = Budget(tokens=self.tokens)
        link = {"key_variable": self.key_env, "timeout": self.timeout}
        settings |= {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return open_reasoner(
            endpoint=self.endpoint,
            model=self.model,
            local=self.local,
            units=self.units,
            side=self.side,
            cache=self.cache,
            budget=budget,
            server={**{k: v for k, v in link.items() if v is not None}, **(self.server or {})},
            device=device,
            served=served,
            **{**settings, **(self.asking or {})},
        )


def load_mask_segmenter(
    name: str | Path,
    weights: str | Path | None = None,
    *,
    precision: str = "fp32",
    device: str = "cpu",
    multimask: bool | None = None,
    threshold: float = 0.3,
) -> PromptableSegmenter:
    """Load the segmenter that draws, see :func:`terraprompt.segmenters.load_segmenter`.

    Args:
        name: of the segmenter.
        weights: other weights for one that is an engine of ours.
        precision: of the segmenter.
        device: of the segmenter.
        multimask: of the segmenter.
        threshold: of the segmenter.

    Raises:
        ConfigError: an engine that asks others, or weights for a segmenter that is no engine.
    """
    if str(name) in _VLM_ENGINES:
        raise ConfigError(
            f"The engine {name} cannot draw for itself or others, it needs a segmenter.",
            received=name,
            hint="Take nano, or one of the SAM family.",
        )
    if weights is None:
        return load_segmenter(name, precision=precision, device=device, multimask=multimask, threshold=threshold)
    if str(name) not in engine_names():
        raise ConfigError(
            "Other weights are for a segmenter that is an engine, e.g. nano.",
            received=f"segmenter {name}, weights {weights}",
            hint="Name the folder of the weights as the segmenter.",
        )
    options = {"device": device, "weights": weights} | ({} if precision == "fp32" else {"precision": precision})
    return UniGeoSegSegmenter(load_engine(str(name), **options))


def default_tile_spec(segmenter: PromptableSegmenter) -> TileSpec:
    """Windows of the model's training for our own models; windows that neighbours share for all others."""
    engine = segmenter.engine if isinstance(segmenter, UniGeoSegSegmenter) else None
    return engine.tile if isinstance(engine, Engine) else _SAM_TILE


def evidence_text(text: str, limit: int = _LONGEST) -> str:
    """Text of a model for the notes: sanitised, of a bounded length."""
    return sanitize_text(text, limit, keep_lines=True)


def _reply_to_json(reply: Reply) -> dict[str, Any]:
    return {
        "text": evidence_text(reply.text),
        "finish_reason": evidence_text(reply.finish_reason, REMARK),
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
        "seconds": round(reply.seconds, 3),
        "cached": reply.cached,
    }


def _usage(replies: Sequence[Reply]) -> dict[str, Any]:
    """Calls, tokens (None where the server did not count one of them) and seconds; cached replies cost nothing."""
    paid = [reply for reply in replies if not reply.cached]

    def total(counts: Iterable[int | None]) -> int | None:
        known = list(counts)
        numbers = [count for count in known if count is not None]
        return sum(numbers) if len(numbers) == len(known) else None

    return {
        "calls": len(paid),
        "tokens_in": total(reply.tokens_in for reply in paid),
        "tokens_out": total(reply.tokens_out for reply in paid),
        "seconds": round(sum(reply.seconds for reply in paid), 3),
    }


def _no_target_reason(reasoning: str) -> str:
    words = sanitize_text(reasoning, REMARK)
    return f"The reasoner sees no target: {words}" if words else "The reasoner sees no target."
