"""Numbers of a forged set, in the form of the paper's Table 10: samples, categories, text length and mask size."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from terraprompt.forge.recipe import KINDS
from terraprompt.forge.records import Row
from terraprompt.language.geoseg_1m import published_name

__all__ = ["Statistics"]

_TASKS = {
    "interactive": ("point", "box"),
    "referring": ("referring",),
    "reasoning": ("attribute", "contextual"),
}


@dataclass
class Statistics:
    """Counts that grow row by row.

    Attributes:
        samples, words, characters, share, area: sums by kind.
        categories: kind -> category -> samples.
        splits, sources, licences: samples of each.
        cut: by kind, samples whose target the edge of its patch cuts.
        patches: images of the set.
    """

    samples: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    share: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    area: Counter[str] = field(default_factory=Counter)
    categories: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    splits: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    patches: int = 0
    _patch: str = ""

    def add(self, row: Row) -> None:
        """Count an exported sample; samples of a patch follow one another."""
        kind = row["kind"]
        self.samples[kind] += 1
        self.words[kind] += row["words"]
        self.characters[kind] += row["characters"]
        self.share[kind] += row["share"]
        self.area[kind] += row["area"]
        self.categories[kind][row["category"]] += 1
        self.cut[kind] += row["cut"]
        self.splits[row["split"]] += 1
        self.sources[row["source"]] += 1
        self.licences[row["licence"] or "not stated"] += 1
        if row["patch"] != self._patch:
            self._patch = row["patch"]
            self.patches += 1

    def row(self, kinds: tuple[str, ...]) -> dict[str, Any]:
        """Samples, categories, mean words and characters of a question, mean mask in % of the image and in pixels."""
        samples = sum(self.samples[kind] for kind in kinds)
        many = max(samples, 1)
        return {
            "samples": samples,
            "categories": len(set().union(*(self.categories[kind] for kind in kinds))),
            "words": round(sum(self.words[kind] for kind in kinds) / many, 2),
            "characters": round(sum(self.characters[kind] for kind in kinds) / many, 2),
            "mask_percent": round(100 * sum(self.share[kind] for kind in kinds) / many, 3),
            "cut_by_the_edge": sum(self.cut[kind] for kind in kinds),
            "mask_pixels": round(sum(self.area[kind] for kind in kinds) / many, 1),
        }

    def histogram(self, kinds: tuple[str, ...] = KINDS) -> dict[str, int]:
        """Samples of each category in instructions of these kinds, the most frequent first."""
        total: Counter[str] = Counter()
        for kind in kinds:
            total += self.categories[kind]
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    def distributions(self) -> dict[str, dict[str, int]]:
        """Samples of each category: overall, and for each task (UniGeoSeg, Figure 12)."""
        return {"overall": self.histogram(), **{task: self.histogram(kinds) for task, kinds in _TASKS.items()}}

    def facts(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "tasks": {task: self.row(kinds) for task, kinds in _TASKS.items()},
            "kinds": {kind: self.row((kind,)) for kind in KINDS},
            "total": self.row(KINDS),
            "images": self.patches,
            "splits": dict(self.splits),
            "sources": dict(self.sources),
            "licences": dict(self.licences),
            "histogram": self.histogram(),
            "distributions": self.distributions(),
            "geoseg_1m": {name: published_name(name) for name in self.histogram()},
        }

    def table(self) -> str:
        """Markdown: the table, then the histogram of categories."""
        lines = [
            "| task | samples | categories | words a question | mask, % of the image | mask, px |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        rows = list(_TASKS.items())
        for name, kinds in [*rows, ("all", KINDS)]:
            lines.append(self._line(f"**{name}**", kinds))
            if len(kinds) == 2:
                lines += [self._line(f"- {kind}", (kind,)) for kind in kinds]
        tasks = [self.histogram(kinds) for kinds in _TASKS.values()]
        lines += ["", f"| category | in GeoSeg-1M | samples | {' | '.join(_TASKS)} |", "|---|---|---:|---:|---:|---:|"]
        for name, count in self.histogram().items():
            each = " | ".join(str(found.get(name, 0)) for found in tasks)
            lines.append(f"| {name} | {published_name(name) or '-'} | {count} | {each} |")
        if cut := sum(self.cut.values()):
            lines += ["", f"The edge of its patch cuts the target of {cut} samples; they are marked."]
        return "\n".join(lines) + "\n"

    def _line(self, name: str, kinds: tuple[str, ...]) -> str:
        row = self.row(kinds)
        return (
            f"| {name} | {row['samples']} | {row['categories']} | {row['words']:.1f} | {row['mask_percent']:.2f} | "
            f"{row['mask_pixels']:.0f} |"
        )
