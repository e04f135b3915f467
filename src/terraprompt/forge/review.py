"""People look at a forged set: a static sheet that works offline, and their verdicts read back."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray
from PIL import Image as Picture
from rasterio.features import shapes

from terraprompt.errors import DatasetError, OutputError
from terraprompt.forge.agreement import cohens_kappa
from terraprompt.forge.export import link_files
from terraprompt.forge.formats import write_output
from terraprompt.forge.records import chance
from terraprompt.io.files import translated
from terraprompt.io.rle import RunLengths
from terraprompt.raster.pictures import read_rgb

__all__ = ["VERDICTS", "Agreement", "export_sheet", "import_verdicts"]

#: What a reviewer can say of a sample.
VERDICTS = ("keep", "drop", "unsure")
_SPLITS = ("train", "val", "test")


def export_sheet(root: Path, out: Path, *, split: str = "test", max_samples: int | None = None, seed: int = 0) -> int:
    """Write the sheet: ``index.html`` with pictures beside it; verdicts are saved by the page as JSON.

    Args:
        root: folder of a forged set with JSON lines.
        out: new or empty folder.
        split: which part.
        max_samples: so many, drawn with the seed; None = all.
        seed: of the drawing.

    Returns:
        How many samples the sheet holds.

    Raises:
        DatasetError: no such set or split, or a sample without a target.
        OutputError: the folder is not empty, or cannot be comments_of.
    """
    rows = list(_lines(root, split))
    if max_samples is not None and max_samples < len(rows):
        chosen = {row["id"] for row in sorted(rows, key=lambda row: chance(seed, "review", row["id"]))[:max_samples]}
        rows = [row for row in rows if row["id"] in chosen]
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise OutputError("The folder of the sheet is not empty.", received=out, hint="Choose another one.")
    entries = []
    with translated(out):
        (out / "pictures").mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(rows):
            name = f"pictures/{number:06d}"
            pixels = read_rgb(root / row["image"])[0]
            Picture.fromarray(pixels).save(out / f"{name}.jpg", quality=90)
            mask = RunLengths.of(row["segmentation"], name=row["id"]).load()
            if not mask.any():
                raise DatasetError("A sample has an empty mask.", received=row["id"])
            (out / f"{name}.svg").write_text(_outline(mask, row["points"]), encoding="utf-8")
            height, width = mask.shape
            (y0, x0), (y1, x1) = (edge(np.nonzero(mask), axis=1).tolist() for edge in (np.min, np.max))
            entries.append(
                {
                    "id": row["id"],
                    "task": row["task"],
                    "category": row["category"],
                    "question": row["question"],
                    "reason": row["reason"] or "",
                    "picture": f"{name}.jpg",
                    "outline": f"{name}.svg",
                    "width": width,
                    "height": height,
                    "box": [x0, y0, x1 + 1, y1 + 1],
                }
            )
        facts = {"set": Path(root).resolve().parent.name, "split": split, "samples": entries}
        # the browser keeps verdicts by this name: another sheet, or the same questions on other data, is another one
        facts["sheet"] = hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]
        page = Environment(autoescape=True, loader=PackageLoader("terraprompt.forge", "pages"))
        text = page.get_template("review.html").render(title=f"Review of {split}", facts=facts)
        (out / "index.html").write_text(text, encoding="utf-8")
    return len(entries)


def _outline(mask: NDArray[np.uint8], points: Sequence[tuple[float, float]]) -> str:
    """SVG as large as the mask: its edge along the sides of pixels, and the points of the prompt.

    Lines keep their width however far one zooms, so that they do not hide a small target.
    """
    height, width = mask.shape
    rings = [
        ring
        for shape, _ in shapes((mask > 0).astype(np.uint8), mask=mask > 0, connectivity=8)
        for ring in shape["coordinates"]
    ]
    edge = "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in ring[:-1]) + "Z" for ring in rings)
    dots = "".join(f"M{x * width:.2f} {y * height:.2f}h0" for x, y in points)
    drawn = "".join(
        f'<path d="{path}" stroke="{colour}" stroke-width="{wide}"/>'
        for path, colour, wide in ((edge, "#000", 4), (edge, "#ff2828", 2), (dots, "#000", 13), (dots, "#ff0", 9))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" preserveAspectRatio="none">'
        "<style>path{fill:none;stroke-linecap:round;stroke-linejoin:round;vector-effect:non-scaling-stroke}</style>"
        f"{drawn}</svg>"
    )


def _lines(root: Path, split: str) -> Iterator[dict[str, Any]]:
    path = Path(root) / f"{split}.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except FileNotFoundError:
        there = [name for name in _SPLITS if (Path(root) / f"{name}.jsonl").is_file()]
        raise DatasetError(
            "There are no JSON lines of this split.",
            received=path,
            hint=f"Splits here: {', '.join(there) or 'none'}; a review needs a set forged with `formats: [jsonl]`.",
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"JSON lines are damaged: {error}.", received=path) from None


@dataclass(frozen=True, slots=True)
class Agreement:
    """What reviewers verdicts_of.

    Attributes:
        reviewers: names, in order of the files.
        counts: reviewer -> verdict -> samples.
        pairs: of reviewers, each with samples in common, share of equal verdicts, and Cohen's kappa (None where it is
            not defined: both always say the same one thing).
        kept: ids that every reviewer keeps.
        disputed: ids with different verdicts.
        comments: id -> reviewer -> what was comments_of.
    """

    reviewers: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    pairs: tuple[tuple[str, str, int, float, float | None], ...]
    kept: tuple[str, ...]
    disputed: tuple[str, ...]
    comments: dict[str, dict[str, str]]

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        keys = ("one", "other", "samples", "agreement", "kappa")
        return {
            "reviewers": list(self.reviewers),
            "counts": self.counts,
            "pairs": [dict(zip(keys, pair, strict=True)) for pair in self.pairs],
            "kept": list(self.kept),
            "disputed": list(self.disputed),
            "comments": self.comments,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        for reviewer in self.reviewers:
            yield f"{reviewer}: " + ", ".join(f"{verdict} {self.counts[reviewer][verdict]}" for verdict in VERDICTS)
        for one, other, samples, share, kappa in self.pairs:
            shown = "not defined" if kappa is None else f"{kappa:.3f}"
            yield f"{one} and {other}: {samples} samples, {100 * share:.1f} % agree, Cohen's kappa {shown}"
        yield f"{len(self.kept)} kept by all, {len(self.disputed)} disputed"
        for sample, remarks in self.comments.items():
            yield f"{sample}: " + "; ".join(f"{reviewer}: {text}" for reviewer, text in remarks.items())


def import_verdicts(root: Path, files: Sequence[Path], *, out: Path | None = None) -> Agreement:
    """Read verdicts, one file a reviewer, and write what all of them keep.

    Args:
        root: folder of the forged set.
        files: as the sheet saved them.
        out: new or empty folder: a set in the layout of GeoSeg-Bench with the samples that every reviewer keeps.

    Raises:
        DatasetError: a broken file, an unknown sample or verdict, one reviewer twice, or another split.
        OutputError: ``out`` is not empty, or cannot be comments_of.
    """
    verdicts_of: dict[str, dict[str, str]] = {}
    comments_of: dict[str, dict[str, str]] = {}
    splits = set()
    for path in files:
        reviewer, split, verdicts, comments = _verdicts(path)
        if reviewer in verdicts_of:
            raise DatasetError("Two files are by one reviewer.", received=f"{reviewer}: {path}")
        verdicts_of[reviewer], comments_of[reviewer] = verdicts, comments
        splits.add(split)
    if len(splits) != 1:
        raise DatasetError("The verdicts are about different splits.", received=sorted(splits))
    split = splits.pop()
    rows = {row["id"]: row for row in _lines(root, split)}
    for reviewer, verdicts in verdicts_of.items():
        if unknown := sorted({*verdicts, *comments_of[reviewer]} - set(rows)):
            raise DatasetError(f"{reviewer} judged a sample that this set does not have.", received=unknown[0])
    judged = [name for name in rows if all(name in verdicts for verdicts in verdicts_of.values())]
    kept = tuple(name for name in judged if all(verdicts[name] == "keep" for verdicts in verdicts_of.values()))
    disputed = tuple(name for name in judged if len({verdicts[name] for verdicts in verdicts_of.values()}) > 1)
    pairs = []
    for one, other in combinations(verdicts_of, 2):
        common = [name for name in rows if name in verdicts_of[one] and name in verdicts_of[other]]
        first, second = [verdicts_of[one][name] for name in common], [verdicts_of[other][name] for name in common]
        share = sum(a == b for a, b in zip(first, second, strict=True)) / len(common) if common else 0.0
        pairs.append((one, other, len(common), share, cohens_kappa(first, second)))
    counts = {name: {v: Counter(verdicts.values())[v] for v in VERDICTS} for name, verdicts in verdicts_of.items()}
    remarks = {
        name: {who: comments[name] for who, comments in comments_of.items() if name in comments}
        for name in rows
        if any(name in comments for comments in comments_of.values())
    }
    found = Agreement(tuple(verdicts_of), counts, tuple(pairs), kept, disputed, remarks)
    if out is not None:
        _write_kept(Path(root), Path(out), split, [rows[name] for name in kept], found)
    return found


def _verdicts(path: Path) -> tuple[str, str, dict[str, str], dict[str, str]]:
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        reviewer, split = str(raw["reviewer"]).strip(), str(raw["split"])
        verdicts = {str(name): str(verdict) for name, verdict in dict(raw["verdicts"]).items()}
        comments = {str(name): " ".join(str(text).split()) for name, text in dict(raw.get("comments", {})).items()}
    except FileNotFoundError:
        raise DatasetError("A file of verdicts is missing.", received=path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"A file of verdicts is broken ({error!r}).", received=path) from None
    if not reviewer:
        raise DatasetError("A file of verdicts does not say who judged.", received=path)
    if odd := sorted(set(verdicts.values()) - set(VERDICTS)):
        raise DatasetError(
            f"A file of verdicts holds an unknown one ({odd[0]!r}).",
            received=path,
            hint=f"Known: {', '.join(VERDICTS)}.",
        )
    return reviewer, split, verdicts, comments


def _write_kept(root: Path, out: Path, split: str, rows: list[dict[str, Any]], found: Agreement) -> None:
    if out.exists() and any(out.iterdir()):
        raise OutputError("The folder is not empty.", received=out, hint="Choose another one.")
    entries = json.loads((root / f"{split}.json").read_text(encoding="utf-8"))
    samples = list(_lines(root, split))
    if len(entries) != len(samples):
        raise DatasetError("The manifest and the JSON lines of a set differ.", received=root / f"{split}.json")
    wanted = {row["id"] for row in rows}
    chosen = [entry for entry, row in zip(entries, samples, strict=True) if row["id"] in wanted]
    link_files(root, out, chosen)
    write_output(out / f"{split}.json", json.dumps(chosen, indent=1, ensure_ascii=False))
    write_output(out / "review.json", json.dumps(found.facts(), indent=1))
