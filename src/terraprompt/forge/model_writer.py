"""Instructions by a model that sees the patch with the region outlined (spec, section 6).

Points and boxes need no model. What a model writes keeps to the rules of :mod:`terraprompt.forge.constraints`: a breach
is told to it and asked again; what still breaks one is left out, with the reason, or written by rules if the recipe
says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.forge.constraints import MARKING, broken_rules
from terraprompt.forge.model_settings import Models
from terraprompt.forge.outline import PatchPictures, outlined, region_mask
from terraprompt.forge.prompts import CUES, FORMS, MAX_TEXT, names_of, prompt, text_faults
from terraprompt.forge.records import Row
from terraprompt.forge.stages import Job
from terraprompt.forge.writer import RuleWriter, checked, interactive, new_sample, to_write
from terraprompt.io.text import sanitize_text
from terraprompt.language.categories import Category, forge_vocabulary
from terraprompt.vlm.model_pool import Answer, ModelPool, add_usage

__all__ = ["write_with_model"]

_LABEL = re.compile(r"^\s*(?:question|instruction|reason)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class _Ask:
    """A sample that is there already, or a text that is asked for."""

    patch: Row
    region: Row
    kind: str
    sample: Row | None = None
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Text:
    """What came of a text.

    Attributes:
        answer: the last one; good if the text is.
        tally: what all steps took.
        cues: of a contextual text.
    """

    answer: Answer
    tally: Counter[str]
    cues: tuple[str, ...] = ()


def write_with_model(rows: Iterator[Row], job: Job) -> Iterator[Row]:
    """Samples of the regions that were kept.

    Raises:
        BudgetError, ReasonerError: see :meth:`terraprompt.vlm.model_pool.ModelPool.map`.
    """
    panel, pictures = job.asking(), PatchPictures(job.recipe)
    author = _Author(panel, job.recipe.models)

    def asks() -> Iterator[_Ask]:
        for patch, region, kinds in to_write(rows, job):
            for sample in interactive(patch, region, kinds, job.recipe):
                yield _Ask(patch, region, sample["kind"], sample)
            for kind in kinds:
                if kind not in ("point", "box"):
                    yield _Ask(patch, region, kind, None, pictures.of(patch))

    def what(ask: _Ask) -> str:
        return f"{ask.patch['patch']}#{ask.region['number']}/{ask.kind}"

    for ask, text in panel.map(author.write, asks(), what):
        if ask.sample is not None:
            yield from checked([ask.sample], job)
        elif text is not None:
            add_usage("writer", text.tally, job.notes)
            yield from checked(_samples(ask, text, author.name, job), job)


def _samples(ask: _Ask, text: _Text, name: str, job: Job) -> Iterator[Row]:
    answer = text.answer
    written = answer.value or {}
    question, reason = _clean(written.get("question", "")), _clean(written.get("reason", ""))
    more: dict[str, Any] = {"reason": reason if ask.kind != "referring" else "", "cues": list(text.cues)}
    if answer.outcome == "good":
        yield new_sample(ask.patch, ask.region, ask.kind, question, name, **more)
        return
    if job.recipe.writing.fallback == "rules":
        instead = [*RuleWriter().write(ask.patch, ask.region, [ask.kind], job)]
        for sample in instead:
            job.notes[f"{ask.kind} by rules instead: model, {answer.outcome}"] += 1
            yield {**sample, "writer": f"rules, instead of {name}"}
        if instead:
            return
    job.notes[f"{ask.kind} left out: model, {answer.outcome}"] += 1
    yield new_sample(ask.patch, ask.region, ask.kind, question, name, keep=False, why=f"writer: {answer.why}", **more)


class _Author:
    """Asks one endpoint for texts; called from many threads."""

    def __init__(self, panel: ModelPool, models: Models) -> None:
        self.panel, self.endpoint = panel, str(models.writer)
        settings = models.endpoints[self.endpoint]
        self.name = f"model {settings.model}"
        self._side = settings.side
        self._line = models.line
        self._vocabulary = forge_vocabulary()

    def write(self, ask: _Ask) -> _Text | None:
        """The text; None if there is a sample already."""
        if ask.pixels is None:
            return None
        category = self._vocabulary[ask.region["category"]]
        mask = region_mask(ask.patch, ask.region)
        shown = outlined(ask.pixels, mask, line=self._line, side=self._side)
        fields: dict[str, Any] = {
            "category": category.singular,
            "colour": self._line.target,
            "names": names_of(category),
        }
        if ask.kind == "contextual":
            return self._in_two_steps(ask, category, ask.pixels, shown, fields)
        present = {self._vocabulary[region["category"]].singular for region in ask.patch["regions"]}
        answer = self._text(ask, category, shown, {**fields, "categories": ", ".join(sorted(present))})
        return _Text(answer, answer.tally)

    def _in_two_steps(
        self, ask: _Ask, category: Category, pixels: NDArray[np.uint8], shown: NDArray[np.uint8], fields: dict[str, Any]
    ) -> _Text:
        """First what is true of the target alone, then a question that uses it."""
        same = [region for region in ask.patch["regions"] if region["category"] == category.name]
        others = [region_mask(ask.patch, region) for region in same if region["number"] != ask.region["number"]]
        mask = region_mask(ask.patch, ask.region)
        fields = {**fields, "count": len(same)}
        first = self.panel.ask(
            self.endpoint,
            prompt("cues", others=self._line.others, **fields),
            outlined(pixels, mask, others=others, line=self._line, side=self._side),
            form=FORMS["cues"],
            faults=_cue_faults,
        )
        if first.outcome != "good" or first.value is None:
            # what it wrote are cues at best, no text
            return _Text(Answer(None, first.outcome, f"cues: {first.why}"), first.tally)
        cues = tuple(sanitize_text(cue, MAX_TEXT) for cue in first.value["cues"])
        second = self._text(ask, category, shown, {**fields, "cues": "; ".join(cues)})
        return _Text(second, first.tally + second.tally, cues)

    def _text(self, ask: _Ask, category: Category, shown: NDArray[np.uint8], fields: dict[str, Any]) -> Answer:
        names = list(FORMS[ask.kind]["properties"])

        def faults(value: dict[str, Any]) -> list[str]:
            if wrong := text_faults(value, names):
                return wrong
            texts = {name: _clean(value[name]) for name in names}
            return broken_rules({"reason": "", **texts, "kind": ask.kind, "points": [], "box": []}, category)

        words = prompt(ask.kind, **fields)
        return self.panel.ask(self.endpoint, words, shown, form=FORMS[ask.kind], faults=faults)


def _clean(text: object) -> str:
    return _LABEL.sub("", sanitize_text(text, MAX_TEXT)) if isinstance(text, str) else ""


def _cue_faults(value: dict[str, Any]) -> list[str]:
    cues = value.get("cues")
    if not isinstance(cues, list) or not CUES[0] <= len(cues) <= CUES[1]:
        return [f'"cues" must be a list of {CUES[0]} or {CUES[1]} texts']
    wrong = [
        fault for number, cue in enumerate(cues, 1) for fault in text_faults({f"cue {number}": cue}, [f"cue {number}"])
    ]
    if not wrong and any(MARKING.search(cue) for cue in cues):
        wrong.append("the marking of the region is mentioned")
    return wrong
