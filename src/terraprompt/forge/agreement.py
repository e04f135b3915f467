"""How far judges agree: score by score, and in what they keep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from terraprompt.forge.judges import below_thresholds, family
from terraprompt.forge.model_settings import DIMENSIONS, Models
from terraprompt.forge.stages import Parts

__all__ = ["agreement", "cohens_kappa", "lines_of", "weighted_kappa"]


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960); None without samples or where chance alone gives 1."""
    if not first:
        return None
    names = sorted({*first, *second})
    table = np.zeros((len(names), len(names)))
    for a, b in zip(first, second, strict=True):
        table[names.index(a), names.index(b)] += 1
    table /= table.sum()
    by_chance = float(table.sum(0) @ table.sum(1))
    return None if by_chance >= 1 else float((np.trace(table) - by_chance) / (1 - by_chance))


def weighted_kappa(first: Sequence[int], second: Sequence[int], most: int) -> float | None:
    """Agreement of two raters beyond chance with squared distances as weights (Cohen 1968).

    Args:
        first: scores from 1 to ``most``, of the same things.
        second: as ``first``.
        most: the highest score there is.

    Returns:
        1 = equal, 0 = as by chance; None without scores, or where both always give the same one score.
    """
    if not first:
        return None
    table = np.zeros((most, most))
    np.add.at(table, (np.asarray(first) - 1, np.asarray(second) - 1), 1)
    table /= table.sum()
    weights = np.subtract.outer(np.arange(most), np.arange(most)) ** 2.0
    by_chance = float((weights * np.outer(table.sum(1), table.sum(0))).sum())
    return None if by_chance == 0 else 1 - float((weights * table).sum()) / by_chance


def agreement(samples: Parts, models: Models) -> dict[str, Any]:
    """Of all samples that were judged, also those left out.

    Returns:
        For JSON: of each judge how many samples it scored, kept, and its mean scores; of each pair of judges, by
        dimension: samples, mean absolute difference, share of equal scores, quadratic-weighted kappa; and Cohen's kappa
        of keeping and leaving.
    """
    judged: dict[str, list[dict[str, dict[str, int] | None]]] = {of: [] for of in DIMENSIONS}
    for row in samples.rows(["kind", "scores"]):
        of = family(row["kind"])
        if row["scores"] is not None and of is not None:
            judged[of].append(json.loads(row["scores"]))
    judged = {of: found for of, found in judged.items() if found}
    return {
        "thresholds": models.thresholds.model_dump(),
        "judges": {judge: _judge_facts(judge, judged, models) for judge in models.judges},
        "pairs": [_pair_facts(one, other, judged, models) for one, other in combinations(models.judges, 2)],
    }


Judged = Mapping[str, Sequence[Mapping[str, Mapping[str, int] | None]]]


def _judge_facts(judge: str, judged: Judged, models: Models) -> dict[str, Any]:
    out: dict[str, Any] = {"model": models.endpoints[judge].model}
    for kind, samples in judged.items():
        given = [scores for sample in samples if (scores := sample[judge]) is not None]
        out[kind] = {
            "samples": len(samples),
            "scored": len(given),
            "kept": sum(_keeps(scores, kind, models) for scores in given),
            "means": {name: _rounded(np.mean([scores[name] for scores in given])) for name in DIMENSIONS[kind]}
            if given
            else {},
        }
    return out


def _pair_facts(one: str, other: str, judged: Judged, models: Models) -> dict[str, Any]:
    out: dict[str, Any] = {"one": one, "other": other}
    for kind, samples in judged.items():
        both = [(a, b) for sample in samples if (a := sample[one]) is not None and (b := sample[other]) is not None]
        dimensions = {}
        for name, most in DIMENSIONS[kind].items():
            first, second = [a[name] for a, _ in both], [b[name] for _, b in both]
            apart = np.abs(np.subtract(first, second)) if both else np.zeros(0)
            dimensions[name] = {
                "difference": _rounded(apart.mean()) if both else None,
                "equal": _rounded((apart == 0).mean()) if both else None,
                "kappa": _rounded(weighted_kappa(first, second, most)),
            }
        kept = [[str(_keeps(scores, kind, models)) for scores in side] for side in zip(*both, strict=True)]
        out[kind] = {
            "samples": len(both),
            "dimensions": dimensions,
            "same_verdict": _rounded(np.mean([a == b for a, b in zip(*kept, strict=True)])) if both else None,
            "kappa_of_keeping": _rounded(cohens_kappa(*kept)) if both else None,
        }
    return out


def _keeps(scores: Mapping[str, int], kind: str, models: Models) -> bool:
    return not below_thresholds(scores, kind, models.thresholds)


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


def lines_of(found: Mapping[str, Any]) -> Iterable[str]:
    """Markdown: a table of the judges, and one of each pair."""
    kinds = [kind for kind in DIMENSIONS if any(kind in judge for judge in found["judges"].values())]
    yield from ("| judge | model | of | scored | kept |", "|---|---|---|---:|---:|")
    for name, judge in found["judges"].items():
        for kind in kinds:
            row = judge[kind]
            yield f"| {name} | {judge['model']} | {kind} | {row['scored']} of {row['samples']} | {row['kept']} |"
    for pair in found["pairs"]:
        yield from ("", f"Agreement of {pair['one']} and {pair['other']}:", "")
        yield "| of | dimension | samples | mean difference | equal | weighted kappa |"
        yield "|---|---|---:|---:|---:|---:|"
        for kind in kinds:
            for name, row in pair[kind]["dimensions"].items():
                numbers = " | ".join(_decimals(row[key]) for key in ("difference", "equal", "kappa"))
                yield f"| {kind} | {name.replace('_', ' ')} | {pair[kind]['samples']} | {numbers} |"
        yield ""
        for kind in kinds:
            same, kappa = pair[kind]["same_verdict"], pair[kind]["kappa_of_keeping"]
            yield f"Keep or leave, {kind}: same verdict {_decimals(same)}, Cohen's kappa {_decimals(kappa)}."


def _decimals(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
