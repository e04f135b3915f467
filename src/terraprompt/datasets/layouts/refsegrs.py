"""RefSegRS (RRSIS, arXiv 2306.08625): ``images/<id>.tif``, ``masks/<id>.tif``, ``output_phrase_<split>.txt``.

Every line of a list is ``<id> <phrase>``; every mask value but 0 is the target.
"""

from __future__ import annotations

from functools import partial

from terraprompt.datasets.layouts.phrases import read_phrases
from terraprompt.datasets.layouts.reading import Layout

__all__ = ["LAYOUT"]

LAYOUT = Layout(
    name="refsegrs",
    title="RefSegRS",
    splits=("train", "val", "test"),
    tree="images/<id>.tif, masks/<id>.tif, output_phrase_<split>.txt",
    where="Get it with: terraprompt dataset download refsegrs DIR.",
    read=partial(read_phrases, images="images", masks="masks", name="refsegrs", licence="CC-BY-4.0"),
    hub="JessicaYuan/RefSegRS",
)
