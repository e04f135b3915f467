"""Results made from small arrays, the way the pipeline makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio import Affine

from terraprompt.outputs import MaskWriter, Result

UTM = "EPSG:32631"
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)
PROVENANCE = {
    "instruction": "the lakes, où ?",
    "task": "referring",
    "engine": "unigeoseg",
    "model": "nano",
    "revision": "1",
    "checksum": "ab12",
    "settings": {"threshold": 0.5, "tile": 512},
    "source": "scene.tif",
    "version": "0.1.0",
    "bands": [1, 2, 3],
    "stretch": [[0, 255]] * 3,
    "created": "2025-01-02T03:04:05+00:00",
}


@pytest.fixture
def paint(tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """``paint(mask, ...)``: a result whose raw mask is the uint8 array (0, 1, 255 = nodata)."""
    results = []

    def make(
        mask: np.ndarray,
        *,
        crs: Any = UTM,
        transform: Affine = NORTH_UP,
        logit: float = 2.0,
        band: int = 97,
        provenance: dict[str, Any] | None = None,
        **options: Any,
    ) -> Result:
        height, width = mask.shape
        logits = np.where(mask == 1, logit, -logit).astype(np.float32)
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        with MaskWriter.create(work, width, height, crs=crs, transform=transform) as canvas:
            for top in range(0, height, band):
                rows = slice(top, top + band)
                canvas.write_band(top, logits[rows], mask[rows] != 255)
            result = canvas.finish(PROVENANCE if provenance is None else provenance, **options)
        results.append(result)
        return result

    yield make
    for result in results:
        result.close()


@pytest.fixture
def squares() -> np.ndarray:
    """uint8 (60, 80): a square of 20 x 20 with a hole of 4 x 4, one of 10 x 10, a speck, nodata on the right."""
    mask = np.zeros((60, 80), np.uint8)
    mask[5:25, 5:25] = 1
    mask[10:14, 10:14] = 0
    mask[30:40, 30:40] = 1
    mask[50, 50] = 1
    mask[:, 70:] = 255
    return mask
