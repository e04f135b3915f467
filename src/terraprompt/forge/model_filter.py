"""The model filter: a model looks at every region that the rules kept and lets it pass or not (spec, section 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.forge.model_settings import Line
from terraprompt.forge.outline import PatchPictures, outlined, region_mask
from terraprompt.forge.prompts import FORMS, prompt, text_faults
from terraprompt.forge.records import Row
from terraprompt.forge.stages import Job
from terraprompt.io.text import sanitize_text
from terraprompt.language.categories import forge_vocabulary
from terraprompt.vlm.model_pool import Answer, ModelPool, add_usage

__all__ = ["ask_filter"]

_REASON = 200  # characters of a reason that are kept


@dataclass(frozen=True)
class _Question:
    patch: Row
    region: Row | None  # None ends a patch
    pixels: NDArray[np.uint8] | None


def ask_filter(rows: Iterator[Row], job: Job) -> Iterator[Row]:
    """Patches whose regions a model has looked at; those that it passes over stay in the record, with its reason.

    Raises:
        BudgetError, ReasonerError: see :meth:`terraprompt.vlm.model_pool.ModelPool.map`.
    """
    panel, models = job.asking(), job.recipe.models
    name = str(models.filter)
    pictures = PatchPictures(job.recipe)
    vocabulary = forge_vocabulary()
    side = models.endpoints[name].side

    def questions() -> Iterator[_Question]:
        for patch in rows:
            for region in patch["regions"]:
                if region["keep"]:
                    yield _Question(patch, region, pictures.of(patch))
            yield _Question(patch, None, None)

    def work(look: _Question) -> Answer | None:
        if look.region is None or look.pixels is None:
            return None
        shown = outlined(look.pixels, region_mask(look.patch, look.region), line=models.line, side=side)
        return _ask(panel, name, shown, vocabulary[look.region["category"]].singular, models.line)

    def what(look: _Question) -> str:
        return look.patch["patch"] if look.region is None else f"{look.patch['patch']}#{look.region['number']}"

    # The row of a patch is complete when the mark of its end comes back.
    for look, answer in panel.map(work, questions(), what):
        if look.region is None or answer is None:
            yield look.patch
            continue
        add_usage("filter", answer.tally, job.notes)
        _mark(look.region, answer, job.notes)


def _ask(panel: ModelPool, name: str, shown: NDArray[np.uint8], category: str, line: Line) -> Answer:
    text = prompt("filter", category=category, colour=line.target)
    return panel.ask(name, text, shown, form=FORMS["filter"], faults=_faults)


def _faults(value: dict[str, Any]) -> list[str]:
    wrong = text_faults(value, ["reason"])
    if value.get("decision") not in ("generate", "pass"):
        wrong.append('"decision" must be "generate" or "pass"')
    return wrong


def _mark(region: Row, answer: Answer, notes: Counter[str]) -> None:
    if answer.outcome == "good" and answer.value is not None:
        if answer.value["decision"] == "generate":
            notes["region kept by the model"] += 1
            return
        why = f"passed over by the model: {sanitize_text(answer.value['reason'], _REASON)}"
        notes["region left out: passed over by the model"] += 1
    else:
        why = f"model filter: {answer.why}"
        notes[f"region left out: model filter, {answer.outcome}"] += 1
    region["keep"], region["why"] = False, why
