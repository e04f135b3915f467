"""Instructions as sentences, for training and for forged data sets.

Training asks for categories by name or use, for the objects that a selector picks, and by points or boxes, in wording
that training sees or that is held out. The forge asks for one object, by cues that are true of it alone. Every text is
a function of the arguments and of ``rng``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from terraprompt.errors import ConfigError
from terraprompt.language.categories import Category, Noun, Wordings, training_vocabulary
from terraprompt.language.cues import Cue
from terraprompt.language.frames import frames
from terraprompt.language.selector import Selector
from terraprompt.language.spatial import COUNTS, ORDINALS, patterns
from terraprompt.prompt import Task

__all__ = [
    "category_instruction",
    "comparison_instruction",
    "contextual_instruction",
    "function_instruction",
    "pick",
    "selector_instruction",
    "shortened",
    "unique_instruction",
]

_SENTENCE_SHARE = 0.25
#: Attribute questions that speak of one use, not two; and the words below which two are needed.
_ONE_USE_SHARE = 0.9
_LEAST_WORDS = 15
#: Least words of a question that compares.
_LEAST_WORDS_COMPARED = 25
_BARE_NAME_WEIGHT = 4.0  # of the first frame: the bare noun phrase is what most users type
_T = TypeVar("_T")


def category_instruction(
    name: str, rng: np.random.Generator, *, task: Task | str = Task.REFERRING, held_out: bool = False
) -> str:
    """Ask for all of a category: by one of its names (referring) or by function, use or consequence (reasoning).

    Args:
        name: a category of the training vocabulary.
        rng: source of randomness.
        task: referring or reasoning.
        held_out: use wording that training never sees, and in half of the cases such a sentence too.

    Raises:
        ConfigError: an unknown category, or an interactive task.
    """
    task = Task(task)
    if task is Task.INTERACTIVE:
        raise ConfigError("Points and boxes are written by interactive_instruction.", received=task.value)
    words = _words(name, held_out=held_out)
    wording = pick(words.for_task(task), rng)
    new_frame = held_out and rng.random() < 0.5
    if task is Task.REASONING:
        if wording.endswith("?"):
            return wording
        return _framed(wording, frames("clause", held_out=new_frame), rng)
    countable = any(wording == noun.plural for noun in words.nouns)
    article = pick(frames("article", held_out=new_frame and countable), rng)
    return _name_framed(article + wording, rng, held_out=new_frame)


def selector_instruction(
    selector: Selector, name: str, rng: np.random.Generator, *, selected: int = 1, held_out: bool = False
) -> str:
    """Ask for the objects of a category that a selector picks.

    Args:
        selector: without ``within``.
        name: a category of the training vocabulary.
        rng: source of randomness.
        selected: how many objects the selector picks here; a region is named in the singular for one, in the plural
            for several, and in either for none.
        held_out: use words of size and place that training never sees; noun and sentence are held out in half of
            the cases each.

    Raises:
        ConfigError: an unknown category, or a selector without phrasings.
    """
    nouns = _words(name, held_out=held_out and rng.random() < 0.5).nouns
    phrase = _selector_phrase(selector, nouns, rng, selected=selected, held_out=held_out)
    return _name_framed(phrase, rng, held_out=held_out and rng.random() < 0.5)


def contextual_instruction(
    selector: Selector, name: str, rng: np.random.Generator, *, selected: int = 1, held_out: bool = False
) -> str:
    """Reasoning over function and comparison at once: "which one is the largest place where people live?".

    Arguments and errors as in :func:`selector_instruction`; the category is never named.
    """
    roles = _words(name, held_out=held_out).roles
    phrase = _selector_phrase(selector, roles, rng, selected=selected, held_out=held_out)
    new_frame = held_out and rng.random() < 0.5
    return pick(frames("context", held_out=new_frame), rng).format(x=phrase)


def unique_instruction(cue: Cue, category: Category, rng: np.random.Generator, further: Sequence[str] = ()) -> str:
    """Ask for the one object that a cue is true of; ``further`` clauses after "it" say more about it."""
    phrase = pick(cue.wordings, rng).phrase.format(s=category.singular)
    said = "".join(f", which {shortened(clause)}" for clause in further)
    # a clause stands at the end of its sentence
    options = [frame for frame in frames("unique.question") if not further or frame[-2] == "}"]
    return pick(options, rng).format(x=phrase + said)


def function_instruction(category: Category, rng: np.random.Generator) -> tuple[str, str]:
    """Ask for the only object of a category by what it is for; and the reason, which names it."""
    first, second = category.functions if rng.random() < 0.5 else category.functions[::-1]
    form = "object" if category.is_object else "place"
    parts = ("ask", "what", "tail", "all", "thing" if category.is_object else "place")
    drawn = {part: pick(frames(f"function.{form}.{part}"), rng) for part in parts}
    count = "one" if rng.random() < _ONE_USE_SHARE else "two"
    frame = pick(frames(f"function.{form}.{count}"), rng)
    question = _sentence(frame.format(a=first, b=second, **drawn))
    if len(question.split()) < _LEAST_WORDS:
        frame = pick(frames(f"function.{form}.two"), rng)
        question = _sentence(frame.format(a=first, b=second, **drawn))
    return question, pick(frames(f"function.{form}.reason"), rng).format(s=category.singular, a=first)


def comparison_instruction(
    category: Category, count: int, clauses: Sequence[str], rng: np.random.Generator
) -> tuple[str, str]:
    """Ask for one of several objects by their function and by clauses after "it"; and the reason.

    Args:
        category: never named in the question.
        count: objects of the category, 2 to 10.
        clauses: at least two, the first of which is true of the one object alone.
        rng: source of randomness.
    """
    said = " and that ".join(map(shortened, clauses))
    form = "comparison.object" if category.is_object else "comparison.place"
    every = [
        f"{several.format(n=COUNTS[count], a=use)} {choice.format(cues=said)}"
        for several in frames(form)
        for use in category.functions
        for choice in frames("comparison.choice")
    ]
    counts = {text: len(text.split()) for text in every}
    least = min((n for n in counts.values() if n >= _LEAST_WORDS_COMPARED), default=max(counts.values()))
    question = pick([text for text, n in counts.items() if least <= n <= least + 2], rng)
    c = shortened(clauses[0])
    reason = pick(frames("comparison.reason"), rng).format(n=COUNTS[count], p=category.plural, c=c)
    return question, reason


_SHORTER = (
    (r"is the one (nearest|closest|farthest|furthest) ", r"is \1 "),
    (r"is the one (in|on) ", r"lies \1 "),
    (r"is the one with ", "has "),
    (r"is the (\w+) one (from .+)$", r"is the \1 \2"),
    (r"is the (.+) one$", r"is the \1"),
)


def shortened(clause: str) -> str:
    """A clause after "that" or "which" without its "one": "is the largest one" becomes "is the largest"."""
    for pattern, short in _SHORTER:
        clause, done = re.subn(rf"^{pattern}", short, clause)
        if done:
            break
    return clause


def _sentence(text: str) -> str:
    """Each sentence begins with a capital; after a colon or a comma a request goes on in small letters."""
    return re.sub(r"([:,] )([A-Z])", lambda found: found[1] + found[2].lower(), text[0].upper() + text[1:])


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
    noun = pick(nouns, rng)
    return pick(options, rng).text.format(
        s=noun.singular, p=noun.plural, n=COUNTS.get(selector.count, ""), o=ORDINALS.get(selector.rank, "")
    )


def _name_framed(phrase: str, rng: np.random.Generator, *, held_out: bool) -> str:
    options = frames("name", held_out=held_out)
    if not held_out:
        weights = np.array([_BARE_NAME_WEIGHT] + [1.0] * (len(options) - 1))
        options = (options[int(rng.choice(len(options), p=weights / weights.sum()))],)
    return _framed(phrase, options, rng)


def _framed(phrase: str, options: Sequence[str], rng: np.random.Generator) -> str:
    sentence = pick(options, rng).format(x=phrase)
    if rng.random() < _SENTENCE_SHARE:
        return sentence[0].upper() + sentence[1:] + "."
    return sentence


def _words(name: str, *, held_out: bool) -> Wordings:
    category = training_vocabulary()[name]
    return category.held_out if held_out else category.trained


def pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """One of several, each equally often."""
    return options[int(rng.integers(len(options)))]
