"""From a speckled mask to polygons: ours against polygonising every speck, in the same run.

    python bench/vectorise.py [--size 10000] [--specks 0.01] [--skip-naive]

The mask: fields and blobs on a grid, then one pixel in a hundred flipped. The naive way is what a script does with
`rasterio.features.shapes`: the whole array, every speck a polygon, small polygons dropped afterwards. Each way runs
in its own process, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rasterio import Affine

TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)
CRS = "EPSG:32631"
BAND = 512


def make(path: Path, size: int, specks: float) -> None:
    """Write a uint8 (size, size) mask to a flat file, in bands: fields, discs with holes, specks."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:100, :100] - 49.5
    distance = np.hypot(x, y)
    with path.open("wb") as file:
        for top in range(0, size, 100):
            row = np.zeros((100, -(-size // 100) * 100), np.uint8)
            for left in range(0, row.shape[1], 100):
                cell = row[:, left : left + 100]
                if rng.random() < 0.5:
                    height, width = rng.integers(10, 80, 2)
                    cell[8 : 8 + height, 8 : 8 + width] = 1
                else:
                    wobble = 1 + 0.2 * np.sin(rng.integers(2, 6) * np.arctan2(y, x) + rng.random() * 6)
                    cell[(distance < rng.uniform(10, 38) * wobble) & (distance > rng.uniform(0, 8))] = 1
            row = row[: min(100, size - top), :size]
            file.write((row ^ (rng.random(row.shape, np.float32) < specks)).tobytes())


def rows(path: Path, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, uint8 band) of the flat file."""
    for top in range(0, size, BAND):
        count = min(BAND, size - top)
        yield top, np.fromfile(path, np.uint8, count * size, offset=top * size).reshape(count, size)


@contextmanager
def timed(times: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[name] = time.perf_counter() - start


def ours(path: Path, size: int, folder: Path) -> tuple[dict[str, float], int]:
    from terraprompt.outputs import MaskWriter

    times: dict[str, float] = {}
    with MaskWriter.create(folder, size, size, crs=CRS, transform=TRANSFORM) as canvas:
        with timed(times, "paint"):
            for top, band in rows(path, size):
                logits = np.where(band == 1, np.float32(3), np.float32(-3))
                canvas.write_band(top, logits, np.ones(band.shape, bool))
        with timed(times, "vectorise"):
            result = canvas.finish({"instruction": "bench"})
    with result, timed(times, "write COG"):
        result.save_mask(folder / "m.tif")
        with timed(times, "write GeoPackage"):
            result.save_vector(folder / "m.gpkg")
    times["write COG"] -= times["write GeoPackage"]
    return times, len(result.objects)


def naive(path: Path, size: int, folder: Path) -> tuple[dict[str, float], int]:
    from rasterio.features import shapes
    from shapely.geometry import shape

    times: dict[str, float] = {}
    mask = np.fromfile(path, np.uint8).reshape(size, size)
    with timed(times, "vectorise"):
        polygons = [shape(s) for s, _ in shapes(mask, mask=mask == 1, transform=TRANSFORM)]
        polygons = [p.simplify(TRANSFORM.a * 0.75) for p in polygons if p.area >= 4 * TRANSFORM.a**2]
    return times, len(polygons)


def measured(way: str, path: Path, size: int, folder: Path) -> dict[str, object]:
    """Run one way in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--way",
        way,
        "--size",
        str(size),
        "--file",
        str(path),
        "--folder",
        str(folder),
    ]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--specks", type=float, default=0.01)
    parser.add_argument("--skip-naive", action="store_true")
    parser.add_argument("--way", choices=("ours", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        for module in ("rasterio.features", "shapely.geometry", "terraprompt.outputs"):
            importlib.import_module(module)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times, count = {"ours": ours, "naive": naive}[given.way](given.file, given.size, given.folder)
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(json.dumps({"times": times, "count": count, "peak": peak}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "mask.bin", given.size, given.specks)
        print(f"{given.size:,} x {given.size:,} pixels, {given.specks:.1%} specks")
        results = {}
        for way in ("ours",) if given.skip_naive else ("ours", "naive"):
            got = results[way] = measured(way, folder / "mask.bin", given.size, folder)
            steps = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in got["times"].items())
            print(f"{way:>6}: {steps}; {got['count']:,} polygons; peak {got['peak']:,.0f} MiB above the imports")
        if not given.skip_naive:
            a, b = results["naive"], results["ours"]
            print(f" ratio: vectorise {a['times']['vectorise'] / b['times']['vectorise']:.1f} x faster")


if __name__ == "__main__":
    main()
