"""Parser of model answers: one tolerant JSON scanner, and a typed view for each form of answer.

========================  ======================================================  =================================
view                      form                                                    used by
========================  ======================================================  =================================
:func:`parse_strict`      ``<think>…</think><answer>```json [...]```</answer>``   format reward (Think2Seg-RS)
:func:`parse_lenient`     the same, with everything optional but the list         engine think2seg
:func:`parse_phrases`     boxes with noun phrases, several or none                engine geoseg
:func:`official_target`   one box with a phrase, as GeoSeg's release reads it     engine geoseg, ``official``
:func:`parse_object`      one JSON object                                         forge
========================  ======================================================  =================================

An item of Think2Seg-RS is ``{"bbox_2d": [x1, y1, x2, y2], "positive_points": [[x, y], [x, y]]}``; an empty list means
that there is no target. Both readings agree with the recorded verdicts of Think2Seg-RS but for one of its bugs: **a box
whose corners are not numbers passed its format check when it was alone** (and was refused beside a second item). Here
it is :attr:`Verdict.BAD_BOX`, always. :mod:`terraprompt.training.rewards` describes the other bug, that such a box took
the reward of the whole batch. Numbers in quotes are numbers, as recorded.

Both engines' readings take the shapes that models fall back to, through one rewriting into such items
(:func:`_flat_items`): a bare object, the list under a key, nested lists, boxes and points as text, bare boxes, other
keys, and the native tokens of model families (:func:`_native_items`). What stays ambiguous is refused.

Coordinates are in the model's own units; :mod:`terraprompt.vlm.conventions` converts them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Any

import json_repair

from terraprompt.errors import ConfigError
from terraprompt.geometry.boxes import Box
from terraprompt.io.text import sanitize_text
from terraprompt.vlm.box_refinement import clamped_to_pixels

__all__ = [
    "AnswerRules",
    "Instance",
    "ParsedAnswer",
    "Verdict",
    "is_refusal",
    "official_target",
    "parse_lenient",
    "parse_object",
    "parse_phrases",
    "parse_strict",
    "reasoning_of",
    "structured_to_tagged",
    "tagged",
]

Point = tuple[float, float]

# None of these patterns can fail after a long look ahead: hostile text of any size is read in linear time.
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_FENCE = re.compile(r"```json(.*?)(```|\Z)", re.DOTALL)
_ANY_FENCE = re.compile(r"```[a-zA-Z]*(.*?)(?:```|\Z)", re.DOTALL)
_CLOSED_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"[\[{]")
_ITEMS = re.compile(r"\{(?=\s*[\"}])|\[(?=\s*[{\]])")  # what can begin an object or a list of objects
_BRACE = re.compile(r"\{")
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_LOOSE_BOX = re.compile(rf"\"?bbox\"?\s*[:=]\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]", re.IGNORECASE)
_LOOSE_PHRASE = re.compile(r"\"?prompt\"?\s*[:=]\s*\"([^\"]+)\"", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:i'?m|i am|we are|we're) (?:very |so |really )?(?:sorry|afraid|unable|not able|not allowed)\b"
    r"|\b(?:i|we) (?:cannot|can't|can not|could not|couldn't|won't|will not|must decline|have to decline|decline)\b"
    r"|\bas an? (?:ai|artificial intelligence|language) (?:language )?(?:model|assistant)\b"
    r"|\b(?:against|violates?) (?:my|our|the) (?:guidelines|polic(?:y|ies))\b",
    re.IGNORECASE,
)

# Repair takes quadratic time on hostile text (half a second for 4,000 characters); a completion of 1,024 tokens fits.
_REPAIRABLE = 4096
_STARTS = 64  # places where a JSON value is looked for
_FARTHEST = 1e9  # no image is that large, and areas of larger boxes overflow
_REFUSAL_REACH = 600  # characters in which a refusal is looked for
_BOX_KEYS = ("bbox", "bbox_2d", "box", "box_2d", "bounding_box")
_POINT_KEYS = ("positive_points", "points", "point_2d", "points_2d", "point")
_PHRASE_KEYS = ("prompt", "phrase", "label", "noun", "name")
_LIST_KEYS = ("targets", "objects", "instances", "detections", "results", "items", "boxes", "bboxes", "answer")
_SIDES = (("x1", "y1", "x2", "y2"), ("x_min", "y_min", "x_max", "y_max"), ("xmin", "ymin", "xmax", "ymax"))
# A name in reference tokens or a place in box tokens: InternVL, MiniCPM-V, Qwen-VL, Qwen2-VL, DeepSeek-VL2, GLM-4V.
_NATIVE = re.compile(
    r"(?:<ref>|<\|object_ref_start\|>|<\|ref\|>)([^<]*+)<"
    r"|(?:<box>|<\|box_start\|>|<\|det\|>|<\|begin_of_box\|>)([^<{]*+)<"
)
_LOCATIONS = re.compile(r"((?:<loc_?\d{1,4}>)++)(?:<seg\d{3}>)*+([^<;]*+)")
_POINT_TAG = re.compile(r"<points? ([^>]*+)>")
_POINT_PART = re.compile(r"\b([xy])(\d*)\s*=\s*[\"']?(\d{1,3}(?:\.\d+)?)")
_TOKENS = "The answer was written in tokens of the model's family, not as it was asked for; they were read."
_SHAPE = "The answer had another shape than was asked for; it was read as it was meant."
_DIGITS = re.compile(r"-?\d++(?:\.\d++)?")
_BROKEN = object()


class Verdict(StrEnum):
    """Outcome of parsing an answer. ``OK`` and ``NO_TARGET`` are answers, all others are failures."""

    OK = "ok"
    NO_TARGET = "no_target"
    EMPTY = "empty"
    NO_FENCE = "no_fence"
    NOT_JSON = "not_json"
    NOT_A_LIST = "not_a_list"
    BAD_ITEM = "bad_item"
    BAD_BOX = "bad_box"
    BAD_POINTS = "bad_points"
    WRONG_COUNT = "wrong_count"
    NEGATIVE_POINTS = "negative_points"
    UNREADABLE = "unreadable"

    @property
    def ok(self) -> bool:
        """Whether the text is an answer, "no target" included."""
        return self in (Verdict.OK, Verdict.NO_TARGET)


@dataclass(frozen=True, slots=True)
class Instance:
    """One target.

    Attributes:
        box: ``(x1, y1, x2, y2)`` as answered (corners may be inverted), or None.
        points: ``(x, y)`` each.
        labels: one a point, 1 = on the target, 0 = not on it; empty means all 1.
        name: noun phrase or label; "" if there is none.
        center: ``(x, y)`` as answered, where the form has it; never converted.
    """

    box: Box | None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    name: str = ""
    center: Point | None = None

    def __post_init__(self) -> None:
        labels = self.labels or (1,) * len(self.points)
        if len(labels) != len(self.points):
            raise ConfigError("Every point needs one label.", received=(len(self.points), len(labels)))
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """What an item must hold.

    What an item must not hold is a fault for :func:`parse_strict`; :func:`parse_lenient` leaves it out (negative points
    are a fault there too).

    Attributes:
        points: positive points an item; None = any number (:func:`parse_strict` still wants one); 0 = a box alone.
        negatives: negative points an item; 0 = the key ``negative_points`` must not be there (found unstable by the
            authors of Think2Seg-RS).
        boxes: False = points alone. True = :func:`parse_strict` wants no box where there are points, as published, but
            the question asks for one.
    """

    points: int | None = 2
    negatives: int = 0
    boxes: bool = True

    def __post_init__(self) -> None:
        if (self.points is not None and self.points < 0) or self.negatives < 0:
            raise ConfigError("Numbers of points are not negative.", received=self)
        if self.points == 0 and (self.negatives or not self.boxes):
            raise ConfigError(
                "An item without positive points is a box alone.", received=self, hint="Ask for points, or for boxes."
            )


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A parsed text.

    Attributes:
        reasoning: text of the ``<think>`` tags; "" if there is none.
        instances: in the order of the answer, before NMS; empty unless the verdict is OK.
        verdict: see :class:`Verdict`.
        feedback: one sentence for the model that says what to mend; "" if the verdict is ok.
        skipped: parts of the answer that were not taken, one sentence each (:func:`parse_phrases` only).
        mended: how the answer differed from the form that was asked for, one sentence each.
        thousandths: the answer says itself what its numbers are (location tokens, percent); they are given as
            thousandths of width and height here, x first.
    """

    reasoning: str
    instances: tuple[Instance, ...]
    verdict: Verdict
    feedback: str = ""
    skipped: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()
    thousandths: bool = False

    @property
    def ok(self) -> bool:
        """Whether the text is an answer, "no target" included."""
        return self.verdict.ok


class _FaultError(Exception):
    """Ends the parsing; never leaves this module."""

    def __init__(self, verdict: Verdict, feedback: str) -> None:
        super().__init__(feedback)
        self.verdict, self.feedback = verdict, feedback


def parse_strict(text: str, rules: AnswerRules | None = None) -> ParsedAnswer:
    """Parse as the format reward does: a ```` ```json ```` fence, a list of objects, points in every item.

    The fence is looked for in the answer tags, or in the whole text where there are none (:func:`tagged` checks the
    tags). A box may be missing; an item without points may not.
    """
    return _parse_items(text, rules or AnswerRules(), strict=True)


def parse_lenient(text: str, rules: AnswerRules | None = None) -> ParsedAnswer:
    """Parse what was meant: the fence is optional, text around the JSON is ignored, a box or points alone are enough.

    Of several lists the last one counts. JSON with small faults is repaired; a truncated list is not, and "no target"
    is only what says so literally: ``[]``.
    """
    return _parse_items(text, rules or AnswerRules(), strict=False)


def parse_phrases(text: str, default: str = "") -> ParsedAnswer:
    """Parse boxes with noun phrases; our extension of GeoSeg's one-box format.

    Accepts an object, several, a list of them, or ``{"targets": […]}``, fenced or amid text; the last fence wins over
    the text around it, and ``<think>…</think>`` is left out. ``bbox`` may be called ``bbox_2d`` or ``box``; ``prompt``
    ``phrase``, ``label`` or ``noun``. No target: ``[]``, ``{"targets": []}``, an object whose box is null or empty, or
    ``{"no_target": true}``. Plain words such as "I cannot find it" are unreadable, not "no target": a refusal and an
    empty scene are different results.

    Corners are put in order; nothing is scaled or clamped.

    Args:
        text: the whole answer.
        default: phrase of a box that has none; "" = such a box is no target.
    """
    reasoning, spoken = reasoning_of(text).strip(), _REASONING.sub("", text)
    targets: dict[Instance, None] = {}  # a set that keeps the order: models repeat themselves
    skipped: list[str] = []
    none_said = False
    native, located = _native_items(spoken), _located_items(spoken)
    mended = (_TOKENS,) if native or located else ()
    for entry in _entries(native or located or list(_fenced_values(spoken))):
        if entry is None:
            none_said = True
        elif (target := _target(entry, ordered=True, default=default)) is not None:
            targets[target] = None
        else:
            skipped.append(f"Not a target: {json.dumps(entry)[:120]}")
    if not targets and not none_said and (loose := _loose_target(spoken, ordered=True)) is not None:
        return ParsedAnswer(reasoning, (loose,), Verdict.OK)
    if targets:
        found = tuple(targets)
        thousandths = not native and bool(located)
        return ParsedAnswer(
            reasoning, found, Verdict.OK, skipped=tuple(skipped), mended=mended, thousandths=thousandths
        )
    if none_said and not skipped:
        return ParsedAnswer(reasoning, (), Verdict.NO_TARGET)
    skipped = skipped or [f"No target in the answer: {spoken.strip()[:120]!r}"]
    return ParsedAnswer(reasoning, (), Verdict.UNREADABLE, "; ".join(skipped[:3]), tuple(skipped))


def official_target(text: str, size: tuple[int, int]) -> Instance | None:
    """Parse one target as GeoSeg's release does: a JSON object (fenced or not) or loose ``bbox: […], prompt: "…"``.

    Args:
        text: the whole answer.
        size: (height, width) of the image.

    Returns:
        Box and center in whole pixels, clamped to the image (the center is that of the box, rounded down, unless the
        answer has one); None where the release finds nothing: it cannot tell "no target" from an unreadable answer.
    """
    objects = (value for value in _fenced_values(text) if isinstance(value, dict))
    found = next((target for value in objects if (target := _target(value, ordered=False)) is not None), None)
    found = found or _loose_target(text, ordered=False)
    if found is None or found.box is None:
        return None
    x1, y1, x2, y2 = box = clamped_to_pixels(found.box, size)
    center = found.center or ((x1 + x2) // 2, (y1 + y2) // 2)
    return replace(found, box=box, center=(int(center[0]), int(center[1])))


def parse_object(text: str) -> dict[str, Any] | None:
    """Parse the first JSON object behind the reasoning that is whole and not empty; None if there is none."""
    values = (value for _, _, value in islice(_scan(text.rpartition("</think>")[2], _BRACE), _STARTS))
    return next((value for value in values if isinstance(value, dict) and value), None)


def is_refusal(text: str) -> bool:
    """Whether a text without an answer says that there will be none."""
    return _REFUSAL.search(text.rpartition("</think>")[2][:_REFUSAL_REACH].replace("\u2019", "'")) is not None


def tagged(text: str) -> bool:
    """Whether the whole text is ``<think>…</think><answer>…</answer>``, with white space around.

    One thought; a second answer part passes, as the release's greedy expression lets it (the last one is read).
    """
    one_thought = text.count("<think>") == text.count("</think>") == 1
    return one_thought and re.fullmatch(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", text, re.DOTALL) is not None


def reasoning_of(text: str) -> str:
    """Text between the first ``<think>`` and the ``</think>`` after it; "" if there is none."""
    reasoning, closing, _ = text.partition("<think>")[2].partition("</think>")
    return reasoning if closing else ""


def structured_to_tagged(text: str) -> str:
    """Rewrite a schema-bound answer ``{"think": …, "instances": […]}`` in the tagged form; any other text stays."""
    kept_apart, closing, body = text.rpartition("</think>")  # reasoning that a server keeps apart stands in front
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return text
    if not isinstance(value, dict) or not isinstance(value.get("instances"), list):
        return text
    think = f"{kept_apart.removeprefix('<think>')} " * bool(closing) + str(value.get("think", ""))
    return f"<think>{think}</think><answer>```json\n{json.dumps(value['instances'])}\n```</answer>"


# The scanner


def _scan(text: str, opening: re.Pattern[str]) -> Iterator[tuple[int, int, Any]]:
    """Yield (start, end, value) of the JSON values that begin where ``opening`` matches, none within another.

    Where there is none after all (prose has brackets too), the value is ``_BROKEN`` and the end is behind the match.
    """
    decoder, at = json.JSONDecoder(), 0
    while (match := opening.search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            value, at = _BROKEN, match.end()
        yield match.start(), at, value


def _numbers(value: Any, count: int, *, quoted: bool) -> Sequence[float] | None:
    """Numbers that may be coordinates; None for anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float | (str if quoted else int)) for v in value):
        return None
    try:
        numbers = [float(v) for v in value]
    except (ValueError, OverflowError):
        return None
    return numbers if all(abs(number) <= _FARTHEST for number in numbers) else None  # NaN is refused too


# Items with boxes and points (Think2Seg-RS)


def _parse_items(text: str, rules: AnswerRules, *, strict: bool) -> ParsedAnswer:
    reasoning = reasoning_of(text).strip()
    try:
        if not text.strip():
            raise _FaultError(Verdict.EMPTY, "The answer is empty.")
        spoken = text.rpartition("</think>")[2]
        native = None if strict else _native_items(spoken)
        located = None if strict or native else _located_items(spoken)
        items = _fenced_list(text) if strict else native or located or _last_list(text)
        mended = (_TOKENS,) if native or located else ()
        if not strict:
            flat = _flat_items(items)
            mended = mended or ((_SHAPE,) if flat != items else ())
            items = flat
        if not isinstance(items, list):
            raise _FaultError(Verdict.NOT_A_LIST, "The JSON must be a list of objects, also for a single one.")
        instances = tuple(_instance(item, number, rules, strict) for number, item in enumerate(items, 1))
    except _FaultError as fault:
        return ParsedAnswer(reasoning, (), fault.verdict, fault.feedback)
    verdict = Verdict.OK if instances else Verdict.NO_TARGET
    return ParsedAnswer(reasoning, instances, verdict, mended=mended, thousandths=bool(located))


def _fenced_list(text: str) -> Any:
    """The list in the last fence of the last answer: what :func:`_last_list` takes too."""
    answers = _ANSWER.findall(text)
    fences = _FENCE.findall(answers[-1] if answers else text)
    if not fences or not fences[-1][1]:
        raise _FaultError(Verdict.NO_FENCE, "Put the JSON list between ```json and ```.")
    return _decoded(fences[-1][0])


def _last_list(text: str) -> Any:
    """The last list of objects in the answer, or else its last object."""
    answers = _ANSWER.findall(text)
    part = answers[-1] if answers else text.rpartition("</think>")[2]
    fences = [fence for fence in _ANY_FENCE.findall(part) if fence.strip()]
    part = (fences[-1] if fences else part).strip()
    try:
        return json.loads(part)
    except (ValueError, RecursionError):
        pass
    values, rest, at = [], "", 0  # the text without the values says whether something is cut off
    for start, end, value in islice(_scan(part, _OPENING), _STARTS):
        taken = value is not _BROKEN and _is_answer(value, bare="{" not in part)
        values += [value] if taken else []
        rest += part[at : start if taken else end]
        at = end
    rest += part[at:]
    if not _balanced(rest):
        raise _FaultError(Verdict.NOT_JSON, "The JSON is not closed; was the answer cut off?")
    lists = [value for value in values if isinstance(value, list)]
    if lists or (values and "[" not in rest):
        return (lists or values)[-1]
    first, last = part.find("["), part.rfind("]")
    if first < 0 or last < first:
        raise _FaultError(Verdict.NOT_JSON, "There is no JSON list in the answer.")
    return _decoded(part[first : last + 1])


def _is_answer(value: Any, *, bare: bool = True) -> bool:
    """Whether a value may be an answer; lists of numbers alone only where ``bare``."""
    if isinstance(value, dict):
        listed = any(isinstance(value.get(key), list) for key in _LIST_KEYS)
        return listed or any(key in value for key in (*_BOX_KEYS, *_POINT_KEYS))
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        [value] = value
    return (bare and _is_box(value)) or all(isinstance(item, dict) or (bare and _is_box(item)) for item in value)


def _is_box(value: Any) -> bool:
    return _numbers(value, 4, quoted=False) is not None


# Shapes that models fall back to


def _native_items(text: str) -> list[dict[str, Any]] | None:
    """Items in the native tokens of model families: four numbers are a box, two a point; None if there are none."""
    items: list[dict[str, Any]] = []
    label: dict[str, Any] = {}
    for match in _NATIVE.finditer(text):
        if match[2] is None:
            label = {"label": match[1].strip()} if match[1].strip() else {}
        elif numbers := [float(number) for number in _DIGITS.findall(match[2])]:
            key, step = ("point_2d", 2) if len(numbers) == 2 else ("bbox_2d", 4)
            items += [{key: numbers[i : i + step], **label} for i in range(0, len(numbers), step)]
    return items or None


def _located_items(text: str) -> list[dict[str, Any]] | None:
    """Items in tokens that say their own grid, in thousandths and x first; None if there are none.

    PaliGemma writes y1 x1 y2 x2 in 1024ths and the label behind, Florence-2 x1 y1 x2 y2 in thousands and the label
    before, Molmo points in percent. A run of other than four numbers (outlines, quadrangles apart) is no box.
    """
    items: list[dict[str, Any]] = []
    last, label = 0, ""
    for match in _LOCATIONS.finditer(text):
        numbers = [float(number) for number in re.findall(r"\d+", match[1])]
        before, last = text[last : match.start()].strip(" ;,\n"), match.end(1)
        if "<loc_" in match[1]:
            label = before.rpartition(">")[2].strip() or label
            numbers = [number + 0.5 for number in numbers]  # the middle of a bin
        else:
            label = match[2].strip()
            numbers = [numbers[i ^ 1] * 1000 / 1024 for i in range(len(numbers) // 2 * 2)]
        if len(numbers) % 4 == 0:
            named = {"label": label} if label else {}
            items += [{"bbox_2d": numbers[i : i + 4], **named} for i in range(0, len(numbers), 4)]
    for tag in _POINT_TAG.findall(text):
        at = {(axis, number): 10 * float(value) for axis, number, value in _POINT_PART.findall(tag)}
        items += [{"point_2d": [x, at["y", i]]} for (axis, i), x in at.items() if axis == "x" and ("y", i) in at]
    return items or None


def _flat_items(value: Any, depth: int = 8) -> Any:
    """An answer as a list of flat objects with the keys of the format; what is none of the known shapes stays."""
    if isinstance(value, dict):
        listed = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)), None)
        if listed is not None and not any(key in value for key in _BOX_KEYS):
            return _flat_items(listed, depth - 1)
        if value.get("no_target") is True:
            return []
        return _flat_item(value) if _is_answer(value) else value
    if not isinstance(value, list) or not depth:
        return value
    if _is_box(value):
        return [{"bbox_2d": value}]
    out: list[Any] = []
    for item in value:
        flat = _flat_items(item, depth - 1) if isinstance(item, dict | list) and item else item
        out += flat if isinstance(flat, list) else [flat]
    return out


def _flat_item(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The same object with the keys of the format; one for each box where it has several."""
    box_key = next((key for key in _BOX_KEYS if key in item), None)
    point_key = next((key for key in _POINT_KEYS if item.get(key) is not None), None)
    out = {key: part for key, part in item.items() if key not in (*_BOX_KEYS, *_POINT_KEYS)}
    if point_key is not None:
        points = _loaded(item[point_key])
        alone = point_key != "positive_points" and _numbers(points, 2, quoted=True)
        out["positive_points"] = [points] if alone else points
    if box_key is None:
        return [out]
    box = _loaded(item[box_key])
    if isinstance(box, dict):
        box = next(([box[side] for side in names] for names in _SIDES if set(names) <= box.keys()), box)
    while isinstance(box, list) and len(box) == 1 and isinstance(box[0], list):
        [box] = box
    if isinstance(box, list) and box and all(_is_box(part) for part in box):
        shared = {key: part for key, part in out.items() if key != "positive_points"}  # whose points, nobody knows
        return [{**shared, "bbox_2d": part} for part in box]
    if isinstance(box, list) and len(box) == 2 and all(_numbers(part, 2, quoted=False) for part in box):
        box = [*box[0], *box[1]]
    return [{**out, "bbox_2d": box}]


def _loaded(value: Any) -> Any:
    """Text that holds JSON, or four bare numbers, as what it holds."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        numbers = [float(number) for number in _DIGITS.findall(value[:200])]
        bare = len(numbers) in (2, 4) and not re.search(r"[A-Za-z]", value)
        return numbers if bare else value


def _balanced(text: str) -> bool:
    return text.count("[") <= text.count("]") and text.count("{") <= text.count("}")


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    # A cut list would be closed by the repair, with half a number taken for a whole one.
    if len(text) <= _REPAIRABLE and _balanced(text):
        try:
            value = json_repair.loads(text)
        except (ValueError, RecursionError):
            value = None
        if value:  # an empty list that a repair made is no "no target"
            return value
    raise _FaultError(Verdict.NOT_JSON, "The answer is not valid JSON; check brackets, commas and quotes.")


def _instance(item: Any, number: int, rules: AnswerRules, strict: bool) -> Instance:
    if not isinstance(item, dict):
        raise _FaultError(Verdict.BAD_ITEM, f"Item {number} must be an object with bbox_2d and positive_points.")
    box: Box | None = None
    if "bbox_2d" in item:
        corners = _numbers(item["bbox_2d"], 4, quoted=True)
        if corners is None:
            shown = sanitize_text(repr(item["bbox_2d"]), 80)
            wrong = f"Item {number}: bbox_2d must hold four numbers [x1, y1, x2, y2], not {shown}."
            raise _FaultError(Verdict.BAD_BOX, wrong)
        box = (corners[0], corners[1], corners[2], corners[3])
    if strict and box is None and rules.points == 0:
        raise _FaultError(Verdict.BAD_BOX, f"Item {number} needs bbox_2d.")
    if box is not None and not rules.boxes:
        if strict:
            raise _FaultError(Verdict.BAD_BOX, f"Item {number} must not have bbox_2d.")
        box = None if item.get("positive_points") else box  # points alone were asked for; a lone box is what was meant
    if rules.points == 0:
        if strict and "positive_points" in item:
            raise _FaultError(Verdict.WRONG_COUNT, f"Item {number} must not have positive_points.")
        if box is not None:
            item = {key: value for key, value in item.items() if key != "positive_points"}
    wanted = rules.points if strict else None
    if not strict and box is not None and item.get("positive_points", []) == []:
        item = {key: value for key, value in item.items() if key != "positive_points"}
    positive = _points(item, "positive_points", number, wanted, strict and rules.points != 0)
    negative: tuple[Point, ...] = ()
    if "negative_points" in item or (strict and rules.negatives):
        if not rules.negatives:
            raise _FaultError(Verdict.NEGATIVE_POINTS, f"Item {number} must not have negative_points.")
        negative = _points(item, "negative_points", number, rules.negatives, strict)
    if box is None and not positive:
        raise _FaultError(Verdict.BAD_ITEM, f"Item {number} has neither bbox_2d nor positive_points.")
    labels = (1,) * len(positive) + (0,) * len(negative)
    name = item.get("label", "") if strict else next((item[key] for key in ("label", *_PHRASE_KEYS) if key in item), "")
    return Instance(box, positive + negative, labels, name if isinstance(name, str) else "")


def _points(item: dict[str, Any], key: str, number: int, count: int | None, strict: bool) -> tuple[Point, ...]:
    if key not in item:
        if strict:
            raise _FaultError(Verdict.WRONG_COUNT, f"Item {number} needs {count or 'some'} {key}.")
        return ()
    value = item[key]
    pairs = [_numbers(pair, 2, quoted=True) for pair in value] if isinstance(value, list) else [None]
    if not all(pairs):
        wrong = f"Item {number}: {key} must be a list of [x, y] numbers, not {sanitize_text(repr(value), 80)}."
        raise _FaultError(Verdict.BAD_POINTS, wrong)
    if len(pairs) != (count or max(1, len(pairs))):
        wrong = f"Item {number}: {count or 'some'} {key} are asked for, not {len(pairs)}."
        raise _FaultError(Verdict.WRONG_COUNT, wrong)
    return tuple((pair[0], pair[1]) for pair in pairs if pair)


# Boxes with phrases (GeoSeg)


def _fenced_values(text: str) -> Iterator[Any]:
    """JSON objects and lists in reading order; only those of the last fence where one holds any."""
    for fence in reversed(_CLOSED_FENCE.findall(text)):
        if inside := list(_objects_and_lists(fence)):
            yield from inside
            return
    yield from _objects_and_lists(text)


def _objects_and_lists(text: str) -> Iterator[Any]:
    broken = False
    for start, _, value in _scan(text, _ITEMS):
        if value is _BROKEN:
            broken |= text[start] == "{"
        elif value != [] or not broken:  # an empty list amid a broken object does not mean "no target"
            yield value


def _entries(values: list[Any]) -> Iterator[dict[str, Any] | None]:
    """Objects that claim to be a target; None for each way to say that there is none."""
    for value in values:
        if isinstance(value, list):
            yield from _entries([v for v in _flat_items(value) if isinstance(v, dict)]) if value else (None,)
        elif isinstance(value, dict):
            listed = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)), None)
            box_key = next((key for key in _BOX_KEYS if key in value), None)
            if listed is not None:
                yield from _entries([listed])
            elif value.get("no_target") is True or (box_key and value[box_key] in (None, [])):
                yield None
            elif box_key:
                yield from _flat_item(value)
            elif any(key in value for key in _PHRASE_KEYS):
                yield value


def _target(entry: dict[str, Any], *, ordered: bool, default: str = "") -> Instance | None:
    box = _numbers(next((entry[key] for key in _BOX_KEYS if key in entry), None), 4, quoted=False)
    phrase = next((entry[key] for key in _PHRASE_KEYS if key in entry), default)
    if box is None or not isinstance(phrase, str) or not phrase.strip():
        return None
    x1, y1, x2, y2 = box
    if ordered:
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    center = _numbers(entry.get("center"), 2, quoted=False)
    return Instance((x1, y1, x2, y2), name=phrase.strip(), center=None if center is None else (center[0], center[1]))


def _loose_target(text: str, *, ordered: bool) -> Instance | None:
    box, phrase = _LOOSE_BOX.search(text), _LOOSE_PHRASE.search(text)
    if box is None or phrase is None:
        return None
    return _target({"bbox": [float(number) for number in box.groups()], "prompt": phrase[1]}, ordered=ordered)
