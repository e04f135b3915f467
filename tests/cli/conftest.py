"""The command line as a user meets it: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine

from command import Outcome, run
from terraprompt_synthetic import Example, RenderedScene, render

__all__ = ["Outcome", "run"]


@dataclass(frozen=True)
class Town:
    """A rendered scene on disk and one house of it."""

    path: Path
    truth: RenderedScene
    house: Example

    @property
    def point(self) -> tuple[float, float]:
        """On the house, pixels."""
        return self.moved(~self.truth.transform, self.house.point)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Round the house, pixels."""
        x0, y0, x1, y1 = self.house.box
        left, bottom = self.moved(~self.truth.transform, (x0, y0))
        right, top = self.moved(~self.truth.transform, (x1, y1))
        return left, top, right, bottom

    @staticmethod
    def moved(t: Affine, xy: tuple[float, float]) -> tuple[float, float]:
        """A point through an affine map."""
        return t.a * xy[0] + t.b * xy[1] + t.c, t.d * xy[0] + t.e * xy[1] + t.f


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """224 x 192 px of a suburb at 0.3 m; tests do not change it."""
    truth = render(3, width=224, height=192, gsd_m=0.3, style="suburb")
    path = truth.write(tmp_path_factory.mktemp("town") / "town.tif")
    return Town(path, truth, truth.example("building"))


@pytest.fixture(scope="session")
def write_raster() -> Callable[..., Path]:
    """``write_raster(path, bands, ...)``: a small raster, bands (count, height, width)."""

    def write(path: Path, bands: np.ndarray, **profile: Any) -> Path:
        count, height, width = bands.shape
        profile = {"driver": "GTiff", "dtype": bands.dtype, **profile}
        with rasterio.open(path, "w", width=width, height=height, count=count, **profile) as out:
            out.write(bands)
        return path

    return write


@pytest.fixture
def pack(town: Any, tmp_path: Path) -> Path:
    """One labelled image, split val."""
    root = tmp_path / "pack"
    (root / "src").mkdir(parents=True)
    rgb, truth = town.truth.rgb[:128, :128], town.truth.mask("building")[:128, :128]
    Image.fromarray(rgb).save(root / "src" / "a.png")
    Image.fromarray(truth).save(root / "src" / "a_mask.png")
    height, width = truth.shape
    record = {
        "id": "src/a", "source": "src", "image": "src/a.png", "width": width, "height": height, "gsd_m": 0.3,
        "split": "val", "licence": "CC0-1.0", "label_kind": "mask", "labelled": ["building", "lake"],
        "regions": [{"category": "building", "mask": "src/a_mask.png", "value": 1, "box": None}],
        "crs": None, "transform": None, "group": "g", "scale_variant": False, "origin": [],
    }  # fmt: skip
    (root / "annotations.jsonl").write_text(json.dumps(record) + "\n")
    return root
