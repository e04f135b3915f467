"""What of a sentence can be followed, before a model with a known vocabulary is asked.

A model that knows a few categories answers every sentence, also "asdf qwer" and "not buildings". So the sentence is
taken apart first: known nouns (or a known description by use) are what the model is asked for; negation, size limits,
counts and selectors are done over the objects of the scene; the rest is named in a remark. A sentence without anything
known is refused.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from terraprompt.language.categories import training_vocabulary
from terraprompt.language.foreign import foreign_nouns
from terraprompt.language.frames import frames
from terraprompt.language.grammar import strip_command
from terraprompt.language.parse_selector import Selector, describe, parse_selector
from terraprompt.language.spatial import COUNTS, ORDINALS, PLACES, SIDES, patterns
from terraprompt.prompt import Task, infer_text_task

__all__ = ["MIN_AREA_M2", "Understood", "understand"]

#: Ground that the smallest object of a category covers; what is smaller is a speck on something else.
MIN_AREA_M2: Mapping[str, float] = {
    "water": 100.0,
    "lake": 100.0,
    "swimming_pool": 6.0,
    "forest": 100.0,
    "tree": 2.0,
    "vegetation": 2.0,
    "field": 100.0,
    "landslide": 50.0,
    "bare_ground": 10.0,
    "road": 25.0,
    "building": 8.0,
    "storage_tank": 5.0,
    "solar_panel": 1.0,
    "sports_court": 50.0,
    "car": 3.0,
    "bus": 12.0,
    "truck": 8.0,
    "boat": 3.0,
    "airplane": 15.0,
}


@dataclass(frozen=True, slots=True)
class Understood:
    """A sentence taken apart. Nothing is asked if ``refusal`` is set.

    Attributes:
        phrases: what the model is asked for, one after the other; their union is the answer.
        categories: what is meant by them, names of the vocabulary.
        minus: phrases whose pixels are taken from the answer.
        negated: everything else is meant.
        selector: which of the objects are meant.
        excluded: which of the objects are not meant ("except the largest").
        single: one object is meant ("the building in the upper right"): of several in a place, the outermost.
        min_area_m2: smaller objects are not meant.
        max_area_m2: larger objects are not meant.
        counted: the number of objects was asked for, or given.
        unknown_words: words that were not followed.
        remarks: what the user must know.
        refusal: why the model is not asked.
    """

    phrases: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    negated: bool = False
    selector: Selector | None = None
    excluded: Selector | None = None
    single: bool = False
    min_area_m2: float | None = None
    max_area_m2: float | None = None
    counted: bool = False
    unknown_words: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether a category is all that was said."""
        return not (
            self.refusal or self.minus or self.negated or self.selector or self.excluded or self.counted
            or self.unknown_words or self.min_area_m2 or self.max_area_m2 or len(self.phrases) > 1
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """What was understood, for provenance: only what is set, without remarks."""
        values: dict[str, Any] = {
            "phrases": list(self.phrases),
            "categories": list(self.categories),
            "without": list(self.minus),
            "everything_else": self.negated,
            "selector": self.selector and describe(self.selector),
            "except": self.excluded and describe(self.excluded),
            "single": self.single,
            "larger_than_m2": self.min_area_m2,
            "smaller_than_m2": self.max_area_m2,
            "counted": self.counted,
            "refused": self.refusal,
        }
        return {name: value for name, value in values.items() if value}


def understand(
    text: str, known: Sequence[str], *, engine: str = "the model", is_word: Callable[[str], bool] = lambda word: False
) -> Understood:
    """Take a sentence apart.

    Args:
        text: of the user.
        known: names of the categories that the model knows, of the training vocabulary.
        engine: its name, for remarks.
        is_word: whether something is a word of English; one that is not is a typo if a known noun is near.
    """
    reader = _Reader(tuple(known), engine)
    spelt, corrected = reader.corrected(_normal(text), is_word)
    found = reader.read(spelt) if corrected else reader.read(text)
    if found.refusal:  # words that were corrected in vain are not said
        found = reader.read(text)
        corrected = ()
    remarks = [f'"{wrong}" was read as "{right}".' for wrong, right in corrected]
    if found.unknown_words and not found.refusal:
        words = ", ".join(f'"{word}"' for word in found.unknown_words)
        asked = " and ".join(found.phrases)
        verb = "was" if len(found.unknown_words) == 1 else "were"
        remarks.append(f"{words} {verb} not followed; the answer is for: {asked}. {reader.knows}")
    return replace(found, remarks=(*remarks, *found.remarks))


_NUMBER = r"(\d+(?:[.,]\d+)*)"
_UNITS = {
    r"km2|km²|km\^2|sq\.? ?km|square (?:km|kilomet(?:re|er)s?)": 1e6,
    r"m2|m²|m\^2|sqm|sq\.? ?m|qm|square (?:m|met(?:re|er)s?)": 1.0,
    r"ha|hectares?": 1e4,
    r"acres?": 4046.8564224,
    r"ft2|ft²|ft\^2|sqft|sq\.? ?ft|square (?:ft|feet|foot)": 0.09290304,
}
_UNIT = rf"({'|'.join(_UNITS)})"
_MORE = (
    r"(?:(?:larger|bigger|greater|more|wider) than|(?:of |with )?at least|over|above|exceeding|from|"
    r"(?:no|not) (?:smaller|less) than|>=?|≥|min(?:imum)?(?: of)?)"
)
_LESS = (
    r"(?:(?:smaller|less|fewer|tinier) than|(?:of |with )?at most|under|below|up to|"
    r"(?:no|not) (?:larger|bigger|more|greater) than|<=?|≤|max(?:imum)?(?: of)?)"
)
_LEAD = (
    r",?\s*(?:(?:that|which) (?:are|is|have|has|cover|covers|measure)\s+)?"
    r"(?:(?:with|of|having) )?(?:(?:an?|the) )?(?:(?:area|size|footprint|surface)s? )?(?:of )?(?:between )?"
)
_BETWEEN = re.compile(
    rf"{_LEAD}\b(?:between |from ){_NUMBER}\s*{_UNIT}? (?:and|to) {_NUMBER}\s*{_UNIT}(?: in (?:area|size))?(?!\w)"
)
_LIMIT = re.compile(
    rf"{_LEAD}(?<!\w)(?P<side>{_MORE}|{_LESS})\s*{_NUMBER}\s*{_UNIT}(?: in (?:area|size)| large| big)?(?!\w)"
)
_LIMIT_AFTER = re.compile(rf",?\s*{_NUMBER}\s*{_UNIT} (?:or|and) (?P<side>more|larger|bigger|less|smaller)(?!\w)")

_COUNT = re.compile(
    r"^(?:(?:please )?(?:tell me |say )?(?:how many|what is the number of|(?:the )?number of|count(?: of)?|a count of)|"
    r"(?:are|is) there(?: any| an?)?|do you see(?: any)?) (?P<rest>.+?)"
    r"(?: (?:are|is)(?: there| visible)?| there are| do you see| can you see| exist)?(?: (?:here|there))?$"
)
_NUMBERED = re.compile(rf"^(?:the )?(?P<n>{'|'.join(COUNTS.values())}|one|a dozen|\d{{1,3}}) (?P<rest>[^\d].*)$")
_ALL = (
    r"(?:everything|anything|all(?: of it| areas| pixels| places| land)?|whatever|what|every pixel|the rest|"
    r"areas?|places?|parts?|land|pixels|"
    r"things|the (?:area|land|ground|pixels))"
)
_NEGATED = re.compile(
    rf"^(?:{_ALL}(?: else)? )?(?:(?:that|which) )?(?:(?:is|are|does|do) )?"
    r"(?:except(?: for)?|excepting|but(?: not)?|besides|other than|apart from|aside from|excluding|without|not|minus|"
    r"outside(?: of)?|no|non|anything but|do not \w+|never \w+|ignore|exclude|avoid|skip|leave out|"
    r"the (?:inverse|opposite|complement) of|not showing|free of)"
    r"(?: (?:any|showing|contain(?:ing)?))? (?P<rest>.+?)(?: (?:areas?|pixels|land))?$"
)
_NEITHER = re.compile(r"^(?:everything )?(?:that is )?neither (?P<rest>.+)$")
_EXCEPT = re.compile(
    r"^(?P<head>.+?),? (?P<word>except(?: for)?|but not|other than|apart from|aside from|"
    r"excluding|minus|not|without|but no)"
    r" (?P<rest>.+)$"
)
_JOIN = re.compile(
    r",? (?:and also|and|or|nor|plus|as well as|together with|along with) |, (?:and |or )?| ?& ?|(?<=\w) ?[/+] ?(?=\w)"
)
_ONES = re.compile(r" ?\b(?:one|ones)\b")
# Words after a noun that begin something else than a compound; "ing" and "ed" too.
_AFTER = re.compile(
    r"^(?:in|on|at|of|near\w*|clos\w+|beside|by|next|between|behind|above|below|beneath|over|under|along|around|against|"
    r"across|from|to|towards?|opposite|left|right|upper|lower|north\w*|south\w*|east\w*|west\w*|top|bottom|than|not|no|"
    r"inside|outside|within|through|past|off|into|away|that|which|who|whose|is|are|was|were|where|if|should|could|can|"
    r"would|with|without|for|and|or|but|as|so|because|larger|smaller|bigger|taller|longer|wider|older|newer|more|less|"
    r"have|has|had|do|does|there|here|now|only|\d.*|\w+ing|\w+ed)$"
)
_PREPOSITION = re.compile(
    r"^(?:in|on|at|of|near\w*|beside|by|between|behind|above|below|beneath|over|under|along|around|against|across|from|to|"
    r"towards?|inside|outside|within|through|with|without|for)$"
)
_LITTLE = frozenset(
    [
        "a",
        "an",
        "the",
        "all",
        "any",
        "each",
        "every",
        "of",
        "in",
        "on",
        "at",
        "is",
        "are",
        "there",
        "here",
        "please",
        "me",
        "my",
        "this",
        "that",
        "these",
        "those",
        "it",
        "its",
        "i",
        "you",
        "we",
        "to",
        "for",
        "and",
        "or",
        "some",
        "both",
        "just",
        "only",
        "one",
        "ones",
    ]
)
#: Words so common in clauses of use that they say nothing of a category.
_STOP = _LITTLE | frozenset(
    [
        "what",
        "where",
        "which",
        "who",
        "how",
        "why",
        "when",
        "would",
        "could",
        "should",
        "can",
        "may",
        "might",
        "must",
        "will",
        "be",
        "been",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "not",
        "no",
        "with",
        "from",
        "by",
        "as",
        "than",
        "so",
        "if",
        "then",
        "they",
        "them",
        "their",
        "he",
        "she",
        "his",
        "her",
        "up",
        "out",
        "into",
        "over",
        "under",
        "one's",
        "thing",
        "things",
        "place",
        "places",
        "part",
        "parts",
        "object",
        "objects",
        "area",
        "areas",
        "something",
        "somebody",
        "someone",
        "people",
        "person",
        "find",
        "show",
        "segment",
        "mark",
        "used",
        "use",
        "get",
        "go",
        "make",
        "made",
        "need",
        "needed",
        "look",
        "like",
        "good",
    ]
)


@dataclass(frozen=True)
class _Reader:
    """Reads sentences for a model that knows some categories."""

    known: tuple[str, ...]
    engine: str

    @property
    def knows(self) -> str:
        names = [training_vocabulary()[name].plural for name in self.known]
        return f"{self.engine} knows {', '.join(names)}."

    def corrected(self, text: str, is_word: Callable[[str], bool]) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The text with misspelt nouns put right, and what was put right."""
        changed = {}
        words = _single_words(self.known)
        if any(word not in words and not is_word(word) for word in foreign_nouns(text, self.known)):
            return text, ()
        for token in dict.fromkeys(re.findall(r"[a-z]{3,}", text)):
            if token in words or token in _STOP or token in _all_words() or is_word(token):
                continue
            limit = 1 if len(token) < 6 else 2
            near = [(d, w) for w in words if (d := _distance(token, w, limit)) <= limit and len(token) >= 4]
            if near or sorted(token) == sorted("the"):
                changed[token] = min(near)[1] if near else "the"
        for wrong, right in changed.items():
            text = re.sub(rf"\b{wrong}\b", right, text)
        return text, tuple(changed.items())

    def read(self, text: str) -> Understood:
        plain = self._plain(text)
        if plain is not None:
            return plain
        core = _normal(text)
        if match := _COUNT.match(core):
            return replace(self.read(match["rest"]), counted=True)
        core, low, high = _limits(core)
        if low or high:
            found = self.read(core) if core else self._refused(text)
            return replace(found, min_area_m2=low, max_area_m2=high)
        command = strip_command(core)
        for form in dict.fromkeys((core, command)):
            if match := (_NEGATED.match(form) or _NEITHER.match(form)):
                return self._negated(match["rest"], text)
        core = command
        joined = [part for part in _JOIN.split(core) if part.strip()]
        if len(joined) > 1 and (union := self._union(joined)) is not None:
            return union
        if (match := _EXCEPT.match(core)) and (rest := self._except(match)) is not None:
            return rest
        if (match := _NUMBERED.match(core)) and not self.read(match["rest"]).refusal:
            found = self.read(match["rest"])
            return replace(found, counted=True, unknown_words=tuple(dict.fromkeys((match["n"], *found.unknown_words))))
        return self._loose(core, text)

    def _plain(self, text: str) -> Understood | None:
        """A category alone, a selector of a known category, or a known description by use."""
        parsed = parse_selector(text)
        if parsed is not None and (name := self._named(parsed.phrase)) is not None:
            selector = parsed.selector
            single = selector.kind == "region" and self._is_singular(text)
            return Understood((parsed.phrase,), (name,), selector=selector, single=single)
        core = _unarticled(strip_command(_normal(text)))
        if (name := self._named(core)) is not None:
            single = self._is_singular(text)
            return Understood((text,), (name,), single=single)
        tokens = _tokens(text)
        if tokens[:2] and "corresponding" in tokens and tokens[-1] in ("box", "points"):
            return Understood((text,))  # the fixed sentence beside points or boxes
        for start, stop, name in _spans(tokens, _descriptions(self.known)):
            if all(token in _frame_words() for token in (*tokens[:start], *tokens[stop:])):
                return Understood((text,), (name,))
        return None

    def _named(self, phrase: str) -> str | None:
        return _names(self.known).get(tuple(_tokens(_unarticled(phrase))))

    def _is_singular(self, text: str) -> bool:
        spans = _spans(_tokens(text), _names(self.known))
        words = _tokens(text)
        return any(words[stop - 1] in _singulars(self.known) for _, stop, _ in spans)

    def _negated(self, rest: str, text: str) -> Understood:
        rest = re.sub(r"^either ", "", rest)
        found = self.read(rest)
        if found.refusal:
            return replace(self._refused(text, found.unknown_words), negated=True)
        if found.negated:
            return self._refused(text, ("not",))
        if found.selector is not None:
            remark = f"Read as: {' and '.join(found.phrases)}, but not the {describe(found.selector)}."
            return replace(found, selector=None, excluded=found.selector, single=False, remarks=(remark,))
        if found.unknown_words or found.min_area_m2 or found.max_area_m2:
            # what is left out would not be what was said: the opposite of a guess is no answer
            return self._refused(text, found.unknown_words or ("not",))
        return replace(found, negated=True, counted=False, single=False)

    def _union(self, parts: Sequence[str]) -> Understood | None:
        found = [self.read(re.sub(r"^(?:both|either) ", "", part)) for part in parts]
        good = [part for part in found if not part.refusal]
        if not good or good[0] is not found[0] or any(part.negated for part in good):
            return None
        unknown = [word for text, part in zip(parts, found, strict=True) for word in (part.unknown_words or (
            (text,) if part.refusal else ()))]  # fmt: skip
        if len(good) == 1:
            return replace(good[0], unknown_words=tuple(dict.fromkeys(unknown)))
        for text, part in zip(parts, found, strict=True):
            if part.selector or part.excluded or part.min_area_m2 or part.max_area_m2:
                unknown.append(describe(part.selector) if part.selector else text)
        return Understood(
            tuple(dict.fromkeys(phrase for part in good for phrase in part.phrases)),
            tuple(dict.fromkeys(name for part in good for name in part.categories)),
            counted=any(part.counted for part in good),
            unknown_words=tuple(dict.fromkeys(unknown)),
        )

    def _except(self, match: re.Match[str]) -> Understood | None:
        head = self.read(match["head"])
        if head.refusal or head.negated:
            return None
        noun = training_vocabulary()[head.categories[0]].singular if head.categories else ""
        rest = " ".join(_ONES.sub("", match["rest"]).split())
        for attempt in (match["rest"], f"{rest} {noun}", re.sub(r"^((?:the )?)", rf"\1{noun} ", rest)):
            parsed = parse_selector(attempt)
            if parsed is not None and self._named(parsed.phrase) is not None and head.selector is None:
                return replace(head, excluded=parsed.selector)
        other = self.read(match["rest"])
        if match["word"] != "without" and other.is_plain:
            return replace(head, minus=other.phrases)
        said = f"{match['word']} {match['rest']}"
        return replace(head, unknown_words=(*head.unknown_words, said))

    def _loose(self, core: str, text: str) -> Understood:
        """A known noun among other words, which are not followed; else a description by use like a known one."""
        tokens = _tokens(core)
        for start, stop, name in _spans(tokens, _names(self.known)):
            before, after = tokens[:start], tokens[stop:]
            compound = after and not _AFTER.match(after[0]) and tokens[stop - 1] in _singulars(self.known)
            if compound or any(_PREPOSITION.match(word) for word in before):
                break  # "car parks", "shadows of buildings"
            unknown = [word for word in before if word not in _LITTLE]
            tail = " ".join(after)
            if [word for word in after if word not in _LITTLE]:
                unknown.append(tail)
            return Understood(
                (f"the {' '.join(tokens[start:stop])}",), (name,), unknown_words=tuple(dict.fromkeys(unknown))
            )
        if not any(_spans(tokens, _names(self.known))) and (like := _like_a_use(text, self.known)) is not None:
            name, words = like
            remark = (
                f"The question is none that {self.engine} was trained on. Its words ({', '.join(words)}) point to "
                f"{training_vocabulary()[name].plural}; check the answer."
            )
            return Understood((text,), (name,), remarks=(remark,))
        return self._refused(text)

    def _refused(self, text: str, unknown: Sequence[str] = ()) -> Understood:
        tokens = _tokens(text)
        words = tuple(unknown) or tuple(t for t in tokens if t not in _STOP) or (text.strip(),)
        meant = foreign_nouns(text, self.known)
        near = [] if meant else self._near(words)
        near_text = f"Nearest: {', '.join(near)}. " if near else ""
        for word, names in meant.items():
            said = (f'{" or ".join(of)} for "{training_vocabulary()[name].plural}"' for name, of in names.items())
            near_text += f'"{word}" is {", ".join(said)}. '
        foreign = meant or not text.isascii() or not any(t in _frame_words() or t in _all_words() for t in tokens)
        language = " It reads English." if foreign else ""
        reason = f'Nothing was asked: {self.engine} cannot follow "{text.strip()}".'
        return Understood(
            unknown_words=words,
            refusal=reason,
            remarks=(
                f"{reason} Not known: {', '.join(words)}. {near_text}{self.knows}{language} "
                "--no-selector sends the sentence as it is.",
            ),
        )

    def _near(self, words: Sequence[str]) -> list[str]:
        """Plurals of the categories in whose wordings a word stands, or that are spelt alike."""
        tokens = {form for word in words for token in _tokens(word) if token not in _STOP for form in _forms(token)}
        found: Counter[str] = Counter()
        for name in self.known:
            found[name] = sum(bool(tokens & set(wording)) for wording, of in _names(self.known).items() if of == name)
        if not any(found.values()):
            uses = _use_words(self.known)
            found = sum((uses.get(_stem(token), Counter()) for token in tokens), Counter())
        names = [name for name, times in found.most_common(3) if times]
        if not names:
            single = _single_words(self.known)
            alike = [w for t in sorted(tokens) for w in difflib.get_close_matches(t, single, n=1, cutoff=0.75)]
            names = [single[word] for word in alike]
        return list(dict.fromkeys(training_vocabulary()[name].plural for name in names))


def _normal(text: str) -> str:
    text = " ".join(text.lower().replace("\u2019", "'").replace("-", " ").split()).strip(" .!?;:")
    text = re.sub(r"\b(is|are|do|does)n't\b", r"\1 not", text)
    return re.sub(r"\bcenter", "centre", text)


def _unarticled(text: str) -> str:
    return re.sub(
        r"^(?:(?:any and all|each of|all of|both of|any of|all|any|each|every|both|only|just) )?(?:the |an? )?",
        "",
        text,
    )


@cache
def _tokenised(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[\w'²]+", _normal(text)))


def _tokens(text: str) -> list[str]:
    return list(_tokenised(text))


def _forms(word: str) -> set[str]:
    """A word and what may be its singular and plural."""
    forms = {word, f"{word}s"}
    if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")):
        forms.add(word[:-1])
    if word.endswith("ies"):
        forms.add(f"{word[:-3]}y")
    if word.endswith("es"):
        forms.add(word[:-2])
    return forms


@cache
def _names(known: tuple[str, ...]) -> Mapping[tuple[str, ...], str]:
    """Category by the tokens of everything that it may be called."""
    names: dict[tuple[str, ...], str] = {("water",): "lake"} if "lake" in known else {}
    loose: dict[tuple[str, ...], str] = {}
    for name in known:
        row = training_vocabulary()[name]
        nouns = [n for words in (row.trained, row.held_out) for n in (*words.nouns, *words.roles)]
        exact = [form for n in nouns for form in (n.singular, n.plural)]
        exact += [*row.names, *row.trained.phrases, *row.held_out.phrases]
        for wording in exact:
            names.setdefault(tuple(_tokens(wording)), name)
        for wording in (*row.trained.phrases, *row.held_out.phrases, *row.names):
            *first, last = _tokens(wording)
            for form in _forms(last):
                loose.setdefault((*first, form), name)
    return loose | names


@cache
def _descriptions(known: tuple[str, ...]) -> Mapping[tuple[str, ...], str]:
    """Category by the tokens of a use or a role."""
    found: dict[tuple[str, ...], str] = {}
    for name in known:
        row = training_vocabulary()[name]
        for words in (row.trained, row.held_out):
            roles = (form for n in words.roles for form in (n.singular, n.plural))
            found |= {tuple(_tokens(wording)): name for wording in (*words.uses, *roles)}
    return found


@cache
def _single_words(known: tuple[str, ...]) -> Mapping[str, str]:
    """Category by every noun of one word."""
    return {words[0]: name for words, name in _names(known).items() if len(words) == 1}


@cache
def _singulars(known: tuple[str, ...]) -> frozenset[str]:
    nouns = [
        n.singular for name in known for words in (training_vocabulary()[name].trained,
        training_vocabulary()[name].held_out) for n in (*words.nouns, *words.roles)
    ]  # fmt: skip
    plurals = {_tokens(n.plural)[-1] for name in known for n in training_vocabulary()[name].trained.nouns}
    return frozenset(_tokens(noun)[-1] for noun in nouns) - plurals


@cache
def _all_words() -> frozenset[str]:
    """Every word of the vocabulary."""
    words: set[str] = set()
    for row in training_vocabulary().categories.values():
        for part in (row.trained, row.held_out):
            nouns = (form for n in (*part.nouns, *part.roles) for form in (n.singular, n.plural))
            words |= {token for text in (*nouns, *part.phrases, *part.uses) for token in _tokens(text)}
    return frozenset(words)


@cache
def _frame_words() -> frozenset[str]:
    """Words of the sentences that training writes round a description, and of its selectors."""
    texts = [
        text for key in ("name", "clause", "context", "article") for held in (False, True)
        for text in frames(key, held_out=held)
    ]  # fmt: skip
    for kind, wheres in (("largest", (None,)), ("smallest", (None,)), ("central", (None,)), ("extreme", tuple(SIDES)),
                         ("region", tuple(PLACES))):  # fmt: skip
        for where in wheres:
            for rank, count in ((1, 1), (2, 1), (1, 2)):
                texts += [p.text for p in patterns(kind, where=where, rank=rank, count=count)]
    texts += [*COUNTS.values(), *ORDINALS.values()]
    return frozenset(token for text in texts for token in _tokens(re.sub(r"\{\w\}", " ", text))) | _LITTLE


def _spans(tokens: Sequence[str], table: Mapping[tuple[str, ...], str]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, category) of known wordings, first the one that starts first, the longest of those."""
    longest = max(map(len, table), default=0)
    for start in range(len(tokens)):
        for stop in range(min(len(tokens), start + longest), start, -1):
            if (name := table.get(tuple(tokens[start:stop]))) is not None:
                yield start, stop, name
                break


@cache
def _use_words(known: tuple[str, ...]) -> Mapping[str, Counter[str]]:
    """How often a stem stands in the uses of each category: ``found[stem][category]``."""
    found: dict[str, Counter[str]] = {}
    for name in known:
        row = training_vocabulary()[name]
        for text in (*row.trained.uses, *row.held_out.uses):
            for word in {_stem(t) for t in _tokens(text) if t not in _STOP}:
                found.setdefault(word, Counter())[name] += 1
    return found


def _stem(word: str) -> str:
    return re.sub(r"(?:ing|ed|es|s|e)$", "", word) if len(word) > 4 else word


def _like_a_use(text: str, known: tuple[str, ...]) -> tuple[str, list[str]] | None:
    """Category of a question whose words are those of its uses, and these words; None where too few are."""
    if infer_text_task(text) is not Task.REASONING:
        return None
    table = _use_words(known)
    asked = {_stem(t): t for t in _tokens(text) if t not in _STOP}
    share: Counter[str] = Counter()
    for stem in asked:
        for name, times in table.get(stem, Counter()).items():
            share[name] += times / sum(table[stem].values())  # type: ignore[assignment]
    for name, _ in share.most_common(1):
        words = [word for stem, word in asked.items() if name in table.get(stem, ())]
        if len(words) >= 2 and 2 * len(words) >= len(asked):
            return name, words
    return None


def _limits(core: str) -> tuple[str, float | None, float | None]:
    """The text without limits of area, and the limits in m2."""
    low = high = None
    if match := _BETWEEN.search(core):
        first, unit, second, unit2 = match.groups()[:4]
        low, high = sorted((_area(first, unit or unit2), _area(second, unit2)))
        core = core[: match.start()] + core[match.end() :]
    for pattern in (_LIMIT, _LIMIT_AFTER):
        while match := pattern.search(core):
            number, unit = [g for name, g in enumerate(match.groups(), 1) if g and g != match["side"]][-2:]
            value = _area(number, unit)
            if re.fullmatch(rf"{_LESS}|less|smaller", match["side"]):
                high = value
            else:
                low = value
            core = core[: match.start()] + core[match.end() :]
    return re.sub(r" (?:and|or|but)$", "", " ".join(core.split())), low, high


def _area(number: str, unit: str) -> float:
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", number):
        number = number.replace(",", "")
    factor = next(value for name, value in _UNITS.items() if re.fullmatch(name, unit))
    return float(number.replace(",", ".")) * factor


def _distance(a: str, b: str, limit: int) -> int:
    """Edits (insert, delete, replace, swap neighbours) from one word to another; ``limit + 1`` if more."""
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
