"""Re-check a forged set from its files alone: every constraint, and that every referring expression means one region.

    python bench/forge_check.py OUT/dataset

Nothing of terraprompt.forge is imported. Questions are parsed here, with rules of their own; regions come from
``regions.jsonl`` (all labelled regions of every patch) and are measured again from their run lengths; what a sentence
claims is tried on every region of the category. Prints counts; exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from terraprompt.datasets.registry import open_dataset
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Task

VOCABULARY = Path(__file__).parents[1] / "src" / "terraprompt" / "language" / "vocabulary"
ORDER = {"first": 1, "second": 2, "third": 3}
SIDES = {
    **dict.fromkeys(("top", "topmost", "north", "northern", "northernmost", "upper"), (1, 1)),
    **dict.fromkeys(("bottom", "bottommost", "south", "southern", "southernmost", "lower"), (1, -1)),
    **dict.fromkeys(("left", "leftmost", "west", "western", "westernmost"), (0, 1)),
    **dict.fromkeys(("right", "rightmost", "east", "eastern", "easternmost"), (0, -1)),
}
COMPASS = {"east": 0, "southeast": 45, "south": 90, "southwest": 135, "west": 180, "northwest": 225, "north": 270}
COMPASS["northeast"] = 315
MARKING = re.compile(r"\b(outline|contour|highlight|overlay|annotation|bounding box|marked|mask)", re.IGNORECASE)


@dataclass
class Region:
    """A region, measured from its mask."""

    number: int
    category: str
    mask: np.ndarray
    area: int
    x: float
    y: float


def regions_of(line: dict[str, Any]) -> list[Region]:
    """All regions of a patch."""
    out = []
    for raw in line["regions"]:
        mask = RunLengths.of(raw["segmentation"]).load().astype(bool)
        rows, columns = np.nonzero(mask)
        x, y = float(columns.mean()) + 0.5, float(rows.mean()) + 0.5
        out.append(Region(raw["region"], raw["category"], mask, int(mask.sum()), x, y))
    return out


def gap(one: Region, other: Region, cache: dict[int, np.ndarray]) -> float:
    """Pixels between the nearest pixel centres."""
    if other.number not in cache:
        cache[other.number] = ndimage.distance_transform_edt(~other.mask)
    return float(cache[other.number][one.mask].min())


class Words:
    """Names of the categories."""

    def __init__(self) -> None:
        files = [tomllib.loads(path.read_text(encoding="utf-8")) for path in VOCABULARY.glob("*.toml")]
        raw = {name: row for file in files for name, row in file.items() if "group" in row}
        self.rows = raw
        self.singular = {name: row.get("singular", name.replace("_", " ")) for name, row in raw.items()}
        self.by_noun = {noun: name for name, noun in self.singular.items()}

    def named(self, category: str, text: str) -> bool:
        """Whether a text names a category."""
        row = self.rows[category]
        names = {self.singular[category], row["plural"], *row.get("synonyms", ())}
        return any(re.search(rf"\b{re.escape(n)}(e?s)?\b", text, re.IGNORECASE) for n in names)

    def confusable(self, category: str) -> set[str]:
        """Categories that the name could mean too."""
        row = self.rows[category]
        return {category} | {
            name
            for name, other in self.rows.items()
            if name != category and other["group"] == row["group"] and (row.get("broad") or other.get("broad"))
        }

    def same_use(self, category: str) -> set[str]:
        """Categories of the same group."""
        return {name for name, row in self.rows.items() if row["group"] == self.rows[category]["group"]}


def noun_phrase(question: str) -> str:
    """What is asked for, without the sentence round it."""
    found = re.search(r"segment (the .+?)(?: in this image| in the picture)?[.?]$", question, re.IGNORECASE)
    if found is None:
        raise ValueError(f"no noun phrase in {question!r}")
    return found[1]


def meant(phrase: str, noun: str, regions: list[Region], every: list[Region], size: tuple[int, int], words: Words):
    """Numbers of the regions that a phrase fits; every candidate is tried."""
    width, height = size
    n = re.escape(noun)
    if re.fullmatch(rf"the (only )?{n}", phrase):
        return [r.number for r in regions]
    if m := re.fullmatch(rf"the (?:single )?(?:(\w+)[ -])?(largest|smallest) {n}", phrase):
        return _ranked(regions, lambda r: -r.area if m[2] == "largest" else r.area, ORDER.get(m[1], 1))
    if m := re.fullmatch(rf"the {n} with the (largest|smallest) area", phrase):
        return _ranked(regions, lambda r: -r.area if m[1] == "largest" else r.area, 1)
    if re.fullmatch(rf"the (?:most central {n}|{n} (?:nearest|closest to) the centre(?: of the image)?)", phrase):
        return _ranked(regions, lambda r: math.hypot(r.x - width / 2, r.y - height / 2), 1)
    m = (
        re.fullmatch(rf"the (?:(?P<o>\w+) )?(?P<s>\w+most) {n}", phrase)
        or re.fullmatch(rf"the (?P<o>first|second|third) {n} from the (?P<s>\w+)", phrase)
        or re.fullmatch(rf"the {n} nearest the (?P<s>\w+) edge", phrase)
        or re.fullmatch(rf"the {n} farthest (?P<s>\w+)", phrase)
    )
    if m and m["s"] in SIDES:
        axis, sign = SIDES[m["s"]]
        rank = ORDER.get(m.groupdict().get("o") or "first", 1)
        return _ranked(regions, lambda r: sign * (r.x, r.y)[axis], rank)
    if m := re.fullmatch(rf"the {n} (?:that touches|bordering on) (?:an?) (.+)", phrase):
        return _touching(regions, every, words.by_noun[m[1]])
    if m := re.fullmatch(rf"the {n} (?:nearest|closest) to the (.+)", phrase):
        (other,) = [r for r in every if r.category == words.by_noun[m[1]]]
        cache: dict[int, np.ndarray] = {}
        return _ranked(regions, lambda r: gap(r, other, cache), 1)
    if m := re.fullmatch(rf"the {n} (north|south|east|west|north(?:east|west)|south(?:east|west)) of the (.+)", phrase):
        (other,) = [r for r in every if r.category == words.by_noun[m[2]]]
        return [r.number for r in regions if _turn(other, r, COMPASS[m[1]]) <= 45]
    if m := re.fullmatch(rf"the (upper|lower)-(left|right) {n}", phrase):
        return _within(regions, {m[1], m[2]}, width, height)
    if m := re.fullmatch(rf"the {n} (?:in|on) the (.+)", phrase):
        return _within(regions, _place(m[1]), width, height)
    raise ValueError(f"cannot read {phrase!r}")


def ordered(text: str) -> bool:
    """Whether a text counts or ranks, other than by "the largest"."""
    words = r"first|second|third|smallest|central|\w+(?:ern)?most|(?:nearest|farthest|closest) (?:to )?the \w+ ?edge"
    return re.search(rf"\b(?:{words})\b", text) is not None


def small(regions: list[Region], size: tuple[int, int]) -> bool:
    """Whether one of the regions is easily missed: below 0.5 % of the patch, or 400 pixels."""
    return any(region.area < max(0.005 * size[0] * size[1], 400) for region in regions)


def _ranked(regions: list[Region], key, rank: int) -> list[int]:
    values = sorted(key(r) for r in regions)
    wanted = values[rank - 1]
    return [r.number for r in regions if abs(key(r) - wanted) < 1e-6]


def _touching(regions: list[Region], every: list[Region], category: str) -> list[int]:
    cache: dict[int, np.ndarray] = {}
    others = [r for r in every if r.category == category]
    return [r.number for r in regions if any(gap(r, other, cache) <= 2.0 for other in others)]


def _turn(origin: Region, region: Region, turn: float) -> float:
    off = abs(math.degrees(math.atan2(region.y - origin.y, region.x - origin.x)) - turn) % 360
    return min(off, 360 - off)


def _place(text: str) -> set[str]:
    text = re.sub(r" (corner|half|quarter|side|part)$", "", text)
    compass = {"north": "upper", "south": "lower", "west": "left", "east": "right"}
    out = set()
    for word in re.findall(r"north|south|east|west|upper|lower|left|right|top|bottom", text):
        out.add({"top": "upper", "bottom": "lower"}.get(word, compass.get(word, word)))
    if not out:
        raise ValueError(f"no place in {text!r}")
    return out


def _within(regions: list[Region], place: set[str], width: int, height: int) -> list[int]:
    tests = {
        "upper": lambda r: r.y < height / 2,
        "lower": lambda r: r.y >= height / 2,
        "left": lambda r: r.x < width / 2,
        "right": lambda r: r.x >= width / 2,
    }
    return [r.number for r in regions if all(tests[word](r) for word in place)]


def clauses_of(question: str) -> list[str]:
    """Claims of a contextual question, each after "that"."""
    found = re.search(r"the one that (.+?)(?:, and leave the others aside\.|\.|\? Please segment it\.)$", question)
    if found is None:
        raise ValueError(f"no claims in {question!r}")
    return found[1].split(" and that ")


def fits(clause: str, regions: list[Region], every: list[Region], size: tuple[int, int], words: Words) -> list[int]:
    """Regions that a claim is true of."""
    if m := re.fullmatch(r"lies about (\d+) m from an? (.+)", clause):
        return [-1]  # a further fact, checked with the metres of the patch by the caller
    if m := re.fullmatch(r"(?:touches|borders on) an? (.+)", clause):
        return _touching(regions, every, words.by_noun[m[1]])
    if m := re.fullmatch(r"lies (\w+) of the (.+)", clause):
        return meant(f"the one {m[1]} of the {m[2]}", "one", regions, every, size, words)
    if m := re.fullmatch(r"lies (in|on) the (.+?)(?: of the image)?", clause):
        return meant(f"the one {m[1]} the {m[2]}", "one", regions, every, size, words)
    if m := re.fullmatch(r"has the (largest|smallest) area", clause):
        return meant(f"the one with the {m[1]} area", "one", regions, every, size, words)
    if m := re.fullmatch(r"is (nearest|closest|farthest) (.+)", clause):
        return meant(f"the one {m[1]} {m[2]}", "one", regions, every, size, words)
    if m := re.fullmatch(r"is the (\w+) (from .+)", clause):
        return meant(f"the {m[1]} one {m[2]}", "one", regions, every, size, words)
    if m := re.fullmatch(r"is (the .+)", clause):
        return meant(m[1] if " one" in m[1] else f"{m[1]} one", "one", regions, every, size, words)
    raise ValueError(f"cannot read {clause!r}")


def check(root: Path) -> Counter[str]:
    """All checks; counts by what was found."""
    words, found = Words(), Counter()
    patches: dict[str, dict[str, Any]] = {}
    for line in (root / "regions.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        patches[row["patch"]] = row
    places: dict[str, set[str]] = defaultdict(set)
    held: tuple[str, list[Region]] = ("", [])
    for split in ("train", "val", "test"):
        path = root / f"{split}.jsonl"
        if not path.is_file():
            continue
        samples = {s.id: s for s in open_dataset("geoseg-bench-1m", root, split=split).samples}
        lines = [json.loads(line) for line in path.open(encoding="utf-8")]
        if len(samples) != len(lines):
            found["WRONG: the reader gives another number of samples"] += 1
        by_text = defaultdict(list)
        for sample in samples.values():
            by_text[(sample.image, sample.instructions[0])].append(sample)
        for row in lines:
            places[row["place"]].add(split)
            found[f"checked {row['task']}"] += 1
            if not by_rules(row):
                found[f"of them by a model, not tried on every region: {row['task']}"] += 1
            if row["patch"] != held[0]:
                held = (row["patch"], regions_of(patches[row["patch"]]))
            every = held[1]
            for fault in faults(row, every, patches[row["patch"]], words):
                found[f"WRONG: {row['task']}: {fault}"] += 1
            mine = by_text[(root / row["image"], row["question"])]
            if not any(matches(sample, row) for sample in mine):
                found["WRONG: the reader gives another mask, task or prompt"] += 1
    found["places in two splits"] = sum(len(splits) > 1 for splits in places.values())
    return found


def matches(sample: Any, row: dict[str, Any]) -> bool:
    """Whether the reader's sample is the line."""
    task = {"point": Task.INTERACTIVE, "box": Task.INTERACTIVE, "referring": Task.REFERRING}
    mask = sample.load_mask()
    return sample.task is task.get(row["task"], Task.REASONING) and np.array_equal(
        mask, RunLengths.of(row["segmentation"]).load()
    )


def faults(row: dict[str, Any], every: list[Region], patch: dict[str, Any], words: Words) -> list[str]:
    """What is wrong with a sample."""
    out = []
    question, reason, category = row["question"], row["reason"] or "", row["category"]
    target = next(r for r in every if r.number == row["region"])
    width, height = row["width"], row["height"]
    share = target.area / (width * height)
    count = len(question.split())
    if not re.search(r"\bsegment", question, re.IGNORECASE):
        out.append("no 'segment'")
    if not 0.005 <= share <= 0.70:
        out.append("area out of bounds")
    same = [r for r in every if r.category == category]
    if len(same) > 6:
        out.append("more than six of the category")
    cache: dict[int, np.ndarray] = {}
    if any(gap(target, r, cache) <= 15 for r in same if r.number != target.number):
        out.append("another one within 15 px")
    if row["task"] == "point":
        for x, y in row["points"]:
            if not target.mask[min(int(y * height), height - 1), min(int(x * width), width - 1)]:
                out.append("a point beside the target")
        if target.area < 200 and len(row["points"]) != 1:
            out.append("several points in a small region")
    elif row["task"] == "box":
        rows, columns = np.nonzero(target.mask)
        tight = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        if np.abs(np.array(row["box"]) * (width, height, width, height) - tight).max() > 0.5:
            out.append("the box is not tight")
    else:
        out += text_faults(row, question, reason, count, category, words)
        if by_rules(row):
            out += meaning_faults(row, target, every, patch, words)
    return out


def by_rules(row: dict[str, Any]) -> bool:
    """Whether the sentence is one of the deterministic writer's, which can be read; those of models cannot."""
    return row["writer"].startswith("rules")


def text_faults(row, question: str, reason: str, count: int, category: str, words: Words) -> list[str]:
    """Rules of wording."""
    out = []
    if MARKING.search(question) or MARKING.search(reason):
        out.append("the marking is mentioned")
    if row["task"] == "contextual" and count < 25:
        out.append("fewer than 25 words")
    if row["task"] == "attribute" and not 15 <= count <= 45:
        out.append("not about 30 words")
    if row["task"] in ("attribute", "contextual"):
        if words.named(category, question):
            out.append("the question names the category")
        if not reason or len(reason.split()) > 30 or not words.named(category, reason):
            out.append("the reason is missing, too long or does not name the category")
    return out


def meaning_faults(row, target: Region, every: list[Region], patch: dict[str, Any], words: Words) -> list[str]:
    """Whether the sentence means the target and nothing else."""
    category, size = row["category"], (row["width"], row["height"])
    called = words.confusable(category)
    candidates = [r for r in every if r.category in called]
    specks = sum(count for name, count in patch["specks"].items() if name in called)
    try:
        if row["task"] == "referring":
            phrase, *further = noun_phrase(row["question"]).split(", which ")
            if specks and "largest" not in phrase:
                return ["specks make it ambiguous"]
            if ordered(row["question"]) and small(candidates, size):
                return ["an order among regions that are easily missed"]
            fitting = meant(phrase, words.singular[category], candidates, every, size, words)
            for clause in further:
                true = fits(clause, candidates, every, size, words)
                if true != [-1] and target.number not in true:
                    return ["a further claim is not true"]
            return [] if fitting == [target.number] else [f"AMBIGUOUS: it fits {len(fitting)} regions"]
        alike = [r for r in every if r.category in words.same_use(category)]
        if any(name in words.same_use(category) for name in patch["specks"]):
            return ["specks make it ambiguous"]
        if row["task"] == "attribute":
            return [] if [r.number for r in alike] == [target.number] else ["AMBIGUOUS: another has the same use"]
        left = {r.number for r in alike}
        if len(left) not in (2, 3):
            return ["not two or three of the category"]
        claims = clauses_of(row["question"])
        if any(map(ordered, claims)) and small(alike, size):
            return ["an order among regions that are easily missed"]
        for clause in claims:
            fitting = fits(clause, alike, every, size, words)
            if fitting == [-1]:
                continue
            if target.number not in fitting:
                return ["a claim is not true"]
            left &= set(fitting)
    except (ValueError, KeyError) as error:
        return [f"not understood: {error}"]
    return [] if left == {target.number} else ["AMBIGUOUS: the claims fit several"]


def main() -> None:
    """Check and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    root = parser.parse_args().dataset.resolve()
    found = check(root)
    for what, count in sorted(found.items()):
        print(f"{count:>8}  {what}")
    wrong = sum(count for what, count in found.items() if what.startswith("WRONG")) + found["places in two splits"]
    ambiguous = sum(count for what, count in found.items() if "AMBIGUOUS" in what)
    print(f"{ambiguous} ambiguous, {wrong} wrong in all")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
