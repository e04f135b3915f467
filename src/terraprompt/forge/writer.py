"""Stage 4: instructions for the regions that were kept, by the deterministic writer; models are asked elsewhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.forge.constraints import broken_rules
from terraprompt.forge.cues import Cue, Scene, cues_of, facts_of
from terraprompt.forge.recipe import KINDS, Recipe, Writing
from terraprompt.forge.records import Row, rng_of
from terraprompt.forge.stages import Job
from terraprompt.forge.taxonomy import Kind, Taxonomy, load_taxonomy
from terraprompt.io.rle import RunLengths
from terraprompt.language.spatial import COUNTS
from terraprompt.language.writer import interactive_instruction

__all__ = [
    "RuleWriter",
    "checked",
    "gather_limits",
    "interactive",
    "new_sample",
    "to_write",
    "write_instructions",
]

_T = TypeVar("_T")
_ASK = (
    "Please segment {x}.",
    "Segment {x}.",
    "Segment {x} in this image.",
    "Could you segment {x}?",
    "I would like you to segment {x}.",
    "Please segment {x} in the picture.",
)
_PLACE_ASK = (
    "Some part of this image is a place where {a} and where {b}. Which part is it? Please segment all of it.",
    "Look for the ground where {a} and where {b}. Segment the part of the image that fits best.",
    "Think about what each part of this image is for. Segment the place where {a} and where {b}.",
    "If you had to lead somebody to a place where {a} and where {b}, which part of this image would you choose? "
    "Segment that part as a whole.",
    "One part of this image differs from all others in its purpose: there {a}, and {b}. Find it and segment it.",
    "Somebody asks for the place where {a}. It is also where {b}. Decide which part of this image is meant, "
    "and segment it.",
    "Which part of this image is the place where {a}? A second hint: there {b}. Please segment that part.",
)
_OBJECT_ASK = (
    "Somewhere in this image there is a thing that {a} and that {b}. Which one is it? Please segment all of it.",
    "Look for the object that {a} and that {b}. Segment the thing in the image that fits best.",
    "Think about what each thing in this image is for. Segment the one that {a} and that {b}.",
    "If you had to lead somebody to a thing that {a} and that {b}, which one in this image would you choose? "
    "Segment that thing as a whole.",
    "One thing in this image differs from all others in its purpose: it {a}, and it {b}. Find it and segment it.",
    "Somebody asks for the thing that {a}. It also {b}. Decide which one in this image is meant, and segment it.",
    "Which thing in this image is the one that {a}? A second hint: it {b}. Please segment that thing.",
)
_BECAUSE = {
    False: ("The {s} is where {a}.", "It is the {s}, because there {a}.", "Where {a}, there is the {s}."),
    True: ("The {s} is what {a}.", "It is the {s}, because this is what {a}.", "What {a} is the {s} here."),
}
_MANY = {
    False: (
        "In {n} parts of this image, {a}.",
        "There are {n} places in this image where {a}.",
        "Look for the {n} separate areas of this image where {a}.",
        "Think of a place where {a}; this image shows {n} of them.",
    ),
    True: (
        "Each of {n} things in this image {a}.",
        "There are {n} things in this image; each of them {a}.",
        "Look for the {n} things in this image of which each {a}.",
        "Think of a thing that {a}; this image shows {n} of them.",
    ),
}
_ONE = (
    "One of them stands out, because it {cues}. Please segment exactly that one and leave the others aside.",
    "Compare them with one another and look for the one of which this is true: it {cues}. Segment only this one.",
    "Only one of them fits this description, because it {cues}. Segment that one and none of the rest.",
    "Which one is meant can be told, for of one alone all this is true: it {cues}. Segment it by itself.",
)
_THIS_ONE = ("Of the {n} {p}, this one {c}.", "It is this one of the {n} {p}, because it {c}.")


def new_sample(
    patch: Mapping[str, Any], region: Mapping[str, Any], kind: str, question: str, writer: str, **more: Any
) -> Row:
    """A row of samples; ``more`` overrides its fields."""
    return {
        "sample": f"{patch['patch']}#{region['number']}/{kind}",
        "patch": patch["patch"],
        "source": patch["source"],
        "region": region["number"],
        "category": region["category"],
        "kind": kind,
        "question": question,
        "reason": "",
        "points": [],
        "box": [],
        "cues": [],
        "writer": writer,
        "area": region["area"],
        "width": patch["width"],
        "height": patch["height"],
        "counts": region["counts"],
        "keep": True,
        "why": "",
        "scores": None,
        **more,
    }


def gather_limits(job: Job) -> Iterator[tuple[int, Iterable[Row]]]:
    """Least number of categories in a patch that makes it fit for reasoning, by source."""
    found: dict[str, list[int]] = defaultdict(list)
    for patch in job.before["filter"].rows(["source", "regions"]):
        if patch["regions"]:
            found[patch["source"]].append(len({region["category"] for region in patch["regions"]}))
    quantile = job.recipe.writing.diversity
    yield (
        0,
        [
            {"source": source, "patches": len(counts), "least": int(np.quantile(counts, quantile, method="higher"))}
            for source, counts in sorted(found.items())
        ],
    )


def write_instructions(rows: Iterator[Row], job: Job) -> Iterator[Row]:
    """Samples of the regions that were kept, by the rules alone; those that break a rule are marked, with the rule."""
    writer = RuleWriter()
    for patch, region, kinds in to_write(rows, job):
        yield from checked(interactive(patch, region, kinds, job.recipe), job)
        yield from checked(writer.write(patch, region, [k for k in kinds if k not in ("point", "box")], job), job)


def to_write(rows: Iterator[Row], job: Job) -> Iterator[tuple[Row, Row, list[str]]]:
    """(patch, region, kinds of instruction) of all regions that were kept."""
    settings = job.recipe.writing
    limits = {row["source"]: row["least"] for row in job.before["limits"].rows()}  # a few rows
    for patch in rows:
        diversity = len({region["category"] for region in patch["regions"]})
        counts = Counter(region["category"] for region in patch["regions"])
        for region in patch["regions"]:
            if region["keep"]:
                yield patch, region, _kinds(settings, diversity >= limits[patch["source"]], counts[region["category"]])


def checked(samples: Iterable[Row], job: Job) -> Iterator[Row]:
    """Samples as they came; those that break a rule of wording are marked, with the rule."""
    taxonomy = load_taxonomy()
    for sample in samples:
        if sample["keep"]:
            job.notes[f"{sample['kind']} written"] += 1
            if broken := broken_rules(sample, taxonomy[sample["category"]]):
                sample["keep"], sample["why"] = False, "; ".join(broken)
                job.notes[f"{sample['kind']} left out: {broken[0]}"] += 1
        yield sample


def _kinds(settings: Writing, is_diverse: bool, count: int) -> list[str]:
    """Kinds to write: attribute reasoning for one region of its category, contextual for two or three."""
    reasoning = {1: "attribute", 2: "contextual", 3: "contextual"}.get(count) if is_diverse else None
    return [k for k in KINDS if k in settings.kinds and (k not in ("attribute", "contextual") or k == reasoning)]


def interactive(patch: Row, region: Row, kinds: Sequence[str], recipe: Recipe) -> Iterator[Row]:
    """The sample with points or a box, if one of them is asked for."""
    settings = recipe.writing
    rng = rng_of(recipe.seed, "interactive", patch["patch"], region["number"])
    both = [kind for kind in kinds if kind in ("point", "box")]
    if not both:
        return
    kind = both[0] if len(both) == 1 else ("point" if rng.random() < settings.point_share else "box")
    width, height = patch["width"], patch["height"]
    decimals = settings.decimals
    while max(width, height) * 10.0**-decimals > 0.6:
        decimals += 1
    if kind == "box":
        x0, y0, x1, y1 = region["box"]
        box = [round(v, decimals) for v in (x0 / width, y0 / height, x1 / width, y1 / height)]
        yield new_sample(
            patch, region, "box", interactive_instruction(rng, boxes=[box], decimals=decimals), "rules", box=box
        )
        return
    count = 1 if region["area"] < settings.small else 1 + int(rng.choice(3, p=settings.points))
    mask = RunLengths(height, width, region["counts"]).load()
    points = [[round(x / width, decimals), round(y / height, decimals)] for x, y in _points(mask, count, rng)]
    question = interactive_instruction(rng, points=points, decimals=decimals)
    yield new_sample(patch, region, "point", question, "rules", points=points)


def _points(mask: NDArray[np.uint8], count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres of pixels well inside a mask, apart from one another: each is drawn from the half of the pixels that
    lie farthest from those before.
    """
    (frame,) = ndimage.find_objects((mask > 0).astype(np.int8))  # outside of it nothing is as near as its rim
    depth = ndimage.distance_transform_edt(np.pad(mask[frame], 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= min(4.0, float(depth.max()) / 2))
    spots = np.stack([columns + frame[1].start + 0.5, rows + frame[0].start + 0.5], axis=1)
    chosen = [spots[int(rng.integers(len(spots)))]]
    while len(chosen) < count:
        away = np.min([np.hypot(*(spots - point).T) for point in chosen], axis=0)
        far = np.flatnonzero(away >= np.median(away))
        chosen.append(spots[int(rng.choice(far))])
    return [(float(x), float(y)) for x, y in chosen]


class RuleWriter:
    """Writes from geometry, relations and the taxonomy; only what singles the region out."""

    def write(self, patch: Row, region: Row, kinds: Sequence[str], job: Job) -> Iterator[Row]:
        """Samples of the kinds that are asked for, as far as something singles the region out."""
        taxonomy = load_taxonomy()
        scene = Scene(patch, taxonomy)
        kind = taxonomy[region["category"]]
        for what in kinds:
            rng = rng_of(job.recipe.seed, what, patch["patch"], region["number"])
            if what == "referring":
                made = _referring(scene, region, kind, rng)
            elif what == "attribute":
                made = _attribute(scene, region, kind, rng)
            else:
                made = _contextual(scene, region, kind, taxonomy, rng)
            if made is None:
                job.notes[f"{what} not possible: nothing singles the region out"] += 1
                continue
            question, reason, cues = made
            yield new_sample(patch, region, what, question, "rules", reason=reason, cues=cues)


def _referring(scene: Scene, region: Row, kind: Kind, rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
    cues = cues_of(scene, region)
    if not cues:
        return None
    cue = _pick(cues, rng)
    phrase = _pick(cue.wordings, rng).phrase.format(s=kind.singular)
    return _pick(_ASK, rng).format(x=phrase), "", [cue.name]


def _attribute(scene: Scene, region: Row, kind: Kind, rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
    if len(scene.of(kind.name)) != 1 or scene.specks.get(kind.name) or scene.alike(kind):
        return None
    first, second = kind.uses if rng.random() < 0.5 else kind.uses[::-1]
    question = _pick(_OBJECT_ASK if kind.is_object else _PLACE_ASK, rng).format(a=first, b=second)
    reason = _pick(_BECAUSE[kind.is_object], rng).format(s=kind.singular, a=first)
    return question, reason, ["only use"]


def _contextual(
    scene: Scene, region: Row, kind: Kind, taxonomy: Taxonomy, rng: np.random.Generator
) -> tuple[str, str, list[str]] | None:
    """Two or three cues, the first of which is enough by itself."""
    if scene.alike(kind) or scene.specks.get(kind.name):
        return None
    chosen: list[Cue] = []
    for cue in _shuffled(cues_of(scene, region), rng):
        if all(cue.topic != other.topic for other in chosen) and len(chosen) < 2:
            chosen.append(cue)
    if not chosen:
        return None
    clauses = [_pick(cue.wordings, rng).clause for cue in chosen]
    names = [cue.name for cue in chosen]
    facts = [f for f in facts_of(scene, region) if not any(f.split()[-1] in clause for clause in clauses)]
    if facts:
        clauses.append(_pick(facts, rng))
        names.append("fact")
    clauses = [clause for clause in clauses if not kind.is_named_in(clause)]
    if len(clauses) < 2:
        return None
    said = f"{', it '.join(clauses[:-1])} and it {clauses[-1]}"
    count = len(scene.of(kind.name))
    many = _pick(_MANY[kind.is_object], rng).format(n=COUNTS[count], a=_pick(kind.uses, rng))
    question = f"{many} {_pick(_ONE, rng).format(cues=said)}"
    reason = _pick(_THIS_ONE, rng).format(n=COUNTS[count], p=kind.plural, c=clauses[0])
    return question, reason, names


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]


def _shuffled(options: Sequence[_T], rng: np.random.Generator) -> list[_T]:
    return [options[i] for i in rng.permutation(len(options)).tolist()]
