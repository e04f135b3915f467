"""Sentences around a noun phrase, for pictures taken from above.

A text-image model saw captions, not bare nouns; the mean over many captions is steadier than any one of them. The
sentences are ours: what aerial and satellite pictures are called, how sharp they are, and how things lie in them.
"""

from __future__ import annotations

__all__ = ["OVERHEAD_TEMPLATES"]

#: Each holds ``{}`` once, for the phrase; no article fits all phrases, so there are some of each kind.
OVERHEAD_TEMPLATES: tuple[str, ...] = (
    "{}.",
    "a photo of {}.",
    "an aerial photograph of {}.",
    "an aerial photograph of a {}.",
    "an aerial photograph of the {}.",
    "a satellite image of {}.",
    "a satellite image of a {}.",
    "a satellite image of the {}.",
    "a drone photo of {}.",
    "a drone photo of a {}.",
    "an orthophoto of {}.",
    "an orthophoto showing the {}.",
    "a top-down view of {}.",
    "a top-down view of a {}.",
    "a bird's-eye view of {}.",
    "{} seen from above.",
    "a {} seen from an aircraft.",
    "the {} seen from space.",
    "a remote sensing image of {}.",
    "a remote sensing image with a {} in it.",
    "an overhead picture of one {}.",
    "an overhead picture of many {}.",
    "a sharp aerial photograph of {}.",
    "a blurry satellite image of {}.",
    "a low resolution satellite image of a {}.",
    "a high resolution aerial image of the {}.",
    "a close-up aerial view of a {}.",
    "a small {} in an aerial photograph.",
    "a large {} in an aerial photograph.",
    "a cropped satellite image of the {}.",
    "part of a map made of photographs, showing {}.",
    "an aerial survey picture of a {} and its shadow.",
)
