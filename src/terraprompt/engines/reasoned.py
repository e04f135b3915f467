"""What engines that ask a reasoner share: which segmenter draws, and what was said as evidence that is safe to show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from terraprompt.engines.base import Engine, TileSpec
from terraprompt.engines.registry import engine_names, load_engine
from terraprompt.errors import ConfigError
from terraprompt.segmenters import PromptableSegmenter, load_segmenter
from terraprompt.segmenters.from_engine import UniGeoSegSegmenter
from terraprompt.vlm.base import Reply

__all__ = ["ASKING", "REMARK", "load_drawing", "readable", "remark", "said", "spent", "tile_of"]

#: Engines that draw with the help of others and so cannot draw for them.
ASKING = ("geoseg", "think2seg")
#: Characters of a remark or a name.
REMARK = 300
#: The SAM family sees squares of about 1024 pixels, and encoding one costs far more than a prompt.
_SAM_TILE = TileSpec(size=1024, overlap=128, multiple=1, batch=8, shared=True)
_LONGEST = 20_000  # characters of a text that are kept as evidence
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")


def load_drawing(
    name: str | Path,
    weights: str | Path | None = None,
    *,
    precision: str = "fp32",
    device: str = "cpu",
    multimask: bool = False,
    threshold: float = 0.3,
) -> PromptableSegmenter:
    """The segmenter that draws, see :func:`terraprompt.segmenters.load_segmenter`.

    Args:
        name: of the segmenter.
        weights: other weights for one that is an engine of ours.
        precision, device, multimask, threshold: of the segmenter.

    Raises:
        ConfigError: an engine that asks others, or weights for a segmenter that is no engine.
    """
    if str(name) in ASKING:
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


def tile_of(segmenter: PromptableSegmenter) -> TileSpec:
    """Our own models keep the windows that they were trained on; others share windows of their size."""
    engine = segmenter.engine if isinstance(segmenter, UniGeoSegSegmenter) else None
    return engine.tile if isinstance(engine, Engine) else _SAM_TILE


def said(reply: Reply) -> dict[str, Any]:
    """A reply as JSON values."""
    return {
        "text": readable(reply.text),
        "finish_reason": readable(reply.finish_reason, REMARK),
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
        "seconds": round(reply.seconds, 3),
        "cached": reply.cached,
    }


def spent(replies: Sequence[Reply]) -> dict[str, Any]:
    """Calls, tokens (None where the server did not count one of them) and seconds; cached replies cost nothing."""
    paid = [reply for reply in replies if not reply.cached]
    return {
        "calls": len(paid),
        "tokens_in": _sum(reply.tokens_in for reply in paid),
        "tokens_out": _sum(reply.tokens_out for reply in paid),
        "seconds": round(sum(reply.seconds for reply in paid), 3),
    }


def remark(think: str) -> str:
    """Why a reasoner sees no target, in one sentence."""
    words = " ".join(readable(think).split())
    short = words if len(words) <= REMARK else words[: REMARK - 1] + "…"
    return f"The reasoner sees no target: {short}" if short else "The reasoner sees no target."


def readable(text: str, longest: int = _LONGEST) -> str:
    """Text of a stranger for files and screens: no control characters, no half characters, of a bounded length."""
    clean = _CONTROL.sub(" ", text[: longest + 1].encode("utf-8", "replace").decode())
    return clean if len(text) <= longest else f"{clean[:longest]}… ({len(text)} characters)"


def _sum(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    numbers = [count for count in known if count is not None]
    return sum(numbers) if len(numbers) == len(known) else None
