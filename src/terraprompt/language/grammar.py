"""The grammar behind :func:`terraprompt.language.parse_selector.parse_selector`: sentence -> noun phrase and selector.

A sentence is stripped of its command ("please mark …"), its reference to the image ("… in this scene") and its place
("… in the upper left"); what is left must be one superlative, ordinal or extreme around a plain noun phrase. Whatever
does not fit completely gives None.
"""

from __future__ import annotations

import re

from terraprompt.language.categories import canonical_plural, is_plural, plural_of
from terraprompt.language.selector import Kind, Selector
from terraprompt.language.spatial import COUNTS, ORDINALS, PLACES, SIDES

__all__ = ["parse", "strip_command"]

_NUMBERS = {word: n for n, word in COUNTS.items()} | {str(n): n for n in range(2, 100)} | {"both": 2}
_RANKS = {word: n for n, word in ORDINALS.items()} | {"1st": 1, "2nd": 2, "3rd": 3, "4th": 4, "5th": 5}
_COMPASS_SIDES = {compass: side for side, compass in SIDES.items()}
_COMPASS_PLACES = {compass: place for place, compass in PLACES.items()}
_SIDE_WORDS = {
    "top": "top",
    "bottom": "bottom",
    "left": "left",
    "right": "right",
    "up": "top",
    "down": "bottom",
}
_HALVES = {"top": "upper half", "upper": "upper half", "bottom": "lower half", "lower": "lower half"} | {
    "left": "left half",
    "right": "right half",
}

_IMAGE = (
    r"(?:(?:whole |entire )?(?:aerial |satellite |drone )?"
    r"(?:image|picture|photo|photograph|scene|view|frame|map|tile))"
)
_OF_IMAGE = rf"(?: (?:of|in) (?:the|this) {_IMAGE})?"
_COMMAND = re.compile(
    r"(?:please )?(?:(?:can|could|would|will) you (?:please )?|i(?: would|'d) like (?:you )?to |"
    r"i want (?:you )?to )?(?:please )?"
    r"(?:(?:segment|mark|find|outline|show|highlight|extract|map|locate|select|identify|delineate|trace|detect|"
    r"pick out|point out|point to|see|draw|get|give|return|label|choose|list|indicate)(?: me| us| out)? |"
    r"i am looking for |i need |where (?:is|are) |what (?:is|are) |which (?:is|are) )?"
    r"(?:(?:a|the|an) (?:mask|masks|outline|outlines|polygon|polygons|segmentation|extent)(?: of| for| over| around)? |"
    r"every pixel of )?"
)
_TRAILERS = re.compile(
    r"(?:,? (?:please|for me|here|visible here|that (?:is|are) visible))$|"
    rf",? (?:in|on|from|within|of) (?:the|this) {_IMAGE}$"
)
_ARTICLE = re.compile(
    r"(?:(?:all|any|each|every one|both) of (?:the )?|all (?:the )?|every |each |any |whichever |"
    r"(?:just|only) (?:the )?)?(?:the )?"
)

_CORNER = r"(?:upper|top|lower|bottom) (?:left|right)"
_POINT = r"north|south|east|west|northwest|northeast|southwest|southeast"
_TAIL_PLACE = re.compile(
    r"^(?P<head>.+?)(?: (?:that|which) (?:is|are|lies|lie|sits|sit))?(?: (?:located|situated|lying|found))?"
    r" (?:in|at|on|within|inside|towards?) (?:the )?"
    rf"(?:(?P<corner>{_CORNER}|upper|top|lower|bottom|left|right)|(?P<point>(?:{_POINT})(?:ern)?)|(?P<centre>centre|centr(?:al)|middle))"
    rf"(?: hand)?(?P<part> (?:corner|quarter|quadrant|part|half|side|area|section))?{_OF_IMAGE}$"
)
_HEAD_PLACE = re.compile(
    rf"^(?:(?P<corner>{_CORNER})|(?P<point>(?:north|south)(?:west|east)(?:ern)?))(?: hand)? (?P<head>.+)$"
)

_LARGE = r"largest|biggest|greatest|hugest|most extensive"
_SMALL = r"smallest|tiniest|littlest|least extensive"
_MOST = r"topmost|uppermost|bottommost|lowermost|lowest placed|leftmost|rightmost"
_FAR = rf"(?:{_MOST}|(?:north|south|east|west)ernmost|most (?:north|south|east|west)er(?:ly|n))"
_EDGE = (
    r"(?:nearest|closest|next)(?: to)? (?:the )?(?P<edge>top|bottom|left|right|(?:north|south|east|west)(?:ern)?)"
    rf"(?: hand)?(?: edge| side| border| margin)?{_OF_IMAGE}"
)
_FAREST = r"(?:furthest|farthest)(?: to(?: the)?)? (?P<edge>up|down|top|bottom|left|right|north|south|east|west)"
_NUMBER = "|".join(_NUMBERS)
_RANK = "|".join(_RANKS)

_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(f"^{pattern}$"))
    for name, pattern in (
        (
            "size",
            rf"(?:single )?(?:(?P<n>{_NUMBER}) )?(?P<size>{_LARGE}|{_SMALL})(?: (?P<n2>{_NUMBER}))? (?P<np>.+)",
        ),
        ("size", rf"(?P<o>{_RANK}) (?P<size>{_LARGE}|{_SMALL}) (?P<np>.+)"),
        (
            "size",
            rf"(?:(?P<n>{_NUMBER}) )?(?P<np>.+?) (?:with|of) (?:the )?(?P<size>{_LARGE}|{_SMALL}|least)"
            r" (?:area|size|extent|footprint|surface)",
        ),
        (
            "size",
            r"(?P<np>.+?) (?:that|which) (?:takes up|covers|occupies|fills) (?:the )?(?P<size>most|least)"
            r" (?:space|ground|area|room)",
        ),
        ("size", rf"(?P<np>.+?) ranked (?P<o>{_RANK}) from the (?P<size>{_LARGE}|{_SMALL}) (?:down|up)"),
        ("size", rf"(?:which )?(?P<np>.+?) (?:that |which )?is (?:the )?(?P<size>{_LARGE}|{_SMALL})"),
        ("size", rf"(?P<size>{_LARGE}|{_SMALL}) (?:one )?(?:of|among) (?:all )?(?:the |these )?(?P<nps>.+)"),
        ("side", rf"(?:(?P<n>{_NUMBER}) )?(?P<side>{_FAR})(?: (?P<n2>{_NUMBER}))? (?P<np>.+)"),
        ("side", rf"(?:which )?(?P<np>.+?) (?:that |which )?is (?:the )?(?P<side>{_FAR})"),
        ("side", rf"(?P<o>{_RANK}) (?P<side>{_FAR}) (?P<np>.+)"),
        ("side", rf"(?:(?P<n>{_NUMBER}) )?(?P<np>.+?) {_EDGE}"),
        ("side", rf"(?:(?P<n>{_NUMBER}) )?(?P<np>.+?) {_FAREST}"),
        (
            "side",
            rf"(?P<o>{_RANK}) (?P<np>.+?) (?:counting |counted )?from (?:the )?"
            r"(?P<edge>top|bottom|left|right|north|south|east|west)",
        ),
        (
            "central",
            rf"(?:most central|centremost|middlemost) (?P<np>.+)|(?P<np2>.+?) (?:nearest|closest)(?: to)? (?:the )?"
            rf"(?:centre|middle|midpoint|centre point){_OF_IMAGE}",
        ),
    )
)

# Any of these left inside the noun phrase means a second object, a comparison or a further clause.
_STRAY = re.compile(
    r"\b(?:in|on|at|near|nearest|nearby|closest|close|beside|besides|by|next|between|behind|above|below|beneath|over|under|"
    r"along|around|against|across|from|to|toward|towards|opposite|facing|left|right|upper|lower|north\w*|south\w*|"
    r"east\w*|west\w*|top|bottom|middle|centre|touching|adjacent|adjoining|bordering|than|not|no|except|without|but|and|or|"
    r"other|another|inside|outside|within|through|past|off|into|away|that|which|who|whose|is|are|was|were|where|what|why|"
    r"how|if|should|could|can|would|might|may|must|will|as|so|because|largest|biggest|smallest|tiniest|most|least|"
    r"furthest|farthest|first|second|third|fourth|fifth|only|each|every|all|any|this|these|those|the|a|an)\b"
)
_MAX_WORDS = 6


def parse(text: str) -> tuple[str, Selector] | None:
    """The noun phrase to ask the model for, and the selector; None if the text is not clearly such a request."""
    core = _ARTICLE.sub("", strip_command(_normalised(text)), count=1)
    if not core:
        return None
    whole = _shape(core, None, compass=False)
    if whole is not None:
        return whole
    place = _place(core)
    if place is None:
        return None
    head, where, compass, part = place
    head = _ARTICLE.sub("", head, count=1)
    if where == "centre" and not part and _noun(head) is not None and not _is_plural(head):
        return _finish(head, Selector("central"))
    if _noun(head) is not None:
        return _finish(head, Selector("region", where, compass=compass))
    return _shape(head, where, compass=compass)


def _normalised(text: str) -> str:
    text = " ".join(text.lower().replace("\u2019", "'").split()).rstrip(" .!?;:")
    text = re.sub(r"\bcenter", "centre", text).replace("central point", "centre point")
    text = re.sub(rf"\b({_RANK})-(?=\w)", r"\1 ", text)
    text = re.sub(r"\b(upper|top|lower|bottom|left|right)-(left|right|most|hand)\b", r"\1 \2", text)
    text = re.sub(r"\b(top|bottom|left|right|upper|lower|northern|southern|eastern|western) most\b", r"\1most", text)
    return re.sub(r"\b(north|south)[- ](east|west)", r"\1\2", text)


def strip_command(text: str) -> str:
    """A normalised sentence without its command ("please mark …") and its reference to the image."""
    text = _COMMAND.sub("", text, count=1)
    if question := re.fullmatch(r"where (.+) (?:is|are)", text):
        text = question[1]
    while True:
        # "the upper left of the image" is a place, not a trailing reference to the image
        shorter = text if _TAIL_PLACE.match(text) else _TRAILERS.sub("", text)
        if shorter == text:
            return text
        text = shorter


def _place(core: str) -> tuple[str, str, bool, bool] | None:
    """(rest, place, said in compass words, said as a part) of a text that ends or begins with a place."""
    match = _TAIL_PLACE.match(core) or _HEAD_PLACE.match(core)
    if match is None:
        return None
    found = match.groupdict()
    part = bool(found.get("part"))
    if found.get("centre"):
        return match["head"], "centre", False, part
    if found.get("point"):
        return match["head"], _COMPASS_PLACES[re.sub(r"ern$", "", match["point"])], True, part
    corner = match["corner"].replace("top", "upper").replace("bottom", "lower")
    return match["head"], _HALVES.get(corner, corner), False, part


def _shape(core: str, within: str | None, *, compass: bool) -> tuple[str, Selector] | None:
    for name, pattern in _SHAPES:
        match = pattern.match(core)
        if match is None:
            continue
        found = match.groupdict()
        phrase = found.get("np") or found.get("np2") or found.get("nps") or ""
        if _noun(phrase) is None:
            continue
        number = found.get("n") or found.get("n2")
        count = _NUMBERS[number] if number else 1
        rank = _RANKS[found["o"]] if found.get("o") else 1
        if count == 1 and _is_plural(phrase) and not found.get("nps"):
            return None  # "the largest lakes": nobody can say how many
        kind: Kind
        where: str | None = None
        if name == "size":
            kind = "smallest" if re.fullmatch(rf"{_SMALL}|least", found["size"]) else "largest"
        elif name == "side":
            kind = "extreme"
            where, by_compass = _side(found.get("side") or found["edge"])
            compass = compass or by_compass
        else:
            kind = "central"
        return _finish(phrase, Selector(kind, where, rank, count, within, compass))
    return None


def _side(word: str) -> tuple[str, bool]:
    for compass, side in _COMPASS_SIDES.items():
        if compass in word:
            return side, True
    word = {"uppermost": "top", "lowermost": "bottom"}.get(word, word.removesuffix("most"))
    return _SIDE_WORDS[word], False


def _noun(phrase: str) -> str | None:
    """``phrase`` if it is a plain noun phrase, else None."""
    if is_plural(phrase) is not None:
        return phrase
    words = phrase.split()
    plain = re.sub(r" with an? ", " ", phrase)
    if not 1 <= len(words) <= _MAX_WORDS or _STRAY.search(plain) or re.search(r"[,;:()?'\d]", phrase):
        return None
    return phrase


def _is_plural(phrase: str) -> bool:
    known = is_plural(phrase)
    if known is not None:
        return known
    head = re.split(r" (?:of|with|for) ", phrase)[0].split()[-1]
    return head.endswith("s") and not head.endswith(("ss", "us", "is"))


def _finish(phrase: str, selector: Selector) -> tuple[str, Selector]:
    return f"the {plural_of(phrase) or canonical_plural(phrase)}", selector
