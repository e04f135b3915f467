"""Further formats of a forged set: JSON lines with COCO run lengths, and tar shards as WebDataset reads them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from terraprompt.forge.records import Row
from terraprompt.forge.stages import Parts
from terraprompt.io.atomic import atomic_path
from terraprompt.io.files import translated
from terraprompt.language.geoseg_1m import published_name

__all__ = ["output_file", "write_jsonl", "write_output", "write_regions", "write_shards"]


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """A temporary path for a file of the set, which is then whole or not there; not synced, as it can be made again.

    Raises:
        OutputError: the disk is full, or the writer fails.
    """
    with translated(path), atomic_path(path, durable=False) as temporary:
        yield temporary


def write_output(path: Path, content: str | bytes) -> None:
    """Write a small file of the set, see :func:`output_file`; text as UTF-8."""
    with output_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with output_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, pairs: Iterable[tuple[Row, Row]]) -> None:
    """One line a sample: instruction, points and box in [0, 1], mask as COCO run lengths, provenance.

    Args:
        path: of the file.
        pairs: (kept sample, exported sample).
    """
    _write_lines(path, (_line(row, files) for row, files in pairs))


def _line(row: Row, files: Row) -> Row:
    return {
        "id": row["sample"],
        "image": files["img"],
        "height": row["height"],
        "width": row["width"],
        "task": row["kind"],
        "category": row["category"],
        "geoseg_1m": published_name(row["category"]),
        "question": row["question"],
        "reason": row["reason"] or None,
        "points": row["points"],
        "box": row["box"],
        "segmentation": {"size": [row["height"], row["width"]], "counts": row["counts"]},
        "area": row["area"],
        "cut": row["cut"],
        "region": row["region"],
        "patch": row["patch"],
        "source": row["source"],
        "origin": row["image"],
        "window": [row["column"], row["row"], row["width"], row["height"]],
        "place": row["place"],
        "split": row["split"],
        "gsd_m": row["gsd_m"],
        "crs": row["crs"],
        "transform": _patch_transform(row),
        "licence": row["licence"],
        "writer": row["writer"],
        "cues": row["cues"],
        "scores": None if row["scores"] is None else json.loads(row["scores"]),
        "comments": None if row["comments"] is None else json.loads(row["comments"]),
    }


def _patch_transform(row: Row) -> list[float] | None:
    """Affine transform of the patch: that of the image, moved to the window."""
    if not row["transform"]:
        return None
    a, b, c, d, e, f = row["transform"]
    return [a, b, c + a * row["column"] + b * row["row"], d, e, f + d * row["column"] + e * row["row"]]


def write_regions(path: Path, patches: Parts, images: Mapping[str, str]) -> None:
    """One line a patch with all its regions, those too that nothing is asked about: what uniqueness is judged by.

    Args:
        path: of the file.
        patches: work files of the rule filter.
        images: patch -> image; other patches are left out.
    """
    _write_lines(path, (_regions_of(row, images[row["patch"]]) for row in patches.rows() if row["patch"] in images))


def _regions_of(patch: Row, image: str) -> Row:
    return {
        "patch": patch["patch"],
        "image": image,
        "gsd_m": patch["gsd_m"],
        "specks": {row["category"]: row["count"] for row in patch["specks"]},
        "regions": [
            {
                "region": region["number"],
                "category": region["category"],
                "segmentation": {"size": [patch["height"], patch["width"]], "counts": region["counts"]},
                "kept": region["keep"],
                "why": region["why"] or None,
            }
            for region in patch["regions"]
        ],
    }


def write_shards(folder: Path, split: str, root: Path, pairs: Iterable[tuple[Row, Row]], max_samples: int) -> int:
    """Tar files of samples: ``<key>.png``, ``<key>.mask.png`` and ``<key>.json``; returns how many.

    Args:
        folder: of the shards.
        split: in their names.
        root: of the set.
        pairs: (kept sample, exported sample).
        max_samples: of a shard.
    """
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{split}-*.tar"):
            path.unlink()
    waiting, count = iter(pairs), 0
    while shard := list(islice(waiting, max_samples)):
        _shard(folder / f"{split}-{count:06d}.tar", shard, root, count * max_samples)
        count += 1
    return count


def _shard(path: Path, pairs: Iterable[tuple[Row, Row]], root: Path, first: int) -> None:
    # USTAR without times and owners: the same samples give the same bytes
    with output_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (row, files) in enumerate(pairs, first):
            text = {
                "id": row["sample"],
                "task": row["kind"],
                "category": row["category"],
                "question": row["question"],
                "reason": row["reason"] or None,
                "points": row["points"],
                "box": row["box"],
                "source": row["source"],
                "licence": row["licence"],
            }
            for suffix, content in (
                ("png", (root / files["img"]).read_bytes()),
                ("mask.png", (root / files["mask"]).read_bytes()),
                ("json", json.dumps(text, ensure_ascii=False).encode()),
            ):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
