"""Instructions as sentences: category words, selectors, points and boxes, and categories that are not there.

Everything is a function of its arguments and of the ``rng`` it is given.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np

from terraprompt.errors import ConfigError
from terraprompt.language import sentence_frames as frames
from terraprompt.language.category import Noun
from terraprompt.language.knowledge import CATEGORIES, category
from terraprompt.language.plausibility import ABSENT_IN_SOURCE, DOUBTED, EXCEPTIONS
from terraprompt.language.selector import Selector
from terraprompt.language.spatial import COUNTS, ORDINALS, patterns
from terraprompt.prompt import Task

__all__ = [
    "AbsentCategory",
    "absent_categories",
    "absent_category",
    "category_instruction",
    "contextual_instruction",
    "interactive_instruction",
    "selector_instruction",
    "without_coordinates",
]

AbsenceKind = Literal["verified", "assumed"]
_SENTENCE_SHARE = 0.25
_T = TypeVar("_T")


def category_instruction(
    name: str, rng: np.random.Generator, *, task: Task | str = Task.REFERRING, held_out: bool = False
) -> str:
    """Ask for all of a category: by one of its names (referring) or by function, use or consequence (reasoning).

    Args:
        name: a category of the knowledge table.
        rng: source of randomness.
        task: referring or reasoning.
        held_out: wording, and in half of the cases the sentence too, that training never sees.

    Raises:
        ConfigError: an unknown category, or an interactive task.
    """
    task = Task(task)
    if task is Task.INTERACTIVE:
        raise ConfigError("Points and boxes are written by interactive_instruction.", received=task.value)
    wording = _pick(category(name).wordings(task, held_out=held_out), rng)
    new_frame = held_out and rng.random() < 0.5
    if task is Task.REASONING:
        if wording.endswith("?"):
            return wording
        return _framed(wording, frames.HELD_CLAUSE_FRAMES if new_frame else frames.CLAUSE_FRAMES, rng)
    article = _pick(frames.HELD_ARTICLES if new_frame and _countable(name, wording) else frames.ARTICLES, rng)
    return _name_framed(article + wording, rng, held_out=new_frame)


def selector_instruction(
    selector: Selector, name: str, rng: np.random.Generator, *, selected: int = 1, held_out: bool = False
) -> str:
    """Ask for the objects of a category that a selector picks.

    Args:
        selector: without ``within``.
        name: a category of the knowledge table.
        rng: source of randomness.
        selected: how many objects the selector picks here; a region is named in the singular for one, in the plural
            for several, and in either for none.
        held_out: words of size and place that training never sees; noun and sentence are held back in half of the
            cases.

    Raises:
        ConfigError: an unknown category, or a selector without phrasings.
    """
    row = category(name)
    nouns = row.held_nouns if held_out and rng.random() < 0.5 else row.nouns
    phrase = _selector_phrase(selector, nouns, rng, selected=selected, held_out=held_out)
    return _name_framed(phrase, rng, held_out=held_out and rng.random() < 0.5)


def contextual_instruction(
    selector: Selector, name: str, rng: np.random.Generator, *, selected: int = 1, held_out: bool = False
) -> str:
    """Reasoning over function and comparison at once: "which one is the largest place where people live?".

    Arguments and errors as in :func:`selector_instruction`; the category is never named.
    """
    row = category(name)
    phrase = _selector_phrase(
        selector, row.held_roles if held_out else row.roles, rng, selected=selected, held_out=held_out
    )
    new_frame = held_out and rng.random() < 0.5
    return _pick(frames.HELD_CONTEXT_FRAMES if new_frame else frames.CONTEXT_FRAMES, rng).format(x=phrase)


def interactive_instruction(
    rng: np.random.Generator,
    *,
    points: Sequence[Sequence[float]] = (),
    boxes: Sequence[Sequence[float]] = (),
    name: str | None = None,
    decimals: int = 3,
) -> str:
    """The fixed sentences for points or boxes (UniGeoSeg, section 3).

    Args:
        rng: chooses between "region" and "target".
        points: (x, y) pairs in [0, 1] of the image.
        boxes: (x0, y0, x1, y1) in [0, 1] of the image.
        name: a category to name instead of "region" or "target".
        decimals: of the coordinates.

    Raises:
        ConfigError: neither or both of points and boxes, a coordinate outside [0, 1], or an unknown category.
    """
    if bool(len(points)) == bool(len(boxes)):
        raise ConfigError("An interactive instruction holds either points or boxes.", received=(points, boxes))
    if any(not 0 <= value <= 1 for item in (*points, *boxes) for value in item):
        raise ConfigError("Coordinates of an instruction lie in [0, 1].", received=(points, boxes))
    what = ("region", "target")[int(rng.integers(2))] if name is None else category(name).singular

    def pair(x: float, y: float) -> str:
        return f"{x:.{decimals}f}, {y:.{decimals}f}"

    if len(points):
        listed = ", ".join(f"({pair(float(x), float(y))})" for x, y in points)
        return f"Please segment the {what} corresponding to the points {{{listed}}}."
    listed = "; ".join(
        f"x0,y0=[{pair(float(x0), float(y0))}], x1,y1=[{pair(float(x1), float(y1))}]" for x0, y0, x1, y1 in boxes
    )
    return f"Please segment the {what} corresponding to the box {listed}."


def without_coordinates(text: str) -> str:
    """A fixed interactive sentence without its numbers, for models that take coordinates as data alone.

    "Please segment the target corresponding to the box x0,y0=[…], x1,y1=[…]." becomes "… corresponding to the box.".
    """
    return re.sub(r"(the (?:points|box)) .*$", r"\1.", text)


@dataclass(frozen=True, slots=True)
class AbsentCategory:
    """A category that is not in an image.

    Attributes:
        category: its name.
        kind: "verified" = annotators looked for it and marked none; "assumed" = implausible for the source.
    """

    category: str
    kind: AbsenceKind


class _Labelled(Protocol):
    """What :func:`absent_category` needs of a record."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def labelled(self) -> tuple[str, ...]: ...
    @property
    def present(self) -> tuple[str, ...]: ...


def absent_categories(record: _Labelled) -> tuple[AbsentCategory, ...]:
    """All categories known or assumed to be absent from an image, verified ones first."""
    unproven = {*record.present, *DOUBTED.get(record.source, ())}
    verified = [name for name in record.labelled if name not in unproven and name in CATEGORIES]
    doubtful = {*record.labelled, *record.present, *EXCEPTIONS.get(record.id, ())}
    assumed = sorted(ABSENT_IN_SOURCE.get(record.source, frozenset()) - doubtful)
    return (
        *(AbsentCategory(name, "verified") for name in verified),
        *(AbsentCategory(name, "assumed") for name in assumed),
    )


def absent_category(
    record: _Labelled,
    rng: np.random.Generator,
    *,
    kinds: Collection[AbsenceKind] = ("verified", "assumed"),
    among: Collection[str] | None = None,
) -> AbsentCategory | None:
    """A category to ask for in vain, or None if nothing is certain.

    Args:
        record: an image record (``id``, ``source``, ``labelled``, ``present``).
        rng: source of randomness; a kind is drawn first, each with equal chance where both are possible.
        kinds: which grounds to accept.
        among: only these categories.
    """
    options = [
        option
        for option in absent_categories(record)
        if option.kind in kinds and (among is None or option.category in among)
    ]
    if not options:
        return None
    kind = _pick(tuple(dict.fromkeys(option.kind for option in options)), rng)
    return _pick(tuple(option for option in options if option.kind == kind), rng)


def _selector_phrase(
    selector: Selector, nouns: Sequence[Noun], rng: np.random.Generator, *, selected: int, held_out: bool
) -> str:
    if selector.within is not None:
        raise ConfigError("Combined selectors are parsed, not written.", received=selector)
    options = [
        pattern
        for pattern in patterns(selector.kind, where=selector.where, rank=selector.rank, count=selector.count)
        if pattern.held_out == held_out
        and (selector.kind != "region" or selected == 0 or pattern.plural == (selected > 1))
    ]
    if selector.kind == "region" and selector.where == "centre":
        # the centre is only a region for a plural; one object there is "the central one"
        nouns = [noun for noun in nouns if noun.singular != noun.plural]
        options = options or [p for p in patterns("region", where="centre") if p.held_out == held_out]
    if not options or not nouns:
        raise ConfigError("This selector has no phrasing.", received=selector)
    noun = _pick(nouns, rng)
    return _pick(options, rng).text.format(
        s=noun.singular, p=noun.plural, n=COUNTS.get(selector.count, ""), o=ORDINALS.get(selector.rank, "")
    )


def _name_framed(phrase: str, rng: np.random.Generator, *, held_out: bool) -> str:
    if held_out:
        return _framed(phrase, frames.HELD_NAME_FRAMES, rng)
    weights = np.asarray(frames.NAME_FRAME_WEIGHTS, np.float64)
    index = int(rng.choice(len(frames.NAME_FRAMES), p=weights / weights.sum()))
    return _framed(phrase, (frames.NAME_FRAMES[index],), rng)


def _framed(phrase: str, options: Sequence[str], rng: np.random.Generator) -> str:
    sentence = _pick(options, rng).format(x=phrase)
    if rng.random() < _SENTENCE_SHARE:
        return sentence[0].upper() + sentence[1:] + "."
    return sentence


def _countable(name: str, wording: str) -> bool:
    return any(wording == noun.plural for noun in (*category(name).nouns, *category(name).held_nouns))


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]
