"""Targets out of the text of a language model: a box and a noun phrase each, several or none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from terraprompt.vlm.grounding.boxes import Box, clamped_to_pixels

__all__ = ["Answer", "OfficialTarget", "Target", "official_target", "parse_answer"]

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_BRACKET = re.compile(r"\{(?=\s*[\"}])|\[(?=\s*[{\]])")  # what can begin an object or a list of objects
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_LOOSE_BOX = re.compile(rf"\"?bbox\"?\s*[:=]\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]", re.IGNORECASE)
_LOOSE_PHRASE = re.compile(r"\"?prompt\"?\s*[:=]\s*\"([^\"]+)\"", re.IGNORECASE)

_FAR = 1e9  # no image is that large; leaves out infinity and not-a-number too
_BOX_KEYS = ("bbox", "bbox_2d", "box")
_PHRASE_KEYS = ("prompt", "phrase", "label", "noun")
_LIST_KEYS = ("targets", "objects")


@dataclass(frozen=True, slots=True)
class OfficialTarget:
    """What the release reads: whole pixels, clamped to the image.

    Attributes:
        box: xyxy.
        phrase: noun phrase.
        center: (x, y); middle of the box, rounded down, unless the answer says one.
    """

    box: tuple[int, int, int, int]
    phrase: str
    center: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Target:
    """A target as answered: ``box`` is xyxy in the model's own convention, corners in order, not scaled nor clamped."""

    box: Box
    phrase: str
    center: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says.

    Attributes:
        status: ``found``; ``no_target``, only when the model says so in the format; ``unreadable``, a failure.
        targets: at least one when found, otherwise none.
        problems: why something in the answer was not taken, one sentence each; never empty when unreadable.
    """

    status: Literal["found", "no_target", "unreadable"]
    targets: tuple[Target, ...] = ()
    problems: tuple[str, ...] = ()


def official_target(text: str, size: tuple[int, int]) -> OfficialTarget | None:
    """One target as the release reads it: pixels, a JSON object (fenced or not) or loose ``bbox: […], prompt: "…"``.

    Args:
        text: the whole answer.
        size: (height, width) of the image.

    Returns:
        None where the release finds nothing; it cannot tell "no target" from an unreadable answer.
    """
    for value in _values(text):
        if isinstance(value, dict) and (target := _target(value, ordered=False)) is not None:
            return _official(target, size)
    box, phrase = _LOOSE_BOX.search(text), _LOOSE_PHRASE.search(text)
    if box is None or phrase is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in box.groups())
    return _official(Target((x1, y1, x2, y2), phrase[1].strip()), size)


def _official(target: Target, size: tuple[int, int]) -> OfficialTarget:
    x1, y1, x2, y2 = box = clamped_to_pixels(target.box, size)
    center = ((x1 + x2) // 2, (y1 + y2) // 2)
    if target.center is not None:
        center = int(target.center[0]), int(target.center[1])
    return OfficialTarget(box, target.phrase, center)


def parse_answer(text: str) -> Answer:
    """All targets of an answer; our extension of the release's one-box format.

    Taken: an object, several, a list of them, or ``{"targets": […]}``, fenced or amid text; the last fence wins over
    the text around it, and ``<think>…</think>`` is left out. ``bbox`` may be called ``bbox_2d`` or ``box``; ``prompt``
    ``phrase``, ``label`` or ``noun``. No target: ``[]``, ``{"targets": []}``, an object whose box is null or empty, or
    ``{"no_target": true}``. Plain words such as "I cannot find it" are unreadable, not "no target": a refusal and an
    empty scene are different results.

    Numbers stay as answered; the caller knows the coordinate convention.
    """
    spoken = _THOUGHT.sub("", text)
    targets: dict[Target, None] = {}  # a set that keeps the order: models repeat themselves
    problems: list[str] = []
    said_none = False
    for value in _values(spoken):
        for entry in _entries(value):
            if entry is None:
                said_none = True
            elif (target := _target(entry, ordered=True)) is not None:
                targets[target] = None
            else:
                problems.append(f"Not a target: {json.dumps(entry)[:120]}")
    if not targets and not said_none and (loose := _loose(spoken)) is not None:
        targets[loose] = None
        problems.clear()
    if targets:
        return Answer("found", tuple(targets), tuple(problems))
    if said_none and not problems:
        return Answer("no_target")
    return Answer("unreadable", (), tuple(problems) or (f"No target in the answer: {spoken.strip()[:120]!r}",))


def _loose(text: str) -> Target | None:
    box, phrase = _LOOSE_BOX.search(text), _LOOSE_PHRASE.search(text)
    if box is None or phrase is None:
        return None
    return _target({"bbox": [float(number) for number in box.groups()], "prompt": phrase[1]}, ordered=True)


def _values(text: str) -> Iterator[Any]:
    """JSON objects and lists in reading order; only those of the last fence where one holds any."""
    for fence in reversed(_FENCE.findall(text)):
        if inside := list(_json_values(fence)):
            yield from inside
            return
    yield from _json_values(text)


def _json_values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    place = 0
    broken = False
    while (start := _BRACKET.search(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, start.start())
        except (json.JSONDecodeError, RecursionError):  # prose has brackets too; go on behind this one
            place = start.end()
            broken |= start[0] == "{"
            continue
        if value != [] or not broken:  # an empty list amid a broken object says nothing of targets
            yield value


def _entries(value: Any) -> Iterator[dict[str, Any] | None]:
    """Objects that claim to be a target; None for each way to say that there is none."""
    if isinstance(value, list):
        if not value:
            yield None
        for member in value:
            if isinstance(member, dict):
                yield from _entries(member)
        return
    if not isinstance(value, dict):
        return
    for key in _LIST_KEYS:
        if isinstance(value.get(key), list):
            yield from _entries(value[key])
            return
    box_keys = [key for key in _BOX_KEYS if key in value]
    if value.get("no_target") is True or (box_keys and value[box_keys[0]] in (None, [])):
        yield None
    elif box_keys or any(key in value for key in _PHRASE_KEYS):
        yield value


def _target(entry: dict[str, Any], *, ordered: bool) -> Target | None:
    box = _numbers(next((entry[key] for key in _BOX_KEYS if key in entry), None), 4)
    phrase = next((entry[key] for key in _PHRASE_KEYS if key in entry), None)
    if box is None or not isinstance(phrase, str) or not phrase.strip():
        return None
    x1, y1, x2, y2 = box
    if ordered:
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    center = _numbers(entry.get("center"), 2)
    return Target((x1, y1, x2, y2), phrase.strip(), None if center is None else (center[0], center[1]))


def _numbers(value: Any, count: int) -> list[float] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and -_FAR < v < _FAR for v in value):
        return None
    return [float(v) for v in value]
