"""Small real rasters on disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from scene_rasters import NORTH_UP, UTM

MakeRaster = Callable[..., Path]


@pytest.fixture
def make_raster(tmp_path: Path) -> MakeRaster:
    """Write ``values`` (bands, h, w) or (h, w); keywords go to rasterio, ``mask``, ``colors``, ``names`` are extras."""

    def make(
        values: np.ndarray,
        name: str = "scene.tif",
        *,
        mask: np.ndarray | None = None,
        colors: list[Any] | None = None,
        names: list[str] | None = None,
        **profile: Any,
    ) -> Path:
        values = values if values.ndim == 3 else values[None]
        path = tmp_path / name
        profile = {"driver": "GTiff", "crs": UTM, "transform": NORTH_UP} | profile
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            out = rasterio.open(
                path,
                "w",
                count=len(values),
                height=values.shape[1],
                width=values.shape[2],
                dtype=values.dtype,
                **{k: v for k, v in profile.items() if v is not None},
            )
        with out:
            out.write(values)
            if colors:
                out.colorinterp = colors
            if mask is not None:
                out.write_mask(mask)
            for i, text in enumerate(names or (), start=1):
                out.set_band_description(i, text)
        return path

    return make
