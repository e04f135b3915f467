"""Peak memory and reading speed of the scene flow on a large raster; memory must not grow with its height.

    python bench/memory.py                                    # 20,000 wide, 5,000 and 20,000 rows
    python bench/memory.py --width 8000 --rows 4000 16000

Each height runs in a process of its own: a compressed RGB raster (one bright roof every 250 pixels) goes through
:func:`terraprompt.segment` with an engine that costs next to nothing. Printed: peak resident memory above what
the process held after its imports (so the model is not counted), time, and the reading speed of the row bands alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import rasterio
from rasterio.transform import from_origin

from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec
from terraprompt.flow.session import segment
from terraprompt.prompt import Prompt, Task
from terraprompt.raster import estimate_stretch, open_scene, plan, read_bands

MIB = 1 << 20


class BrightEngine:
    """Target where the red band is bright."""

    name = "bright"
    info = ModelInfo("bright", "1")
    tile = TileSpec(512, 128, 32, 4)
    tasks = frozenset(Task)

    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        return [Embedding(image.shape[:2], image, image.nbytes) for image in images]

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        return [Answer((e.data[..., 0].astype(np.float32) - 200) / 10) for e in embeddings]


def write_raster(path: Path, width: int, rows: int) -> None:
    """A noisy ground with roofs, deflated, in 512-pixel blocks."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 76, (3, 1000, 1000), np.uint8)
    for y in range(0, 1000, 250):
        for x in range(0, 1000, 250):
            ground[:, y + 40 : y + 40 + 20 + x // 25, x + 60 : x + 120] = 240
    across = -(-width // 1000)
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_400_000, 0.3, 0.3)}
    size = {"width": width, "height": rows, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    profile = {"driver": "GTiff", "BIGTIFF": "YES"} | blocks | place | size
    strip = np.tile(ground, (1, 1, across))[:, :, :width]
    # Written along the blocks: 512 rows at a time out of a pattern that repeats every 1,000.
    with rasterio.Env(GDAL_CACHEMAX=256 * MIB), rasterio.open(path, "w", **profile) as out:
        for top in range(0, rows, 512):
            height = min(512, rows - top)
            lines = (np.arange(height) + top) % 1000
            out.write(strip[:, lines], window=rasterio.windows.Window(0, top, width, height))


def reading_speed(path: Path) -> float:
    """Megapixels of the scene per second."""
    with open_scene(path) as scene:
        tiles, stretch = plan(scene.width, scene.height, 512, 128), estimate_stretch(scene)
        start = time.perf_counter()
        for _ in read_bands(scene, tiles, stretch):
            pass
        return scene.width * scene.height / 1e6 / (time.perf_counter() - start)


def measure(path: Path) -> dict[str, float]:
    """Run the flow in this process; its peak so far must be its baseline."""
    baseline = psutil.Process().memory_info().rss
    start = time.perf_counter()
    with segment(path, "the bright roofs", engine=BrightEngine(), workdir=path.parent) as result:
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "baseline_mib": baseline / MIB,
            "above_mib": (peak - baseline) / MIB,
            "seconds": seconds,
            "objects": len(result.objects),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--folder", type=Path, help="for the raster and the work files; default: temporary")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    print(f"{'raster':>16} {'above baseline':>15} {'baseline':>10} {'flow':>9} {'reading':>11} {'objects':>8}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "scene.tif"
            write_raster(path, options.width, rows)
            run = subprocess.run(
                [sys.executable, __file__, "--measure", str(path)], capture_output=True, text=True, check=True
            )
            found = json.loads(run.stdout)
            speed = reading_speed(path)
        print(
            f"{options.width:>7} x {rows:<6} {found['above_mib']:>11.0f} MiB {found['baseline_mib']:>6.0f} MiB "
            f"{found['seconds']:>7.1f} s {speed:>6.0f} MP/s {found['objects']:>8}",
            flush=True,
        )


if __name__ == "__main__":
    main()
