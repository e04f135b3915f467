"""Cross-scoring: models score what was written, and only what is good enough for all of them stays (spec, section 7).

Points and boxes come from the mask and are not judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import DatasetError
from terraprompt.forge.model_settings import DIMENSIONS, Thresholds
from terraprompt.forge.outline import PatchPictures, outlined, region_mask
from terraprompt.forge.prompts import FORMS, comment_of, prompt, score_faults, score_of
from terraprompt.forge.records import Row
from terraprompt.forge.stages import Job, read_rows
from terraprompt.language.categories import Category, forge_vocabulary
from terraprompt.vlm.model_pool import Answer, add_usage

__all__ = ["below_thresholds", "family", "judge_samples"]


_NEEDED = ("patch", "number", "image", "column", "row", "width", "height", "stretch", "bands", "regions")


@dataclass(frozen=True)
class _Question:
    sample: Row
    judge: str | None  # None ends a sample
    pixels: NDArray[np.uint8] | None
    others: tuple[NDArray[np.bool_], ...] = ()  # masks of the other regions of the category


def family(kind: str) -> str | None:
    """Which dimensions a kind of instruction is scored by; None if it is not judged."""
    return {"referring": "referring", "attribute": "reasoning", "contextual": "reasoning"}.get(kind)


def below_thresholds(scores: Mapping[str, int], of: str, thresholds: Thresholds) -> list[str]:
    """Dimensions of a family whose score is not enough, with both numbers."""
    least = thresholds.referring if of == "referring" else thresholds.reasoning
    return [f"{name} {scores[name]} below {least[name]}" for name in least if scores[name] < least[name]]


def judge_samples(rows: Iterator[Row], job: Job) -> Iterator[Row]:
    """Samples with the scores of all judges; those that one of them does not pass are marked.

    A judge sees the target in one colour and the other regions of its category in another. ``scores`` is JSON: judge ->
    dimension -> score, or null for a judge that gave no usable scores; ``comments`` likewise, where a judge made any.

    Raises:
        BudgetError, ReasonerError: see :meth:`terraprompt.vlm.model_pool.ModelPool.map`.
    """
    panel, pictures, vocabulary = job.asking(), PatchPictures(job.recipe), forge_vocabulary()
    models = job.recipe.models
    judges = models.judges

    def questions() -> Iterator[_Question]:
        patches = read_rows(job.regions.part(job.part), _NEEDED)
        patch: Row = {"patch": None}
        for sample in rows:
            if sample["keep"] and family(sample["kind"]):
                while patch["patch"] != sample["patch"]:  # both are in the order of the patches
                    patch = _next(patches, sample)
                pixels = pictures.of(patch)
                others = _others(patch, sample)
                yield from (_Question(sample, judge, pixels, others) for judge in judges)
            yield _Question(sample, None, None)

    def work(case: _Question) -> Answer | None:
        sample = case.sample
        if case.judge is None or case.pixels is None:
            return None
        kind = str(family(sample["kind"]))
        side = models.endpoints[case.judge].side
        shown = outlined(case.pixels, region_mask(sample, sample), others=case.others, line=models.line, side=side)
        category = vocabulary[sample["category"]]
        text = prompt(
            f"judge_{kind}",
            category=category.singular,
            colour=models.line.target,
            distractors=_distractors(len(case.others), category, models.line.others),
            question=sample["question"],
            reason=sample["reason"],
        )

        def faults(value: dict[str, Any]) -> list[str]:
            return score_faults(value, DIMENSIONS[kind])

        return panel.ask(case.judge, text, shown, form=FORMS[f"judge_{kind}"], faults=faults)

    def what(case: _Question) -> str:
        return str(case.sample["sample"])

    answers: dict[str, Answer] = {}
    for case, answer in panel.map(work, questions(), what):
        if case.judge is not None and answer is not None:
            add_usage(f"judge {case.judge}", answer.tally, job.notes)
            answers[case.judge] = answer
            continue
        if answers:
            _mark(case.sample, answers, job)
            answers = {}
        yield case.sample


def _others(patch: Row, sample: Row) -> tuple[NDArray[np.bool_], ...]:
    """Masks of the other regions of the target's category, those too that nothing is asked about."""
    return tuple(
        region_mask(patch, region)
        for region in patch["regions"]
        if region["category"] == sample["category"] and region["number"] != sample["region"]
    )


def _distractors(count: int, category: Category, colour: str) -> str:
    """What a judge is told of the lines round other regions of the category."""
    if not count:
        return f"No other region of the image is labelled {category.singular}."
    round_what = "1 other region" if count == 1 else f"{count} other regions"
    return f"Thin {colour} lines were drawn round {round_what} of the category, which the text must exclude."


def _next(patches: Iterator[Row], sample: Row) -> Row:
    for patch in patches:
        return patch
    raise DatasetError("A sample has no patch in the work files.", received=sample["sample"])


def _mark(sample: Row, answers: Mapping[str, Answer], job: Job) -> None:
    kind, of = sample["kind"], str(family(sample["kind"]))
    scores: dict[str, dict[str, int] | None] = {}
    comments: dict[str, dict[str, str]] = {}
    why = []
    for judge, answer in answers.items():
        if answer.outcome != "good" or answer.value is None:
            scores[judge] = None
            why.append(f"judge {judge}: {answer.why}")
            continue
        found = {name: score_of(answer.value[name]) for name in DIMENSIONS[of]}
        scores[judge] = found
        said = {name: comment for name in found if (comment := comment_of(answer.value[name]))}
        if said:
            comments[judge] = said
        if low := below_thresholds(found, of, job.recipe.models.thresholds):
            why.append(f"judge {judge}: {', '.join(low)}")
    sample["scores"] = json.dumps(scores, sort_keys=True)
    sample["comments"] = json.dumps(comments, sort_keys=True, ensure_ascii=False) if comments else None
    if why:
        sample["keep"], sample["why"] = False, "; ".join(why)
    verdict = "left out: by scores" if why else "passed all judges"
    job.notes[f"{kind} {'left out: a judge gave no usable scores' if None in scores.values() else verdict}"] += 1
