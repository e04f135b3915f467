"""What a reasoner wrote, read as instances: ``<think>…</think><answer>```json [...]```</answer>`` (Think2Seg-RS).

Each item of the list is ``{"bbox_2d": [x1, y1, x2, y2], "positive_points": [[x, y], [x, y]]}``; an empty list says that
there is no target. Two readers: the strict one decides the format reward of a training, the lenient one reads at
inference. Both agree with the recorded verdicts of Think2Seg-RS but for one of its bugs: **a box whose corners are not
numbers passed its format check when it was alone** (and was refused beside a second item). Here it is
:attr:`Verdict.BAD_BOX`, always. The other bug, that such a box took the reward of the whole batch, is told of in
:mod:`terraprompt.training.rewards`. Numbers in quotes are numbers, as recorded.

Coordinates are the reasoner's own; :mod:`terraprompt.vlm.conventions` says what they mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import json_repair

from terraprompt.errors import ConfigError

__all__ = [
    "AnswerRules",
    "Instance",
    "Parsed",
    "Verdict",
    "parse_lenient",
    "parse_strict",
    "tagged",
    "thought",
    "unstructured",
]

Point = tuple[float, float]
Box = tuple[float, float, float, float]

# None of these can fail after a long look ahead: hostile text of any size is read in linear time.
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_FENCE = re.compile(r"```json(.*?)(```|\Z)", re.DOTALL)
_ANY_FENCE = re.compile(r"```[a-zA-Z]*(.*?)(?:```|\Z)", re.DOTALL)
# Repair takes quadratic time on hostile text (half a second for 4,000 characters); a completion of 1,024 tokens fits.
_REPAIRABLE = 4096
_STARTS = 64
_FARTHEST = 1e9  # no image is that large, and areas of larger boxes overflow
_OPENING = re.compile(r"[\[{]")


class Verdict(StrEnum):
    """How the reading of an answer ended. ``OK`` and ``NO_TARGET`` are answers, all others are failures."""

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
        name: what the reasoner calls it; "" if it does not say.
    """

    box: Box | None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        labels = self.labels or (1,) * len(self.points)
        if len(labels) != len(self.points):
            raise ConfigError("Every point needs one label.", received=(len(self.points), len(labels)))
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """What an item must hold.

    Attributes:
        points: positive points an item; None = any number (the strict reader still wants one).
        negatives: negative points an item; 0 = the key ``negative_points`` must not be there (found unstable by the
            authors of Think2Seg-RS).
    """

    points: int | None = 2
    negatives: int = 0

    def __post_init__(self) -> None:
        if (self.points is not None and self.points < 1) or self.negatives < 0:
            raise ConfigError("An item needs at least one point and no fewer than 0 negative ones.", received=self)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A text that was read.

    Attributes:
        think: the reasoning, without its tags; "" if there is none.
        instances: in the order of the answer, before suppression of duplicates; empty unless the verdict is OK.
        verdict: see :class:`Verdict`.
        complaint: one sentence that says what to mend, for the reasoner; "" if the verdict is ok.
    """

    think: str
    instances: tuple[Instance, ...]
    verdict: Verdict
    complaint: str = ""

    @property
    def ok(self) -> bool:
        """Whether the text is an answer, "no target" included."""
        return self.verdict.ok


class _FaultError(Exception):
    """Stops the reading; never leaves this module."""

    def __init__(self, verdict: Verdict, complaint: str) -> None:
        super().__init__(complaint)
        self.verdict, self.complaint = verdict, complaint


def parse_strict(text: str, rules: AnswerRules | None = None) -> Parsed:
    """Read as the format reward does: a ```` ```json ```` fence, a list of objects, points in every item.

    The fence is looked for in the answer tags, or in the whole text where there are none (tags are the business of
    :func:`tagged`). A box may be missing; an item without points may not.
    """
    return _parsed(text, rules or AnswerRules(), strict=True)


def parse_lenient(text: str, rules: AnswerRules | None = None) -> Parsed:
    """Read what was meant: the fence is optional, text round the JSON is ignored, a box or points alone are enough.

    Of several lists the last one counts. JSON with small faults is repaired; a list that was cut off is not, and "no
    target" is only what says so literally: ``[]``.
    """
    return _parsed(text, rules or AnswerRules(), strict=False)


def tagged(text: str) -> bool:
    """Whether the whole text is ``<think>…</think><answer>…</answer>``, each tag once, with white space around."""
    once = all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and re.fullmatch(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", text, re.DOTALL) is not None


def thought(text: str) -> str:
    """What stands between the first ``<think>`` and the ``</think>`` after it; "" if there is none."""
    _, _, rest = text.partition("<think>")
    think, closing, _ = rest.partition("</think>")
    return think if closing else ""


def unstructured(text: str) -> str:
    """A schema-bound answer ``{"think": …, "instances": […]}`` in the tagged form; any other text as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(value, dict) or not isinstance(value.get("instances"), list):
        return text
    return f"<think>{value.get('think', '')}</think><answer>```json\n{json.dumps(value['instances'])}\n```</answer>"


def _parsed(text: str, rules: AnswerRules, *, strict: bool) -> Parsed:
    think = thought(text).strip()
    try:
        if not text.strip():
            raise _FaultError(Verdict.EMPTY, "The answer is empty.")
        items = _fenced(text) if strict else _found(text)
        if not isinstance(items, list):
            raise _FaultError(Verdict.NOT_A_LIST, "The JSON must be a list of objects, also for a single one.")
        instances = tuple(_instance(item, number, rules, strict) for number, item in enumerate(items, 1))
    except _FaultError as fault:
        return Parsed(think, (), fault.verdict, fault.complaint)
    return Parsed(think, instances, Verdict.OK if instances else Verdict.NO_TARGET)


def _fenced(text: str) -> Any:
    answer = _ANSWER.search(text)
    fence = _FENCE.search(answer[1] if answer else text)
    if fence is None or not fence[2]:
        raise _FaultError(Verdict.NO_FENCE, "Put the JSON list between ```json and ```.")
    return _decoded(fence[1])


def _found(text: str) -> Any:
    """The last list of the answer, or what stands in its place."""
    answers = _ANSWER.findall(text)
    part = answers[-1] if answers else text.rpartition("</think>")[2]
    fences = [fence for fence in _ANY_FENCE.findall(part) if fence.strip()]
    part = (fences[-1] if fences else part).strip()
    try:
        return json.loads(part)
    except (ValueError, RecursionError):
        pass
    values, rest = _values(part)
    if not _balanced(rest):
        raise _FaultError(Verdict.NOT_JSON, "The JSON is not closed; was the answer cut off?")
    lists = [value for value in values if isinstance(value, list)]
    if lists or (values and "[" not in rest):
        return (lists or values)[-1]
    start, end = part.find("["), part.rfind("]")
    if start < 0 or end < start:
        raise _FaultError(Verdict.NOT_JSON, "There is no JSON list in the answer.")
    return _decoded(part[start : end + 1])


def _values(text: str) -> tuple[list[Any], str]:
    """Lists of objects and answering objects that stand in a text, none within another, and the text without them."""
    decoder, values, rest, at = json.JSONDecoder(), [], "", 0
    for _ in range(_STARTS):
        opening = _OPENING.search(text, at)
        if opening is None:
            break
        start = opening.start()
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = None, opening.end()
        if value is not None and _is_answer(value):
            values.append(value)
            rest += text[at:start]
        else:
            rest += text[at:end]
        at = end
    return values, rest + text[at:]


def _is_answer(value: Any) -> bool:
    if isinstance(value, dict):
        return "bbox_2d" in value or "positive_points" in value
    return all(isinstance(item, dict) for item in value)


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
    box = _box(item["bbox_2d"], number) if "bbox_2d" in item else None
    positive = _points(item, "positive_points", number, rules.points, strict)
    negative: tuple[Point, ...] = ()
    if "negative_points" in item or (strict and rules.negatives):
        if not rules.negatives:
            raise _FaultError(Verdict.NEGATIVE_POINTS, f"Item {number} must not have negative_points.")
        negative = _points(item, "negative_points", number, rules.negatives, strict)
    if box is None and not positive:
        raise _FaultError(Verdict.BAD_ITEM, f"Item {number} has neither bbox_2d nor positive_points.")
    labels = (1,) * len(positive) + (0,) * len(negative)
    name = item.get("label", "")
    return Instance(box, positive + negative, labels, name if isinstance(name, str) else "")


def _box(value: Any, number: int) -> Box:
    numbers = _numbers(value, 4)
    if numbers is None:
        raise _FaultError(
            Verdict.BAD_BOX, f"Item {number}: bbox_2d must hold four numbers [x1, y1, x2, y2], not {_short(value)}."
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _points(item: dict[str, Any], key: str, number: int, count: int | None, strict: bool) -> tuple[Point, ...]:
    if key not in item:
        if strict:
            raise _FaultError(Verdict.WRONG_COUNT, f"Item {number} needs {count or 'some'} {key}.")
        return ()
    value = item[key]
    pairs = [_numbers(pair, 2) for pair in value] if isinstance(value, list) else [None]
    if not all(pairs):
        raise _FaultError(
            Verdict.BAD_POINTS, f"Item {number}: {key} must be a list of [x, y] numbers, not {_short(value)}."
        )
    if len(pairs) != (count or max(1, len(pairs))):
        raise _FaultError(
            Verdict.WRONG_COUNT, f"Item {number}: {count or 'some'} {key} are asked for, not {len(pairs)}."
        )
    return tuple((pair[0], pair[1]) for pair in pairs if pair)


def _numbers(value: Any, count: int) -> Sequence[float] | None:
    """Numbers that may be coordinates, quoted ones included (as recorded); None for anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float | str) for v in value):
        return None
    try:
        numbers = [float(v) for v in value]
    except (ValueError, OverflowError):
        return None
    return numbers if all(abs(number) <= _FARTHEST for number in numbers) else None  # NaN is refused too


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:79] + "…"
