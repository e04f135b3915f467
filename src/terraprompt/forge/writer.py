"""Stage 4: instructions for the regions that were kept, by the deterministic writer; models are asked elsewhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.forge.constraints import broken_rules
from terraprompt.forge.cues import Scene, cues_of, facts_of
from terraprompt.forge.recipe import KINDS, Recipe, Writing
from terraprompt.forge.records import Row, rng_of
from terraprompt.forge.stages import Job
from terraprompt.geometry.interior import interior_distance
from terraprompt.io.rle import RunLengths
from terraprompt.language.categories import Category, forge_vocabulary
from terraprompt.language.cues import Cue
from terraprompt.language.interactive import interactive_instruction
from terraprompt.language.writer import (
    comparison_instruction,
    function_instruction,
    pick,
    unique_instruction,
)

__all__ = [
    "RuleWriter",
    "checked",
    "gather_limits",
    "interactive",
    "new_sample",
    "to_write",
    "write_instructions",
]


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
        "cut": region["border"],
        "width": patch["width"],
        "height": patch["height"],
        "counts": region["counts"],
        "keep": True,
        "why": "",
        "scores": None,
        "comments": None,
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
    for sample in samples:
        if sample["keep"]:
            job.notes[f"{sample['kind']} written"] += 1
            if broken := broken_rules(sample, forge_vocabulary()[sample["category"]]):
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
            patch, region, "box", interactive_instruction(boxes=[box], decimals=decimals), "rules", box=box
        )
        return
    count = 1 if region["area"] < settings.small else 1 + int(rng.choice(3, p=settings.points))
    mask = RunLengths(height, width, region["counts"]).load()
    points = [[round(x / width, decimals), round(y / height, decimals)] for x, y in _points(mask, count, rng)]
    question = interactive_instruction(points=points, decimals=decimals)
    yield new_sample(patch, region, "point", question, "rules", points=points)


def _points(mask: NDArray[np.uint8], count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres of pixels well inside a mask, apart from one another: each is drawn from the half of the pixels that
    lie farthest from those before.
    """
    (frame,) = ndimage.find_objects((mask > 0).astype(np.int8))  # outside of it nothing is as near as its rim
    depth = interior_distance(mask[frame])
    rows, columns = np.nonzero(depth >= min(4.0, float(depth.max()) / 2))
    spots = np.stack([columns + frame[1].start + 0.5, rows + frame[0].start + 0.5], axis=1)
    chosen = [spots[int(rng.integers(len(spots)))]]
    while len(chosen) < count:
        away = np.min([np.hypot(*(spots - point).T) for point in chosen], axis=0)
        far = np.flatnonzero(away >= np.median(away))
        chosen.append(spots[int(rng.choice(far))])
    return [(float(x), float(y)) for x, y in chosen]


class RuleWriter:
    """Writes from geometry, relations and the vocabulary; only what singles the region out."""

    def write(self, patch: Row, region: Row, kinds: Sequence[str], job: Job) -> Iterator[Row]:
        """Samples of the kinds that are asked for, as far as something singles the region out."""
        scene = Scene(patch)
        category = forge_vocabulary()[region["category"]]
        for kind in kinds:
            rng = rng_of(job.recipe.seed, kind, patch["patch"], region["number"])
            made = _WRITERS[kind](scene, region, category, rng)
            if made is None:
                job.notes[f"{kind} not possible: nothing singles the region out"] += 1
                continue
            question, reason, cues = made
            yield new_sample(patch, region, kind, question, "rules", reason=reason, cues=cues)


_Text = tuple[str, str, list[str]]  # question, reason, names of cues


def _referring(scene: Scene, region: Row, category: Category, rng: np.random.Generator) -> _Text | None:
    cues = cues_of(scene, region)
    if not cues:
        return None
    cue = pick(cues, rng)
    further = _further(scene, region, category, [cue], cues, rng)
    said = [clause for _, clause in further]
    return unique_instruction(cue, category, rng, said), "", [cue.name, *(name for name, _ in further)]


def _further(
    scene: Scene, region: Row, category: Category, said: Sequence[Cue], cues: Sequence[Cue], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """(name, clause) of one more thing that is true of the target, on another topic; [] if there is none."""
    topics = {cue.topic for cue in said}
    axes = {axis for topic in topics for axis in _axes(topic)}
    ranked = any(cue.name[-1].isdigit() for cue in said)
    facts = [fact for fact in facts_of(scene, region) if fact.topic not in topics and not axes & _axes(fact.topic)]
    if any(len(_axes(fact.topic)) == 2 for fact in facts):  # a corner says more than its two halves
        facts = [fact for fact in facts if len(_axes(fact.topic)) != 1]
    options = [("fact", fact.clause) for fact in facts]
    options += [
        (cue.name, pick(cue.wordings, rng).clause)
        for cue in cues
        if cue.name != "only"
        and cue.topic not in topics
        and not axes & _axes(cue.topic)
        and not (ranked and cue.name[-1].isdigit())
    ]
    return [pick(options, rng)] if options else []


def _axes(topic: str) -> set[str]:
    """Along which sides of the image a topic places something: what lies farthest left need not lie in the left half
    too.
    """
    across, down = {"left", "right"}, {"top", "bottom", "upper", "lower"}
    words = set(topic.split())
    return {axis for axis, sides in (("x", across), ("y", down)) if words & sides}


def _attribute(scene: Scene, region: Row, category: Category, rng: np.random.Generator) -> _Text | None:
    name = category.name
    if len(scene.of(name)) != 1 or scene.specks.get(name) or scene.has_other_of_group(category):
        return None
    return *function_instruction(category, rng), ["only use"]


def _contextual(scene: Scene, region: Row, category: Category, rng: np.random.Generator) -> _Text | None:
    """Two or three cues, the first of which is enough by itself."""
    if scene.has_other_of_group(category) or scene.specks.get(category.name):
        return None
    chosen: list[Cue] = []
    cues = cues_of(scene, region)
    for cue in (cues[i] for i in rng.permutation(len(cues))):
        placed = {axis for other in chosen for axis in _axes(other.topic)}
        ranked = any(other.name[-1].isdigit() for other in chosen)
        if placed & _axes(cue.topic) or (ranked and cue.name[-1].isdigit()):
            continue
        if all(cue.topic != other.topic for other in chosen) and len(chosen) < 2:
            chosen.append(cue)
    if not chosen:
        return None
    clauses = [pick(cue.wordings, rng).clause for cue in chosen]
    names = [cue.name for cue in chosen]
    if len(chosen) < 2:
        for name, clause in _further(scene, region, category, chosen, [], rng):
            clauses.append(clause)
            names.append(name)
    if len(clauses) < 2 or any(category.is_named_in(clause) for clause in clauses):
        return None
    return *comparison_instruction(category, len(scene.of(category.name)), clauses, rng), names


_WRITERS = {"referring": _referring, "attribute": _attribute, "contextual": _contextual}
