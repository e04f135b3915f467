"""Stage 2: connected regions of every category, their geometry and relations; stage 3: which are worth asking for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from terraprompt.forge.patches import decode_mask
from terraprompt.forge.recipe import RegionRules
from terraprompt.forge.records import REGION, Row, chance
from terraprompt.forge.stages import Job
from terraprompt.io.rle import RunLengths
from terraprompt.language.categories import forge_vocabulary
from terraprompt.language.object_geometry import Component, components
from terraprompt.language.object_relations import nearest_of_kind, outlines, related

__all__ = ["filter_regions", "find_regions", "regions_of"]


def find_regions(rows: Iterator[Row], job: Job) -> Iterator[Row]:
    """Patches with their regions instead of their masks."""
    for patch in rows:
        numbers = decode_mask(patch["mask"], patch["width"], patch["height"])
        regions, specks = regions_of(numbers, patch["gsd_m"], job.recipe.regions)
        job.notes["regions found"] += len(regions)
        job.notes["specks dropped"] += sum(specks.values())
        row = {name: patch[name] for name in REGION.names if name in patch}
        row["specks"] = [{"category": name, "count": count} for name, count in sorted(specks.items())]
        row["regions"] = regions
        yield row


def regions_of(numbers: NDArray[np.uint8], gsd_m: float | None, rules: RegionRules) -> tuple[list[Row], Counter[str]]:
    """Regions of a mask of category numbers, 8-connected, in order of category and first pixel.

    Returns:
        Rows as in :data:`terraprompt.forge.records.REGION`, and how many specks each category lost.
    """
    vocabulary = forge_vocabulary()
    height, width = numbers.shape
    labels = np.zeros((height, width), np.int32)
    kinds: list[str] = []
    items: list[Component] = []
    specks: Counter[str] = Counter()
    for number in np.flatnonzero(np.bincount(numbers.reshape(-1), minlength=256))[0:]:
        if number == 0:
            continue
        name = vocabulary.of_number(int(number)).name
        found = components(numbers == number, min_area=rules.min_component_px)
        if found.specks:
            specks[name] += found.specks
        np.copyto(labels, found.labels + len(items), where=found.labels > 0)
        items += found.items
        kinds += [name] * len(found.items)
    edges = outlines(labels, len(items)) if items else []
    nearest = nearest_of_kind(items, kinds, edges)
    relations = related(items, edges, reach=rules.search_radius_px)
    counts = _run_lengths(labels, len(items))
    out = []
    for index, item in enumerate(items):
        x0, y0, x1, y1 = item.box
        out.append(
            {
                "number": index,
                "category": kinds[index],
                "area": int(item.area),
                "box": [x0, y0, x1, y1],
                "centroid": [round(v, 3) for v in item.centroid],
                "border": x0 <= 0 or y0 <= 0 or x1 >= width or y1 >= height,
                "nearest": None if nearest[index] is None else round(float(nearest[index] or 0), 3),
                "counts": counts[index],
                "relations": [
                    {
                        "other": r.other,
                        "gap": round(r.gap, 3),
                        "metres": None if gsd_m is None else round(r.gap * gsd_m, 2),
                        "direction": r.direction,
                        "adjacent": r.adjacent,
                    }
                    for r in relations[index]
                ],
                "keep": True,
                "why": "",
            }
        )
    return out, specks


def _run_lengths(labels: NDArray[np.int32], count: int) -> list[str]:
    """Run-length strings of all regions in one pass over the columns."""
    height, width = labels.shape
    flat = labels.T.reshape(-1)
    cuts = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    spans: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for start, end in pairwise(cuts):
        owner = int(flat[start])
        if owner > 0:
            spans[owner - 1].append((start, end))
    out = []
    for found in spans:
        runs, at = [], 0
        for start, end in found:
            runs += [start - at, end - start]
            at = end
        if at < flat.size:
            runs.append(flat.size - at)
        out.append(RunLengths.of({"size": [height, width], "counts": runs}).counts)
    return out


def filter_regions(rows: Iterator[Row], job: Job) -> Iterator[Row]:
    """Mark the regions that are worth asking for; the others stay, because uniqueness is judged against them.

    Rules and numbers: spec, section 4.
    """
    rules = job.recipe.regions
    for patch in rows:
        whole = patch["width"] * patch["height"]
        members: dict[str, list[Row]] = defaultdict(list)
        for region in patch["regions"]:
            members[region["category"]].append(region)
        for category, found in members.items():
            left = []
            for region in found:
                why = _fault(region, len(found), whole, rules)
                if why:
                    region["keep"], region["why"] = False, why
                else:
                    left.append(region)
            left.sort(key=lambda region: chance(job.recipe.seed, "quota", patch["patch"], category, region["number"]))
            for region in left[rules.quota :]:
                region["keep"], region["why"] = False, "more than the quota"
        for region in patch["regions"]:
            job.notes[f"region {'kept' if region['keep'] else 'left out: ' + region['why']}"] += 1
        yield patch


def _fault(region: Row, count: int, whole: int, rules: RegionRules) -> str:
    share = region["area"] / whole
    if share < rules.area[0]:
        return "too small"
    if share > rules.area[1]:
        return "too large"
    if count > rules.max_instances:
        return "too many of the category"
    if region["nearest"] is not None and region["nearest"] <= rules.min_gap_px:
        return "another one too near"
    return ""
