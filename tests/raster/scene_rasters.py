"""Where the test rasters lie."""

from __future__ import annotations

import math

from rasterio.transform import Affine, from_origin

UTM = "EPSG:32633"
NORTH_UP = from_origin(500_000, 5_400_000, 0.5, 0.5)
_C, _S = 0.5 * math.cos(math.radians(30)), 0.5 * math.sin(math.radians(30))
#: Half-metre pixels, turned by 30 degrees.
ROTATED = Affine(_C, _S, 500_000, _S, -_C, 5_400_000)


def on_map(transform: Affine, x: float, y: float) -> tuple[float, float]:
    """Pixel to map."""
    t = transform
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f
