"""What models are asked, in which form they answer, and the reading of an answer."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from terraprompt.forge.constraints import REASON_WORDS, WORDS
from terraprompt.forge.model_settings import DIMENSIONS
from terraprompt.forge.taxonomy import Kind

__all__ = ["CUES", "FORMS", "is_refusal", "names_of", "plain", "prompt", "read_object", "score_faults", "text_faults"]

#: Least and most cues of the first step of a contextual question.
CUES = (2, 3)
_LONGEST = 600  # characters of a text of an answer
_DEEPEST = 64  # places in a text where an object is looked for
_REFUSAL = re.compile(
    r"\b(?:i'?m|i am|we are|we're) (?:very |so |really )?(?:sorry|afraid|unable|not able|not allowed)\b"
    r"|\b(?:i|we) (?:cannot|can't|can not|could not|couldn't|won't|will not|must decline|have to decline|decline)\b"
    r"|\bas an? (?:ai|artificial intelligence|language) (?:language )?(?:model|assistant)\b"
    r"|\b(?:against|violates?) (?:my|our|the) (?:guidelines|polic(?:y|ies))\b",
    re.IGNORECASE,
)
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL = dict.fromkeys(_CONTROLS, " ")


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}


def _score(most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": most}


#: JSON schema of each answer, in the subset that constrained decoders know.
FORMS: Mapping[str, dict[str, Any]] = {
    "filter": _object({"decision": {"type": "string", "enum": ["generate", "pass"]}, "reason": _TEXT}),
    "referring": _object({"question": _TEXT}),
    "attribute": _object({"question": _TEXT, "reason": _TEXT}),
    "cues": _object({"cues": {"type": "array", "items": _TEXT, "minItems": CUES[0], "maxItems": CUES[1]}}),
    "contextual": _object({"question": _TEXT, "reason": _TEXT}),
    **{
        f"judge_{kind}": _object({name: _score(most) for name, most in names.items()})
        for kind, names in DIMENSIONS.items()
    },
}


@cache
def _templates() -> Mapping[str, str]:
    text = resources.files(__package__).joinpath("prompts.toml").read_text(encoding="utf-8")
    return {name: str(template).strip() for name, template in tomllib.loads(text).items()}


def prompt(name: str, **fields: object) -> str:
    """The words of a question; a form of the same name says how to answer."""
    if name in WORDS:
        least, most = WORDS[name]
        fields |= {"least": least, "most": most, "about": 30, "reason": REASON_WORDS}
    return _templates()[name].format(**fields)


def names_of(kind: Kind) -> str:
    """Every name of a category, for a question that must not hold one."""
    return ", ".join(kind.names)


def read_object(text: str) -> dict[str, Any] | None:
    """The JSON object of an answer, whatever stands round it; None if there is none that is whole."""
    answer = text.rpartition("</think>")[2].strip()
    decoder = json.JSONDecoder()
    at = -1
    for _ in range(_DEEPEST):
        at = answer.find("{", at + 1)
        if at < 0:
            return None
        try:
            value, _ = decoder.raw_decode(answer, at)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and value:
            return value
    return None


def is_refusal(text: str) -> bool:
    """Whether a text without an answer says that there will be none."""
    said = text.rpartition("</think>")[2][:_LONGEST].replace("\u2019", "'")
    return _REFUSAL.search(said) is not None


def plain(text: object, most: int = _LONGEST) -> str:
    """A text of a model as one line that every file can hold, cut where it is too long."""
    words = " ".join(str(text).encode("utf-8", "replace").decode().translate(_CONTROL).split())
    return words if len(words) <= most else f"{words[: most - 1]}…"


def text_faults(value: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What is wrong with texts of an answer."""
    out = []
    for name in names:
        text = value.get(name)
        if not isinstance(text, str) or not text.strip():
            out.append(f'"{name}" must be a text')
        elif len(text) > _LONGEST:
            out.append(f'"{name}" is longer than {_LONGEST} characters')
    return out


def score_faults(value: Mapping[str, Any], dimensions: Mapping[str, int]) -> list[str]:
    """What is wrong with scores: missing, no whole number, out of range."""
    out = []
    for name, most in dimensions.items():
        score = value.get(name)
        if isinstance(score, bool) or score not in range(1, most + 1):
            out.append(f'"{name}" must be a whole number from 1 to {most}, not {plain(score, 20)}')
    return out
