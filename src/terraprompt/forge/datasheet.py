"""The datasheet of a forged set, generated from its recipe and its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from terraprompt import __version__
from terraprompt.forge.items import Source
from terraprompt.forge.recipe import Recipe
from terraprompt.forge.statistics import Statistics

__all__ = ["datasheet"]


def datasheet(recipe: Recipe, sources: Sequence[Source], statistics: Statistics, notes: dict[str, int]) -> str:
    """Markdown that says what the set is, where it comes from, how it was made and what it is not."""
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
    asked = recipe.models or None
    points = ", ".join(f"{100 * share:g} %" for share in writing.points)
    lines += [
        "",
        "## How it was made",
        "",
        f"1. Images and masks were cut into patches of {recipe.patches.size} px every {recipe.patches.stride} px.",
        "2. Regions are 8-connected parts of one category; "
        f"those below {rules.speck} px were dropped, but no instruction was written that they would make ambiguous.",
        f"3. A region is asked about if it covers {low:g} to {high:g} % of its patch, its category has at most "
        f"{rules.instances} regions there, and no other of them lies within {rules.apart:g} px; at most {rules.quota} "
        "a category and patch.",
        f"4. Interactive instructions hold one, two or three points ({points}; one below {writing.small} px) or a box.",
        f'5. Referring and reasoning instructions were written by "{writing.writer}".'
        + (
            " They were composed from geometry, relations and a table of uses, not by people and not by a language "
            "model; each was checked to fit its region and no other labelled region of the patch."
            if writing.writer == "rules"
            else ""
        ),
        "6. "
        + (
            "No model judged them: the checks are rules only."
            if asked is None
            else f"Models took part: {', '.join(sorted(asked))}."
        ),
        "7. Patches with equal or nearly equal pixels were kept once; splits follow the ground, so that no place is in "
        "two of them."
        if recipe.splits.by == "location"
        else "7. Patches with equal or nearly equal pixels were kept once; splits are those of the sources.",
        "",
        "## What was left out",
        "",
        "| what | count |",
        "|---|---:|",
        *(f"| {what} | {count} |" for what, count in sorted(notes.items()) if count),
        "",
        "## Limits",
        "",
        "- Uniqueness is judged against the labels. What the annotators of a source did not label may be in the image.",
        "- Words of direction take the top of the image as north.",
        "- A region that the edge of a patch cuts is a region of that patch.",
        "",
    ]
    return "\n".join(lines)
