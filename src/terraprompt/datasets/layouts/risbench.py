"""RISBench (CroBIM, arXiv 2410.08613): ``img_rgb/``, ``mask/``, ``output_phrase_<split>.txt``.

Every line of a list is ``<file> <phrase>``; image and mask are joined by stem; every mask value but 0 is the target.
"""

from __future__ import annotations

from functools import partial

from terraprompt.datasets.layouts.phrases import read_phrases
from terraprompt.datasets.layouts.reading import Layout

__all__ = ["LAYOUT"]

LAYOUT = Layout(
    name="risbench",
    title="RISBench",
    splits=("train", "val", "test"),
    tree="img_rgb/<file>, mask/<file>, output_phrase_<split>.txt",
    where="Get it from the page of CroBIM, https://github.com/HIT-SIRS/CroBIM (Baidu Netdisk).",
    read=partial(read_phrases, images="img_rgb", masks="mask", name="risbench", licence="CC-BY-4.0"),
)
