"""Scenes far larger than memory, on disk as sparse files: looked at within bounds, or refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from scene_rasters import NORTH_UP, UTM

from terraprompt.errors import SceneError
from terraprompt.raster import estimate_stretch, open_scene

SIDE = 60_000
_PEAK = """
import re, sys
from pathlib import Path
from terraprompt.raster import estimate_stretch, open_scene
with open_scene(sys.argv[1]) as scene:
    estimate_stretch(scene)
    scene.read(30_000, 30_000, 512, 512)
# of this program alone: ru_maxrss also counts what the process that started it held
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def sparse(path: Path, size: int = SIDE, count: int = 3, **profile: Any) -> Path:
    """A raster of ``size`` x ``size`` pixels without a single block on disk."""
    options = {"driver": "GTiff", "dtype": "uint8", "crs": UTM, "transform": NORTH_UP, "sparse_ok": True} | profile
    with rasterio.open(path, "w", width=size, height=size, count=count, **options):
        pass
    return path


TILED = {"tiled": True, "blockxsize": 512, "blockysize": 512}


@pytest.mark.parametrize("profile", [TILED, {"blockysize": 1}, {"blockysize": 16, "interleave": "band"}])
def test_memory_is_bounded(tmp_path: Path, profile: dict[str, Any]) -> None:
    path = sparse(tmp_path / "giant.tif", compress="deflate", bigtiff="yes", **profile)
    done = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000, "MiB"


@pytest.mark.parametrize(
    ("size", "count", "interleave"), [(40_000, 1, "band"), (30_000, 2, "band"), (20_000, 4, "pixel")]
)
def test_strips_of_gigabytes(tmp_path: Path, size: int, count: int, interleave: str, monkeypatch: Any) -> None:
    strip = 2_000_000_000 // (size * (count if interleave == "pixel" else 1)) // 16 * 16
    options = {"blockysize": min(strip, size - 16), "interleave": interleave, "compress": "deflate", "bigtiff": "yes"}
    path = sparse(tmp_path / "strip.tif", size, count, **options)
    monkeypatch.setattr("terraprompt.raster.scene.Scene._judge_alpha", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(SceneError, match="gdal_translate -co TILED=YES") as error:
        open_scene(path)
    assert "\n" not in str(error.value)


def test_too_many_pixels(tmp_path: Path) -> None:
    path = sparse(
        tmp_path / "wide.tif", 1_100_000, 1, bigtiff="yes", **TILED | {"blockxsize": 8192, "blockysize": 8192}
    )
    with pytest.raises(SceneError, match="too large"):
        open_scene(path)
    with open_scene(path, bbox=(0, 0, 900, 900), bbox_crs="pixel") as part:
        assert (part.width, part.height) == (900, 900)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 million pixels without overviews: a white wedge in the upper left, noise elsewhere."""
    path, size = tmp_path_factory.mktemp("large") / "collar.tif", 5000
    random = np.random.default_rng(8)
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=1, dtype="uint8", crs=UTM, transform=NORTH_UP, **TILED
    ) as out:
        for top in range(0, size, 500):
            rows = random.integers(40, 200, (500, size)).astype(np.uint8)
            y, x = np.mgrid[top : top + 500, :size]
            rows[x + y < 3000] = 255
            out.write(rows[None], window=Window(0, top, size, 500))
    return path


def test_a_collar_of_a_large_scene(large: Path) -> None:
    with open_scene(large) as scene:
        assert not scene.has_overviews
        stretch = estimate_stretch(scene)
        assert any("--nodata 255" in remark for remark in scene.remarks)
        assert stretch.high[0] < 200
    with open_scene(large, nodata=255) as scene:
        assert estimate_stretch(scene) == stretch
        assert scene.remarks == []


def test_a_collar_of_a_large_scene_seen_through_overviews(large: Path, tmp_path: Path) -> None:
    path = tmp_path / "overviews.tif"
    path.write_bytes(large.read_bytes())
    with rasterio.open(path, "r+") as file:
        file.build_overviews([4, 16])
    with open_scene(path) as scene:
        assert estimate_stretch(scene).high[0] < 200
        assert any("--nodata 255" in remark for remark in scene.remarks)


def test_a_large_scene_without_a_collar(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    random = np.random.default_rng(9)
    with rasterio.open(
        path, "w", driver="GTiff", width=5000, height=4000, count=1, dtype="uint8", crs=UTM, transform=NORTH_UP, **TILED
    ) as out:
        rows = random.integers(0, 256, (4000, 5000)).astype(np.uint8)
        rows[1500:2500, 1500:2500] = 0  # a lake
        out.write(rows[None])
    with open_scene(path) as scene:
        estimate_stretch(scene)
        assert scene.remarks == []
