"""Stage 5: what stays. Duplicates go, caps and proportions thin, and every place on the ground gets one split."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from sys import intern

import numpy as np

from terraprompt.errors import DatasetError
from terraprompt.forge.image_dedup import repeated
from terraprompt.forge.recipe import Caps, Recipe
from terraprompt.forge.records import KEPT, Row, chance
from terraprompt.forge.stages import Job, read_rows

__all__ = ["assign_splits", "gather_selection", "thin"]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What selection needs of a sample."""

    sample: str
    patch: str
    category: str
    kind: str


def gather_selection(job: Job) -> Iterator[tuple[int, Iterable[Row]]]:
    """Samples that stay, in the parts they came in.

    Raises:
        DatasetError: nothing stays.
    """
    written, filtered = job.samples, job.regions
    # the words are few and patches have many samples: equal strings are held once
    samples = [
        _Candidate(row["sample"], intern(row["patch"]), intern(row["category"]), intern(row["kind"]))
        for row in written.rows(["sample", "patch", "category", "kind", "keep"])
        if row["keep"]
    ]
    samples = _without_duplicates(samples, job)
    samples = thin(samples, job.recipe.caps, job.recipe.seed, job.notes)
    if not samples:
        raise DatasetError(
            "No sample is left.",
            received="; ".join(f"{what}: {count}" for what, count in sorted(job.notes.items())) or None,
            hint="Look at the counts of the stages before (work/*/done.json) and at the rules of the recipe.",
        )
    weights: Counter[str] = Counter(sample.patch for sample in samples)
    splits = _splits(weights, job)
    kept = {sample.sample for sample in samples}
    patch_fields = [name for name in KEPT.names if name in _PATCH_FIELDS]
    for path in written.paths():
        number = int(path.stem.partition("-")[2])
        patches = {row["patch"]: row for row in read_rows(filtered.part(number), ["patch", *patch_fields])}
        yield (
            number,
            (
                {
                    **row,
                    **{name: patches[row["patch"]][name] for name in patch_fields},
                    "split": splits[row["patch"]],
                }
                for row in read_rows(path)
                if row["sample"] in kept
            ),
        )


_PATCH_FIELDS = frozenset(
    (
        *("item", "number", "image", "record", "licence", "gsd_m", "crs", "transform"),
        *("column", "row", "stretch", "bands", "place"),
    )
)


def _without_duplicates(samples: list[_Candidate], job: Job) -> list[_Candidate]:
    wanted = {sample.patch for sample in samples}
    names, shas, hashes, thumbs = [], [], array("Q"), bytearray()
    for row in job.regions.rows(["patch", "sha", "phash", "thumb"]):
        if row["patch"] in wanted:
            names.append(intern(row["patch"]))
            shas.append(bytes.fromhex(row["sha"]))
            hashes.append(row["phash"])
            thumbs += row["thumb"]
    if not names:
        return samples
    rules = job.recipe.duplicates
    pictures = np.frombuffer(thumbs, np.uint8).reshape(len(names), -1)
    exact, near = repeated(shas, np.frombuffer(hashes, np.uint64), pictures, bits=rules.bits, levels=rules.levels)
    job.notes["duplicate patches"] += len(exact)
    job.notes["near duplicate patches"] += len(near)
    gone = {names[i] for i in (*exact, *near)}
    return [sample for sample in samples if sample.patch not in gone]


def thin(samples: Sequence[_Candidate], caps: Caps, seed: int, notes: Counter[str]) -> list[_Candidate]:
    """Samples within the caps, in the order given; which ones stay is drawn with the seed."""
    drawn = sorted(range(len(samples)), key=lambda i: chance(seed, "cap", samples[i].sample))
    left: list[int] = []
    full: Counter[tuple[str, str]] = Counter()
    for i in drawn:
        key = (samples[i].kind, samples[i].category)
        if caps.per_category is not None and full[key] >= caps.per_category:
            notes["above the cap of a category"] += 1
            continue
        full[key] += 1
        left.append(i)
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i in left:
        by_kind[samples[i].kind].append(i)
    for kind, most in caps.total.items():
        notes[f"above the total of {kind}"] += max(0, len(by_kind[kind]) - most)
        by_kind[kind] = by_kind[kind][:most]
    weights = {kind: weight for kind, weight in caps.proportions.items() if weight > 0}
    if weights:
        scale = min(len(by_kind[kind]) / weight for kind, weight in weights.items())
        for kind, weight in weights.items():
            most = round(scale * weight)
            notes[f"above the proportion of {kind}"] += max(0, len(by_kind[kind]) - most)
            by_kind[kind] = by_kind[kind][:most]
    return [samples[i] for i in sorted(i for found in by_kind.values() for i in found)]


def _splits(weights: Counter[str], job: Job) -> dict[str, str]:
    """Split of every patch."""
    by_place: Counter[str] = Counter()
    places, given = {}, {}
    for row in job.regions.rows(["patch", "place", "split", "source"]):
        if row["patch"] in weights:
            patch = intern(row["patch"])
            places[patch] = intern(row["place"])
            given[patch] = row["split"]
            by_place[row["place"]] += weights[row["patch"]]
    if job.recipe.splits.by == "location":
        chosen = assign_splits(by_place, job.recipe)
        return {patch: chosen[place] for patch, place in places.items()}
    if missing := sorted(patch for patch, split in given.items() if split is None):
        raise DatasetError(
            "A source has no splits of its own.", received=missing[0], hint="Set `splits: {by: location}`."
        )
    found: dict[str, set[str]] = defaultdict(set)
    for patch, split in given.items():
        found[places[patch]].add(split)
    if shared := sorted(place for place, splits in found.items() if len(splits) > 1):
        raise DatasetError(
            "A source has the same ground in two of its splits.",
            received=shared[0],
            hint="Divide it by ground: `splits: {by: location}`.",
        )
    return given


def assign_splits(places: Counter[str], recipe: Recipe) -> dict[str, str]:
    """One split for each place, so that the samples come near the wanted shares.

    Places come in an order drawn with the seed; each goes where most is missing.
    """
    shares = recipe.splits.shares
    order = sorted(places, key=lambda place: chance(recipe.seed, "split", place))
    total = sum(places.values())
    have: Counter[str] = Counter()
    out: dict[str, str] = {}
    for place in order:
        split = max(shares, key=lambda name: (shares[name] * total - have[name], shares[name]))
        out[place] = split
        have[split] += places[place]
    return out
