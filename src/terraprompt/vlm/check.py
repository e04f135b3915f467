"""Is an address what it claims: which server, which models, does it see pictures, does it answer a tiny question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terraprompt.vlm.answer_parser import Verdict
from terraprompt.vlm.endpoint import EndpointReasoner
from terraprompt.vlm.probe import probe
from terraprompt.vlm.transport import RefusedError

__all__ = ["EndpointReport", "check_endpoint"]

_COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40)}
_OWNERS = {"vllm": "vLLM", "llamacpp": "llama.cpp", "library": "Ollama", "sglang": "SGLang", "openai": "OpenAI"}


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """What was found.

    Attributes:
        server: a guess from the owners of its models, or "unknown".
        models: what it lists.
        listed: the model that was asked is among them.
        colours: of four plain pictures, what it should have seen and what it said.
        sees: it named all four.
        schema: the server accepts a JSON schema for its answers.
        schema_followed: the answer to the tiny question follows it; None where no schema was asked for or accepted.
        verdict: of the reader, for the tiny question.
        answer: to it, shortened.
        overlap: best IoU of the answers with the drawn boxes, and the units it is in; 0 if it cannot be read.
        units: of that reading.
        declared: the units of the convention in use.
        tokens: used by all questions; None where the server does not count.
        remarks: what the server refused and is asked without.
    """

    server: str
    models: tuple[str, ...]
    listed: bool
    colours: tuple[tuple[str, str], ...]
    sees: bool
    schema: bool
    schema_followed: bool | None
    verdict: Verdict
    answer: str
    overlap: float
    units: str
    declared: str
    tokens: int | None
    remarks: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """It sees, and its answer can be read."""
        return self.sees and self.verdict.ok


def check_endpoint(reasoner: EndpointReasoner) -> EndpointReport:
    """Ask five small questions.

    Raises:
        ReasonerError: the server cannot be reached, refuses, or is something else.
    """
    try:
        listed = reasoner.models()
    except RefusedError as error:
        if error.status not in (404, 405):
            raise
        listed = []  # a deployment (Azure) that only answers questions
    names = tuple(reasoner.server.clean(entry.get("id", "")) for entry in listed)
    owners = {str(entry.get("owned_by", "")).lower() for entry in listed}
    server = next((_OWNERS[owner] for owner in sorted(owners) if owner in _OWNERS), "unknown")
    counts: list[int | None] = []
    colours = []
    for name, rgb in _COLOURS.items():
        reply = reasoner.chat(
            "What is the colour of this picture? Answer with one word: red, green, blue or yellow.",
            np.full((112, 112, 3), rgb, np.uint8),
        )
        said = _named_colour(reply.text)
        colours.append((name, said))
        counts += [reply.tokens_in, reply.tokens_out]
    probed = probe(reasoner)
    reply = probed.replies[0]
    counts += [count for asked in probed.replies for count in (asked.tokens_in, asked.tokens_out)]
    best = next(iter(probed.fits), None)
    return EndpointReport(
        server,
        names,
        reasoner.settings.model in [str(entry.get("id", "")) for entry in listed],
        tuple(colours),
        all(name == said for name, said in colours),
        reasoner.binds_schema,
        reasoner.follows_schema,
        probed.parsed.verdict,
        reasoner.server.clean(reply.text),
        0.0 if best is None else best.agreement,
        "nothing known" if best is None else best.name,
        reasoner.convention.units.value,
        None if None in counts else sum(count or 0 for count in counts),
        reasoner.remarks,
    )


def _named_colour(text: str) -> str:
    """The one colour that a short answer names; "" if it names none, or several."""
    words = {word.strip(".,!:;*\"'`()").lower() for word in text.rpartition("</think>")[2].split()}
    named = [colour for colour in _COLOURS if colour in words]
    return named[0] if len(named) == 1 else ""
