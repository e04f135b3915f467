"""A scene as notebooks show it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from terraprompt.io.notebook import PICTURE_SIDE, html_card

if TYPE_CHECKING:
    from terraprompt.raster.scene import Scene

__all__ = ["scene_html"]

#: A larger scene without overviews takes too long to read for a look.
_MOST_PIXELS = 50_000_000


def scene_html(scene: Scene) -> str:
    """Picture and facts of a scene as HTML; no picture of a large scene without overviews, or a closed one."""
    quick = scene.is_open and (scene.has_overviews or scene.width * scene.height <= _MOST_PIXELS)
    facts = {
        "size": f"{scene.width:,} x {scene.height:,} pixels",
        "bands": f"{', '.join(map(str, scene.bands))} ({scene.dtype})",
        "CRS": None if scene.crs is None else scene.crs.to_string(),
        "ground resolution": None if scene.gsd_m is None else f"{scene.gsd_m:.3g} m a pixel",
        "nodata": scene.nodata,
        "remarks": " ".join(scene.remarks),
        "no picture": None if quick else "closed" if not scene.is_open else "large, and without overviews",
    }
    return html_card(scene.source, facts, draw=(lambda: _png(scene)) if quick else None)


def _png(scene: Scene) -> bytes:
    from terraprompt.raster.preview import ScenePreview
    from terraprompt.raster.stretch import estimate_stretch

    scale = min(1.0, PICTURE_SIDE / max(scene.width, scene.height))
    size = max(1, round(scene.height * scale)), max(1, round(scene.width * scale))
    out = io.BytesIO()
    Image.fromarray(ScenePreview(scene, estimate_stretch(scene, "auto"))(*size)).save(out, "PNG")
    return out.getvalue()
