"""From a language model's answer to one mask: the pure steps of GeoSeg (arXiv 2603.03983), without any network.

``answer`` reads targets out of text, ``boxes`` corrects and crops, ``points`` turns a similarity map into clicks,
``fusion`` joins the two routes, ``bias`` fits the correction. Where the public release and good sense differ, a step
has a ``mode``: ``official`` repeats the release to the integer, ``calibrated`` is ours and the default.
"""

from __future__ import annotations

from terraprompt.vlm.grounding.answer import Answer, Target, official_target, parse_answer
from terraprompt.vlm.grounding.bias import BiasFit, compare_conventions, fit_bias
from terraprompt.vlm.grounding.boxes import FIXED_ALPHA, FIXED_BETA, Box, Mode, Refined, refine
from terraprompt.vlm.grounding.fusion import Fusion, fuse, union
from terraprompt.vlm.grounding.points import Clicks, clicks

__all__ = [
    "FIXED_ALPHA",
    "FIXED_BETA",
    "Answer",
    "BiasFit",
    "Box",
    "Clicks",
    "Fusion",
    "Mode",
    "Refined",
    "Target",
    "clicks",
    "compare_conventions",
    "fit_bias",
    "fuse",
    "official_target",
    "parse_answer",
    "refine",
    "union",
]
