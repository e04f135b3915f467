"""Stage 6: files. Images, masks and questions in the layout of GeoSeg-Bench, part by part; then the lists of them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from terraprompt.datasets.index import write_index
from terraprompt.datasets.sample import MaskFile, Sample
from terraprompt.forge.agreement import agreement
from terraprompt.forge.constraints import word_count
from terraprompt.forge.datasheet import datasheet
from terraprompt.forge.formats import output_file, write_jsonl, write_output, write_regions, write_shards
from terraprompt.forge.items import sources_of
from terraprompt.forge.pixels import read_window
from terraprompt.forge.plots import distribution_svg
from terraprompt.forge.recipe import KINDS, Recipe, Subset
from terraprompt.forge.records import Row, chance
from terraprompt.forge.stages import REGIONS, SAMPLES, Job, Parts, last_of
from terraprompt.forge.statistics import Statistics
from terraprompt.io.atomic import remove_temporaries
from terraprompt.io.files import translated
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Task

__all__ = ["DATASET", "SUBSETS", "assemble", "export_part", "files_of", "link_files"]

#: Folders of the set and of its subsets below the folder of a run.
DATASET = "dataset"
SUBSETS = "subsets"
_SPLITS = ("train", "val", "test")
_FILES = ("img", "mask", "json")
_FOLDERS = {
    "point": "interactive",
    "box": "interactive",
    "referring": "referring",
    "attribute": "reasoning/attribute",
    "contextual": "reasoning/contextual",
}
_TASKS = {"point": Task.INTERACTIVE, "box": Task.INTERACTIVE, "referring": Task.REFERRING}


def export_part(rows: Iterator[Row], job: Job) -> Iterator[Row]:
    """Write the files of the samples of a part."""
    roots = {source.number: source.root for source in sources_of(job.recipe)}
    root = job.out / DATASET
    patch = region = None
    for row in rows:
        files = files_of(row)
        if row["patch"] != patch:
            box = (row["column"], row["row"], row["width"], row["height"])
            pixels = read_window(roots[row["number"]] / row["image"], box, bands=row["bands"], stretch=row["stretch"])
            write_output(root / files["img"], _png(pixels))
            patch, region = row["patch"], None
        if row["region"] != region:
            mask = RunLengths(row["height"], row["width"], row["counts"], row["sample"]).load()
            write_output(root / files["mask"], _png(mask * np.uint8(255)))
            region = row["region"]
        text = {"question": [row["question"]], "reason": [row["reason"]] if row["reason"] else []}
        write_output(root / files["json"], json.dumps(text, ensure_ascii=False))
        yield {
            **{name: row[name] for name in ("sample", "patch", "source", "category", "kind", "split", "area", "cut")},
            "licence": row["licence"],
            "share": row["area"] / (row["width"] * row["height"]),
            "words": word_count(row["question"]),
            "characters": len(row["question"]),
            **files,
        }


def files_of(row: Row) -> dict[str, str]:
    """Paths of a sample's files below the root of the set."""
    patch = _portable(row["patch"])
    return {
        "img": f"images/{patch}.png",
        "mask": f"masks/{patch}_{row['region']}.png",
        "json": f"{_FOLDERS[row['kind']]}/{patch}_{row['region']}_{row['kind']}.json",
    }


def _portable(name: str) -> str:
    """A path without characters that file systems or tar readers trip over."""
    plain = re.sub(r"[^A-Za-z0-9_/-]", lambda found: f"~{ord(found[0]):x}~" if found[0] != "@" else "_at_", name)
    return plain.replace("//", "/~/")


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def assemble(recipe: Recipe, out: Path, before: dict[str, Parts], notes: dict[str, int]) -> None:
    """Write what lists the files: manifests, index, statistics, datasheet, further formats and subsets.

    Everything is made from the work files, so that doing it again gives the same.
    """
    root = out / DATASET
    with translated(root):
        remove_temporaries(root)
    exported, kept = before["export"], before["select"]
    statistics = Statistics()
    for row in exported.rows():
        statistics.add(row)
    splits = [split for split in _SPLITS if statistics.splits[split]]
    for split in splits:
        entries = (row for row in exported.rows(["img", "mask", "json", "split"]) if row["split"] == split)
        _manifest(root / f"{split}.json", entries)
        with output_file(root / f"{split}.parquet") as temporary:
            samples = (_sample(row, root) for row in kept.rows() if row["split"] == split)
            write_index(temporary, samples, root, name="geoseg-bench-1m", split=split)
    write_output(root / "statistics.json", json.dumps(statistics.facts(), indent=1, sort_keys=True))
    write_output(root / "statistics.md", statistics.table())
    write_output(root / "distribution.svg", distribution_svg(statistics.distributions()))
    judged = agreement(last_of(before, SAMPLES), recipe.models) if recipe.models.judges else None
    if judged is not None:
        write_output(root / "judges.json", json.dumps(judged, indent=1))
    write_output(root / "datasheet.md", datasheet(recipe, sources_of(recipe), statistics, notes, judged))
    write_output(root / "recipe.json", recipe.text())
    if "jsonl" in recipe.formats:
        for split in splits:
            write_jsonl(root / f"{split}.jsonl", _pairs(kept, exported, split))
        write_regions(
            root / "regions.jsonl",
            last_of(before, REGIONS),
            {row["patch"]: row["img"] for row in exported.rows(["patch", "img"])},
        )
    if "webdataset" in recipe.formats:
        for split in splits:
            write_shards(root / "shards", split, root, _pairs(kept, exported, split), recipe.shard)
    for subset in recipe.subsets:
        _subset(recipe, subset, out, exported)


def _pairs(kept: Parts, exported: Parts, split: str) -> Iterator[tuple[Row, Row]]:
    for row, files in zip(kept.rows(), exported.rows(), strict=True):
        if row["split"] == split:
            yield row, files


def _manifest(path: Path, rows: Iterable[Row]) -> None:
    with output_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            entry = {key: row[key] for key in _FILES}
            file.write(f"{',' if number else ''}\n{json.dumps(entry, ensure_ascii=False)}")
        file.write("\n]\n")


def _sample(row: Row, root: Path) -> Sample:
    files = files_of(row)
    width, height = row["width"], row["height"]
    box = row["box"]
    return Sample(
        id=files["json"].removesuffix(".json"),
        image=root / files["img"],
        task=_TASKS.get(row["kind"], Task.REASONING),
        instructions=(row["question"],),
        truth=MaskFile(root / files["mask"], (255,)),
        answer=(row["reason"],) if row["reason"] else (),
        points=tuple((x * width, y * height) for x, y in row["points"]),
        labels=(1,) * len(row["points"]),
        boxes=((box[0] * width, box[1] * height, box[2] * width, box[3] * height),) if box else (),
        category=row["category"],
        level=None if row["kind"] == "referring" else row["kind"],
        split=row["split"],
        source=row["source"],
        licence=row["licence"],
        gsd_m=row["gsd_m"],
    )


def _subset(recipe: Recipe, subset: Subset, out: Path, exported: Parts) -> None:
    """A folder of its own that any reader of the layout opens; its files are links where the disk knows them."""
    root, target = out / DATASET, out / SUBSETS / subset.name
    rows = [
        row
        for row in exported.rows(["sample", "source", "kind", "split", "img", "mask", "json"])
        if row["source"] not in subset.without
    ]
    if subset.per_kind:
        drawn = sorted(rows, key=lambda row: chance(recipe.seed, "subset", subset.name, row["sample"]))
        taken: set[str] = set()
        count: Counter[str] = Counter()
        for row in drawn:
            if count[row["kind"]] < subset.per_kind.get(row["kind"], 0):
                count[row["kind"]] += 1
                taken.add(row["sample"])
        rows = [row for row in rows if row["sample"] in taken]
    for split in _SPLITS:
        part = [row for row in rows if row["split"] == split]
        if not part:
            continue
        link_files(root, target, part)
        _manifest(target / f"{split}.json", part)
    rule = {
        "of": recipe.name,
        "rule": subset.model_dump(mode="json"),
        "seed": recipe.seed,
        "samples": {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS},
    }
    write_output(target / "subset.json", json.dumps(rule, indent=1, sort_keys=True))


def link_files(root: Path, target: Path, rows: Iterable[Row]) -> None:
    """Put the files of samples below another folder: as hard links, or as copies where the disk knows none."""
    for path in (row[key] for row in rows for key in _FILES):
        with translated(target / path):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            if not (target / path).exists():
                try:
                    os.link(root / path, target / path)
                except OSError:
                    shutil.copyfile(root / path, target / path)
