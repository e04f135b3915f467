"""RefSegRS (RRSIS, arXiv 2306.08625) and RISBench (CroBIM, arXiv 2410.08613): lines of ``<image> <phrase>``.

Image and mask are joined by stem; every mask value but 0 is the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from functools import partial
from pathlib import Path

from terraprompt.datasets.layouts.reading import PICTURES, AbsentSplitError, BrokenItemError, Faults, Layout, by_stem
from terraprompt.datasets.sample import MaskFile, Sample
from terraprompt.prompt import Task

__all__ = ["REFSEGRS", "RISBENCH", "read_phrases"]


def read_phrases(
    root: Path, split: str, faults: Faults, *, images: str, masks: str, name: str, licence: str | None
) -> Iterator[Sample]:
    """Samples in the order of the lines of ``output_phrase_<split>.txt``.

    A line names its image with or without extension; a name may hold blanks: the shortest beginning of the line that
    names a picture is taken. The sample's id is the image's stem, with ``#2``, ``#3`` … for its further phrases.

    Args:
        root: folder of the copy.
        split: which list.
        faults: where broken lines go.
        images: folders of the pictures, joined by stem; every mask value but 0 is the target.
        masks: as ``images``.
        name: of the data set, kept in every sample.
        licence: short name, or None.

    Raises:
        AbsentSplitError: no list of the split.
    """
    path = root / f"output_phrase_{split}.txt"
    if not path.is_file():
        raise AbsentSplitError(path, "the list of the split is missing")
    pictures, labels = by_stem(root / images, PICTURES, faults), by_stem(root / masks, PICTURES, faults)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BrokenItemError(path, f"not UTF-8 text ({error})") from None
    known = pictures.keys() | labels.keys()  # either tells which words of a line are the name
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = faults.attempt(path, partial(_parts, line, number, path, known, root / images))
        if parts is None:
            continue
        stem, phrase = parts
        folders = ((images, "image", pictures), (masks, "mask", labels))
        missing = [(folder, what) for folder, what, have in folders if stem not in have]
        for folder, what in missing:
            faults.add(root / folder / f"{stem}.*", f"the {what} is missing that line {number} of {path.name} names")
        seen[stem] += 1
        if missing:
            continue
        yield Sample(
            id=stem if seen[stem] == 1 else f"{stem}#{seen[stem]}",
            image=pictures[stem],
            task=Task.REFERRING,
            instructions=(phrase,),
            truth=MaskFile(labels[stem]),
            split=split,
            source=name,
            licence=licence,
        )


def _parts(line: str, number: int, path: Path, known: Set[str], folder: Path) -> tuple[str, str]:
    """Stem and phrase of a line."""
    words = line.split()
    for count in range(1, len(words)):
        named = " ".join(words[:count])
        stem = named if named in known else Path(named).stem
        if stem in known and (named == stem or Path(named).suffix.lower() in PICTURES):
            return stem, " ".join(words[count:])
    if len(words) == 1:
        raise BrokenItemError(path, f"line {number} has no phrase: {line!r}")
    raise BrokenItemError(folder / words[0], f"the image is missing that line {number} of {path.name} names")


REFSEGRS = Layout(
    name="refsegrs",
    title="RefSegRS",
    splits=("train", "val", "test"),
    tree="images/<id>.tif, masks/<id>.tif, output_phrase_<split>.txt",
    where="Get it with: terraprompt dataset download refsegrs DIR.",
    read=partial(read_phrases, images="images", masks="masks", name="refsegrs", licence="CC-BY-4.0"),
    hub="JessicaYuan/RefSegRS",
)
RISBENCH = Layout(
    name="risbench",
    title="RISBench",
    splits=("train", "val", "test"),
    tree="img_rgb/<file>, mask/<file>, output_phrase_<split>.txt",
    where="Get it from the page of CroBIM, https://github.com/HIT-SIRS/CroBIM (Baidu Netdisk).",
    read=partial(read_phrases, images="img_rgb", masks="mask", name="risbench", licence="CC-BY-4.0"),
)
