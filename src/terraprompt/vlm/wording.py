"""The words of a question: what to find, how to answer, in which units; and the schema that says the same."""

from __future__ import annotations

import string
from typing import Any

from terraprompt.errors import ConfigError
from terraprompt.vlm.answer_parser import AnswerRules
from terraprompt.vlm.conventions import Convention

__all__ = [
    "DEFAULT_TEMPLATE",
    "OFFICIAL_TEMPLATE",
    "PHRASE_TEMPLATE",
    "answer_schema",
    "check_template",
    "feedback_words",
    "question_words",
    "with_feedback",
]

DEFAULT_TEMPLATE = """\
This is an overhead image, taken from an aircraft or a satellite.
Task: {instruction}
Find everything in the image that fulfils the task, one item for each separate object or area. {form}
In every item {item}. Coordinates are {units}.
If nothing in the image fulfils the task, the list is empty: []."""

#: Several targets, or none; keys as the Qwen family was trained with.
PHRASE_TEMPLATE = """\
This is an overhead image, taken from an aircraft or a satellite.
Task: {instruction}
Find everything in the image that fulfils the task, one item for each separate object or area. For each give its tight \
box, and a short noun phrase for what it looks like from above, such as "grey flat roof": two to four words, without \
words of place, number or purpose. Coordinates are {units}.
Answer with a JSON list in a code fence:
```json
[{{"bbox_2d": [x1, y1, x2, y2], "label": "noun phrase"}}]
```
If nothing in the image fulfils the task, the list is empty: []."""

#: One target, as the release's format has it; nothing can be said to be absent. Width and height are named and pixels
#: asked for, whatever the model's family would answer in by itself (wording ours).
OFFICIAL_TEMPLATE = """\
This is an overhead image, taken from an aircraft or a satellite. It is {width} pixels wide and {height} pixels high.
Task: {instruction}
Find the one target that fulfils the task best. Give its tight box in pixel coordinates of this image, whole numbers \
with 0 <= x <= {width} and 0 <= y <= {height}, and a short noun phrase for it.
Answer with one JSON object only: {{"bbox": [x1, y1, x2, y2], "prompt": "noun phrase"}}"""

_TAGS = """\
First reason between <think> and </think>, then answer between <answer> and </answer> with a JSON list in a code fence:
<think>reasoning</think><answer>```json
[{item}]
```</answer>"""
_PREVIOUS = 4000
_FIELDS = {"instruction", "form", "item", "points", "units", "width", "height"}
_SCHEMA = 'Reason in "think", then list the items in "instances".'


_BOX_WORDS = '"bbox_2d" is the tight box [x1, y1, x2, y2] round the object'


def _points_words(rules: AnswerRules) -> str:
    if rules.points == 0:
        return ""
    names = {None: "one or more", 1: "exactly one", 2: "exactly two"}
    count = names.get(rules.points, f"exactly {rules.points}")
    inside = "it" if rules.boxes else "the object"
    words = f', "positive_points" holds {count} [x, y] well inside {inside}'
    return words + (f', "negative_points" {rules.negatives} [x, y] near it but outside' if rules.negatives else "")


def _item_form(rules: AnswerRules) -> str:
    """An item as the answer shall have it."""
    pair = "[x, y]"
    parts = ['"bbox_2d": [x1, y1, x2, y2]'] if rules.boxes else []
    if rules.points != 0:
        parts.append(f'"positive_points": [{", ".join([pair] * (rules.points or 1))}]')
    if rules.negatives:
        parts.append(f'"negative_points": [{", ".join([pair] * rules.negatives)}]')
    return "{" + ", ".join(parts) + "}"


def check_template(template: str) -> str:
    """The template, if it can be filled.

    Raises:
        ConfigError: an unknown field, a lone brace, or no ``{instruction}``.
    """
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ConfigError(f"The template is broken: {error}.", hint="Write {{ and }} for braces.") from None
    if "instruction" not in fields or not fields <= _FIELDS:
        raise ConfigError(
            "A template holds {instruction} and at will {form}, {item}, {points}, {units}, {width}, {height}.",
            received=sorted(fields),
        )
    return template


def question_words(
    instruction: str,
    convention: Convention,
    size: tuple[int, int],
    *,
    rules: AnswerRules,
    template: str = DEFAULT_TEMPLATE,
    structured: bool = False,
) -> str:
    """The text that goes with an image of ``size`` (height, width).

    Args:
        instruction: what to find.
        convention: units and view that the words speak of.
        size: of the source image.
        rules: how many points are asked for.
        template: with ``{instruction}``, ``{form}`` (how to write the answer), ``{item}`` (what an item holds, in
            words), ``{points}`` (the part of it on points), ``{units}``; ``{width}`` and ``{height}`` of the image as
            it is shown, in pixels.
        structured: the server is bound to :func:`answer_schema`, so that no tags are asked for.
    """
    points = _points_words(rules)
    height, width = convention.view.size(size)
    return template.format(
        instruction=instruction,
        form=_SCHEMA if structured else _TAGS.format(item=_item_form(rules)),
        item=(_BOX_WORDS + points) if rules.boxes else points.removeprefix(", "),
        points=points,
        units=convention.describe(size),
        width=width,
        height=height,
    )


def feedback_words(feedback: str) -> str:
    """What is said when an answer could not be used."""
    return f"That answer cannot be used: {feedback} Answer the task again, in the form that was asked for."


def with_feedback(words: str, feedback: str | None, previous: str | None) -> list[tuple[str, str]]:
    """Turns (role, text) of a question, its bad answer (its first 4,000 characters) and the feedback on it, if any."""
    if not feedback:
        return [("user", words)]
    if previous is None:
        return [("user", f"{words}\n\n{feedback_words(feedback)}")]
    return [("user", words), ("assistant", previous[:_PREVIOUS]), ("user", feedback_words(feedback))]


def answer_schema(rules: AnswerRules) -> dict[str, Any]:
    """JSON schema of ``{"think": …, "instances": […]}``, in the subset that constrained decoders know."""

    def numbers(count: int) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "number"}, "minItems": count, "maxItems": count}

    def pairs(count: int | None) -> dict[str, Any]:
        limits = {"minItems": 1} if count is None else {"minItems": count, "maxItems": count}
        return {"type": "array", "items": numbers(2), **limits}

    parts = {"bbox_2d": numbers(4)} if rules.boxes else {}
    if rules.points != 0:
        parts["positive_points"] = pairs(rules.points)
    if rules.negatives:
        parts["negative_points"] = pairs(rules.negatives)
    item = {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    whole = {"think": {"type": "string"}, "instances": {"type": "array", "items": item}}
    return {"type": "object", "properties": whole, "required": list(whole), "additionalProperties": False}
