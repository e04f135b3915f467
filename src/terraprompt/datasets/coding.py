"""Samples as plain values and back, so that an index can hold them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from terraprompt.datasets.sample import MaskFile, NoTarget, Polygons, Sample, Truth, UnionMask
from terraprompt.errors import DatasetError
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Task

__all__ = ["UncodableError", "decode_sample", "encode_sample"]

_PLAIN = ("category", "level", "split", "source", "licence", "gsd_m")
_TUPLES = ("instructions", "answer", "labels")


class UncodableError(DatasetError):
    """A truth of a kind that no index can hold: one of a layout from elsewhere."""


def encode_sample(sample: Sample, root: Path) -> dict[str, Any]:
    """A sample as JSON values, with paths relative to ``root`` and empty fields left out.

    Raises:
        UncodableError: a truth of an unknown coding.
    """
    out: dict[str, Any] = {"id": sample.id, "image": _relative(sample.image, root), "task": sample.task.value}
    for field in (*_PLAIN, *_TUPLES, "points", "boxes", "box"):
        value = getattr(sample, field)
        if value is not None and value != () and value != "":
            out[field] = value
    if sample.truth is not None:
        out["truth"] = _encode_truth(sample.truth, root)
    return out


def decode_sample(raw: dict[str, Any], root: Path) -> Sample:
    """The sample that :func:`encode_sample` wrote.

    Raises:
        DatasetError: it was written by something else.
    """
    try:
        sample = Sample(
            id=raw["id"],
            image=root / raw["image"],
            task=Task(raw["task"]),
            truth=_decode_truth(raw["truth"], root) if "truth" in raw else None,
            box=tuple(raw["box"]) if "box" in raw else None,
            points=tuple(tuple(point) for point in raw.get("points", ())),
            boxes=tuple(tuple(box) for box in raw.get("boxes", ())),
        )
        rest: dict[str, Any] = {field: tuple(raw[field]) for field in _TUPLES if field in raw}
        return replace(sample, **rest, **{field: raw[field] for field in _PLAIN if field in raw})
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"A record of an index is not a sample ({error!r}).", received=str(raw)[:80], hint="Write the index again."
        ) from None


def _relative(path: Path, root: Path) -> str:
    text, base = path.as_posix(), root.as_posix().rstrip("/") + "/"  # Path.relative_to takes ten times as long
    if text.startswith(base) and "/../" not in text:
        return text.removeprefix(base)
    return Path(os.path.relpath(path, root)).as_posix()


def _encode_truth(truth: Truth, root: Path) -> dict[str, Any]:
    match truth:
        case MaskFile(path=path, values=values):
            return {"kind": "file", "path": _relative(path, root), "values": values}
        case RunLengths(height=height, width=width, counts=counts, name=name):
            return {"kind": "runs", "size": (height, width), "counts": counts, "name": name}
        case Polygons(height=height, width=width, rings=rings, name=name):
            return {"kind": "polygons", "size": (height, width), "rings": rings, "name": name}
        case NoTarget(image=image, mask=mask):
            label = None if mask is None else _relative(mask, root)
            return {"kind": "none", "image": _relative(image, root), "mask": label}
        case UnionMask(parts=parts):
            return {"kind": "together", "parts": [_encode_truth(part, root) for part in parts]}
    raise UncodableError("This kind of mask cannot be put into an index.", received=type(truth).__name__)


def _decode_truth(raw: dict[str, Any], root: Path) -> Truth:
    match raw["kind"]:
        case "file":
            return MaskFile(root / raw["path"], tuple(raw["values"]))
        case "runs":
            height, width = raw["size"]
            return RunLengths(height, width, raw["counts"], raw["name"])
        case "polygons":
            height, width = raw["size"]
            return Polygons(height, width, tuple(tuple(ring) for ring in raw["rings"]), raw["name"])
        case "none":
            return NoTarget(root / raw["image"], None if raw["mask"] is None else root / raw["mask"])
        case "together":
            return UnionMask(tuple(_decode_truth(part, root) for part in raw["parts"]))
    raise ValueError(f"kind of mask {raw['kind']!r}")
