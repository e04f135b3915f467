"""SIOR, the DIOR part of SAMRS (arXiv 2305.02034): instance masks made by SAM, prompted here with boxes and points.

``images/<stem>.*`` and ``ins/<stem>.pkl``: a pickle (read with :mod:`terraprompt.io.pickles`) with a list of
``{"mask": {"size", "counts"}, "bbox": array of x0, y0, x1, y1, "category", "size", "label"}``.

Assumed: the folder of the images is called ``images``, and both folders hold the same stems. The paper of UniGeoSeg
asks 2,000 boxes and 2,000 points but does not publish which: here that many instances are drawn with a seed, so a
number from this reader is comparable, not equal, to a published one. A box is the tight box of the mask; a point is the
centre of the pixel farthest from its outline. The two prompts are drawn from the same instances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from terraprompt.datasets.layouts.reading import PICTURES, BrokenItemError, Faults, Layout, by_stem, unpickled
from terraprompt.datasets.questions import middle
from terraprompt.datasets.sample import Sample
from terraprompt.datasets.sampling import tight_box
from terraprompt.errors import DatasetError
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Task

__all__ = ["LAYOUT"]


def read(root: Path, split: str, faults: Faults, *, prompts: int | None = 2000, seed: int = 0) -> Iterator[Sample]:
    """A box and a point sample for each drawn instance, in the order of the files.

    Args:
        root: folder of the copy.
        split: "test".
        faults: where broken instances go.
        prompts: how many instances; None takes every one.
        seed: of the draw.
    """
    images = by_stem(root / "images", PICTURES, faults)
    files = by_stem(root / "ins", (".pkl",), faults)
    found: list[tuple[Path, int]] = []
    for stem, path in files.items():
        listed = faults.attempt(path, partial(_instances, path))
        if listed and stem not in images:
            faults.add(root / "images" / f"{stem}.jpg", "the image is missing")
        elif listed:
            found += [(path, k) for k in range(len(listed))]
    if prompts is not None and len(found) > prompts:
        picks = np.random.default_rng(seed).choice(len(found), prompts, replace=False)
        found = [found[i] for i in sorted(picks.tolist())]
    opened: tuple[Path, list[Any]] | None = None
    for path, k in found:
        if opened is None or opened[0] != path:
            opened = path, _instances(path)
        yield from faults.attempt(path, partial(_samples, path, images[path.stem], opened[1][k], k, split)) or ()


def _instances(path: Path) -> list[Any]:
    listed = unpickled(path)
    if not isinstance(listed, list):
        raise BrokenItemError(path, "it does not hold a list of instances")
    return listed


def _samples(path: Path, image: Path, raw: Any, k: int, split: str) -> list[Sample]:
    try:
        category, mask = str(raw["category"]), raw["mask"]
    except (KeyError, TypeError) as error:
        raise BrokenItemError(path, f"instance {k} lacks a field ({error!r})") from None
    try:
        truth = RunLengths.of(mask, name=f"instance {k}")
    except DatasetError as error:
        raise BrokenItemError.of(path, error) from None
    pixels = truth.load()
    if not pixels.any():
        raise BrokenItemError(path, f"instance {k} has an empty mask, so there is nothing to point at")
    box = Sample(
        id=f"{path.stem}/{k}/box",
        image=image,
        task=Task.INTERACTIVE,
        truth=truth,
        boxes=(tight_box(pixels),),
        category=category,
        level="box",
        split=split,
        source="sior",
    )
    point = replace(box, id=f"{path.stem}/{k}/point", boxes=(), points=(middle(pixels),), labels=(1,), level="point")
    return [box, point]


LAYOUT = Layout(
    name="sior",
    title="SIOR (SAMRS)",
    splits=("test",),
    tree="images/<stem>.jpg, ins/<stem>.pkl",
    where="Get it from the page of SAMRS, https://github.com/ViTAE-Transformer/SAMRS (OneDrive).",
    read=read,
)
