"""Rendered overhead scenes: seeded, plausible, with exact vector truth.

``render(seed)`` lays out a world in metres, paints it, lights it and takes the picture. The layout depends on the
seed, the style and the extent in metres alone, so that one world can be seen at several pixel sizes.
"""

from terraprompt_synthetic.render import dataset, demo_scene, render
from terraprompt_synthetic.truth import CATEGORIES, STYLES, Example, RenderedObject, RenderedScene

__all__ = [
    "CATEGORIES",
    "STYLES",
    "Example",
    "RenderedObject",
    "RenderedScene",
    "dataset",
    "demo_scene",
    "render",
]
