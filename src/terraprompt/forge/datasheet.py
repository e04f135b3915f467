"""The datasheet of a forged set, generated from its recipe and its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from terraprompt import __version__
from terraprompt.forge.agreement import lines_of
from terraprompt.forge.items import Source
from terraprompt.forge.recipe import Recipe
from terraprompt.forge.statistics import Statistics
from terraprompt.vlm.model_pool import TALLY, usage_by_role

__all__ = ["datasheet"]


def datasheet(
    recipe: Recipe,
    sources: Sequence[Source],
    statistics: Statistics,
    notes: Mapping[str, int],
    judged: Mapping[str, Any] | None = None,
) -> str:
    """Markdown that says what the set is, where it comes from, how it was made and what it is not.

    Args:
        recipe: of the set.
        sources: of the recipe.
        statistics: of the set.
        notes: counts of the run.
        judged: agreement of the judges (:func:`terraprompt.forge.agreement.agreement`).
    """
    rules, writing = recipe.regions, recipe.writing
    low, high = (100 * share for share in rules.area)
    lines = [
        f"# {recipe.name}",
        "",
        "Instructions with masks over overhead images, made from masks that others drew.",
        f"Forged with terraprompt {__version__}, seed {recipe.seed}; the recipe is in `recipe.json`.",
        "",
        "## What is in it",
        "",
        f"{sum(statistics.samples.values())} samples over {statistics.patches} images, "
        f"{len(statistics.histogram())} categories. Splits: "
        + ", ".join(f"{name} {count}" for name, count in sorted(statistics.splits.items()))
        + ".",
        "",
        statistics.table(),
        "## Where it comes from",
        "",
        "| source | images as | metres a pixel | licence | samples |",
        "|---|---|---:|---|---:|",
    ]
    for source in sources:
        table = source.table
        title = f"[{table.title}]({table.url})" if table.url else table.title
        gsd = table.gsd_m or source.use.gsd_m or "by image"
        lines.append(
            f"| {source.name}: {title} | {table.codec} | {gsd} | {table.licence} | {statistics.sources[source.name]} |"
        )
    lines += [
        "",
        "Licences of the samples: " + "; ".join(f"{k} ({v})" for k, v in sorted(statistics.licences.items())) + ".",
        "",
    ]
    for source in sources:
        mark = "" if source.table.confirmed else " **Its table is not confirmed.**"
        lines.append(f"- {source.name}:{mark} {' '.join(source.table.notes)}")
        if source.use.segmenter:
            how = "filled boxes" if source.use.segmenter == "fill" else f"the segmenter {source.use.segmenter}"
            lines.append(f"  Its boxes were turned into masks by {how}; nobody drew those masks.")
    roles, counts = usage_by_role(notes)
    models = recipe.models
    points = ", ".join(f"{100 * share:g} %" for share in writing.points)
    lines += [
        "",
        "## How it was made",
        "",
        f"1. Images and masks were cut into patches of {recipe.patches.size} px every {recipe.patches.stride} px.",
        f"2. Regions are 8-connected parts of one category; those below {rules.min_component_px} px were dropped, but "
        "no instruction was written that they would make ambiguous.",
        f"3. A region is asked about if it covers {low:g} to {high:g} % of its patch, its category has at most "
        f"{rules.max_instances} regions there, and no other of them lies within {rules.min_gap_px:g} px; at most "
        f"{rules.quota} a category and patch."
        + (
            ""
            if models.filter is None
            else f" Then {models.endpoints[models.filter].model} looked at each with a thin line round it, and passed "
            "over those that make no sense, do not stand out or cannot be told from others."
        ),
        f"4. Interactive instructions hold one, two or three points ({points}; one below {writing.small} px) or a box.",
        _written_by(recipe),
        "6. " + _judged_by(recipe),
        "7. Patches with equal or nearly equal pixels were kept once; splits follow the ground, so that no place is in "
        "two of them."
        if recipe.splits.by == "location"
        else "7. Patches with equal or nearly equal pixels were kept once; splits are those of the sources.",
        "",
        *_models(recipe, roles, judged),
        "## What was left out",
        "",
        "| what | count |",
        "|---|---:|",
        *(f"| {what} | {count} |" for what, count in sorted(counts.items()) if count),
        "",
        "## Limits",
        "",
        "- Uniqueness is judged against the labels. What the annotators of a source did not label may be in the image.",
        "- Words of direction take the top of the image as north.",
        "- A region that the edge of a patch cuts is a region of that patch.",
        "",
    ]
    return "\n".join(lines)


def _written_by(recipe: Recipe) -> str:
    models = recipe.models
    if models.writer is None or recipe.writing.writer == "rules":
        return (
            '5. Referring and reasoning instructions were written by "rules". They were composed from geometry, '
            "relations and a table of uses, not by people and not by a language model; each was checked to fit its "
            "region and no other labelled region of the patch."
        )
    said = (
        f"5. Referring and reasoning instructions were written by the model {models.endpoints[models.writer].model}, "
        "which saw the patch with a thin line round the region. Code checked length, wording and that the category is "
        "not named where it must not be; that an instruction fits no other region was not proved."
    )
    if recipe.writing.fallback == "rules":
        said += " What it could not write was composed by rules; the writer of each sample is recorded."
    return said


def _judged_by(recipe: Recipe) -> str:
    models = recipe.models
    if not models.judges:
        return "No model judged them: the checks are rules only."
    names = " and ".join(models.endpoints[name].model for name in models.judges)
    return (
        f"Referring and reasoning instructions were scored by {names}; one stays only if every score of every judge "
        "reaches its threshold. Points and boxes were not judged."
    )


def _models(recipe: Recipe, roles: Mapping[str, Counter[str]], judged: Mapping[str, Any] | None) -> list[str]:
    """Who was asked, what it took, how judges agree; empty without models."""
    models = recipe.models
    if not models.used:
        return []
    who = {"filter": models.filter, "writer": models.writer, **{f"judge {name}": name for name in models.judges}}
    lines = ["## What models did", "", f"| role | model | {' | '.join(TALLY)} |", f"|---|---|{'---:|' * len(TALLY)}"]
    for role, name in who.items():
        if name is not None:
            tally = roles.get(role, Counter())
            lines.append(f"| {role} | {models.endpoints[name].model} | {' | '.join(str(tally[w]) for w in TALLY)} |")
    lines += [
        "",
        "Answers and tokens are counted by use; a question that occurs twice was asked and paid for once.",
        "",
    ]
    if judged is not None:
        lines += [*lines_of(judged), ""]
    return lines
