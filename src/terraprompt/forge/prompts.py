"""Prompts of the models, the JSON schemas of their answers, and checks of answered fields."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from terraprompt.forge.constraints import REASON_WORDS, WORDS
from terraprompt.forge.model_settings import DIMENSIONS
from terraprompt.io.text import sanitize_text
from terraprompt.language.categories import Category

__all__ = [
    "CUES",
    "FORMS",
    "MAX_TEXT",
    "comment_of",
    "names_of",
    "prompt",
    "score_faults",
    "score_of",
    "text_faults",
]

#: Least and most cues of the first step of a contextual question.
CUES = (2, 3)
MAX_TEXT = 600  # characters of a text of an answer


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}


def _score(most: int) -> dict[str, Any]:
    return _object({"score": {"type": "integer", "minimum": 1, "maximum": most}, "comment": _TEXT})


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


def names_of(category: Category) -> str:
    """Every name of a category, for a question that must not hold one."""
    return ", ".join(category.names)


def text_faults(value: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What is wrong with texts of an answer."""
    out = []
    for name in names:
        text = value.get(name)
        if not isinstance(text, str) or not text.strip():
            out.append(f'"{name}" must be a text')
        elif len(text) > MAX_TEXT:
            out.append(f'"{name}" is longer than {MAX_TEXT} characters')
    return out


def score_of(value: Any) -> Any:
    """The score of a dimension: ``{"score": 7, "comment": "…"}``, or the number alone."""
    return value.get("score") if isinstance(value, Mapping) else value


def comment_of(value: Any) -> str:
    """The comment on a dimension, sanitised; "" if there is none."""
    comment = value.get("comment") if isinstance(value, Mapping) else None
    return sanitize_text(comment, MAX_TEXT) if isinstance(comment, str) else ""


def score_faults(value: Mapping[str, Any], dimensions: Mapping[str, int]) -> list[str]:
    """What is wrong with scores: missing, no whole number, out of range."""
    out = []
    for name, most in dimensions.items():
        score = score_of(value.get(name))
        if isinstance(score, bool) or score not in range(1, most + 1):
            out.append(f'"{name}" must be a whole number from 1 to {most}, not {sanitize_text(score, 20)}')
    return out
