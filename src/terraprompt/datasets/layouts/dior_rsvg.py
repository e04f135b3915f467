"""DIOR-RSVG (arXiv 2210.12634): one box and one description an object, no masks.

``Annotations/<name>.xml`` (VOC: ``filename``, ``size``, and ``object`` with ``name``, ``bndbox``, ``description``),
``JPEGImages/``, ``<split>.txt`` with one number a line. As its author says (issue 5 of the project), a number is not an
image but an image-text pair: it counts the objects of all annotation files from 0.

Assumed: files are counted in the order of their names (the published loader takes the order of the file system), and
``xmax``, ``ymax`` are outer edges in pixels. A missing annotation file would shift every later number without a word;
numbers beyond the last object, or an unreadable annotation file, are therefore errors even where broken items are left
out. The release before April 2023 has numbers that stand in two lists: they are reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from terraprompt.datasets.layouts.reading import AbsentSplitError, BrokenItemError, Faults, Layout, by_stem
from terraprompt.datasets.sample import Sample
from terraprompt.errors import DatasetError
from terraprompt.prompt import Task

__all__ = ["LAYOUT"]

_SPLITS = ("train", "val", "test")


def read(root: Path, split: str, faults: Faults) -> Iterator[Sample]:
    """Samples in the order of their numbers.

    Raises:
        AbsentSplitError: no list of the split.
        DatasetError: an annotation file cannot be read, or some are missing: no number means anything then.
    """
    if not (root / f"{split}.txt").is_file():
        raise AbsentSplitError(root / f"{split}.txt", "the list of the split is missing")
    lists = {name: _numbers(root / f"{name}.txt") for name in _SPLITS if (root / f"{name}.txt").is_file()}
    for other in (name for name in lists if name != split):
        if twice := lists[split] & lists[other]:
            faults.add(
                root / f"{split}.txt",
                f"{len(twice)} numbers are also in {other}.txt, e.g. {min(twice)}: the release before April 2023",
            )
    count = 0
    for path in by_stem(root / "Annotations", (".xml",), faults).values():
        try:
            tree = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise DatasetError(
                f"An annotation file cannot be read ({error}), so the numbers of the split lists mean nothing.",
                received=path,
                hint="Get it again.",
            ) from None
        for element in tree.findall("object"):
            if count in lists[split]:
                sample = faults.attempt(path, partial(_sample, root, path, tree, element, count, split))
                if sample is not None:
                    yield sample
            count += 1
    if (last := max((max(numbers) for numbers in lists.values() if numbers), default=-1)) >= count:
        raise DatasetError(
            f"Annotation files are missing: the lists count to {last}, the files hold {count} objects.",
            received=root / "Annotations",
            hint="Get a whole copy: with a gap, every later number means another object.",
        )


def _numbers(path: Path) -> frozenset[int]:
    try:
        return frozenset(int(line) for line in path.read_text(encoding="utf-8-sig").split())
    except ValueError as error:
        raise BrokenItemError(path, f"not a list of numbers ({error})") from None


def _sample(
    root: Path, path: Path, tree: ElementTree.Element, element: ElementTree.Element, number: int, split: str
) -> Sample:
    def text(where: ElementTree.Element, tag: str) -> str:
        value = " ".join((where.findtext(tag) or "").split())
        if not value:
            raise BrokenItemError(path, f"object {number} has no {tag!r}")
        return value

    file = text(tree, "filename")
    if Path(file).name != file:
        raise BrokenItemError(path, f"it leaves the data set: {file!r}")
    image = root / "JPEGImages" / file
    if not image.is_file():
        raise BrokenItemError(image, "the image is missing")
    try:
        x0, y0, x1, y1 = (float(text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise BrokenItemError(path, f"object {number} has a box that is not made of numbers ({error})") from None
    if not (x0 < x1 and y0 < y1 and all(math.isfinite(v) for v in (x0, y0, x1, y1))):
        raise BrokenItemError(path, f"object {number} has an empty box ({x0:g}, {y0:g}, {x1:g}, {y1:g})")
    return Sample(
        id=str(number),
        image=image,
        task=Task.REFERRING,
        instructions=(text(element, "description"),),
        box=(x0, y0, x1, y1),
        category=text(element, "name"),
        split=split,
        source="dior-rsvg",
    )


LAYOUT = Layout(
    name="dior-rsvg",
    title="DIOR-RSVG",
    splits=_SPLITS,
    tree="Annotations/<name>.xml, JPEGImages/<name>.jpg, <split>.txt",
    where="Get it from the page of its authors, https://github.com/ZhanYang-nwpu/RSVG-pytorch (Google Drive).",
    read=read,
)
