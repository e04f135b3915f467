"""Speed and memory of the forge. Times are of the CPU, so that other work on the machine does not count.

    python bench/forge.py                       # 1,000 and 20,000 patches, 100,000 regions
    python bench/forge.py --patches 1000 4000 --regions 1000 10000

1. Patches a second of the patch stage (windows, categories, hashes, work file) against reading image and label of the
   same patches with rasterio and doing nothing, window by window; and with each pixel read once.
2. Peak resident memory of the patch, region and rule stages, each count in a process of its own.
3. Seconds for gaps and relations of ever more regions at one density; from 10 times as many, about 10 times as long.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window
from scipy import ndimage

SIZE, STRIDE = 512, 256


def write_copy(root: Path, patches: int) -> None:
    """A LoveDA copy as tiled TIFFs, wide and as high as so many patches need; blobs of six classes on noise."""
    across = 8
    rows = max(1, round(patches / across))
    width, height = SIZE + (across - 1) * STRIDE, SIZE + (rows - 1) * STRIDE
    rng = np.random.default_rng(0)
    # smooth ground with a little noise compresses and decodes about as imagery does; pure noise is only copied
    coarse = rng.normal(120, 45, (3, SIZE // 8 + 4, width // 8 + 4))
    smooth = ndimage.zoom(coarse, (1, 8, 8), order=1)[:, :SIZE, :width]
    tile = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    labels = np.ones((SIZE, width), np.uint8)
    for _ in range(across * 6):
        y, x, side = int(rng.integers(0, SIZE - 80)), int(rng.integers(0, width - 80)), int(rng.integers(30, 80))
        labels[y : y + side, x : x + side] = rng.integers(2, 8)
    blocks = {
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 2,
        "bigtiff": "yes",
    }
    for name, data in (("img", tile), ("lab", labels[None])):
        (root / name).mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            root / name / "a.tif",
            "w",
            driver="GTiff",
            width=width,
            height=height,
            count=len(data),
            dtype="uint8",
            **blocks,
        ) as file:
            for top in range(0, height, SIZE):
                count = min(SIZE, height - top)
                # shifted from band to band, so that no two patches are the same picture
                part = np.roll(data, 7 * top // SIZE, axis=2)[:, :count]
                file.write(part, window=Window(0, top, width, count))
    classes = "".join(
        f'[[class]]\ncode = {code}\nlabel = "{word}"\n' + (f'category = "{word}"\n' if code > 1 else "ignore = true\n")
        for code, word in enumerate(["none", "building", "road", "water", "bare_land", "forest", "cropland"], 1)
    )
    (root / "own.toml").write_text(
        'title = "Bench"\nlicence = "none"\ncodec = "index"\nconfirmed = true\n[layout]\n'
        f'image = "img/{{stem}}.tif"\nlabel = "lab/{{stem}}.tif"\n{classes}'
    )
    (root / "recipe.yaml").write_text(
        json.dumps({"name": "bench", "sources": [{"table": str(root / "own.toml"), "root": str(root)}]})
    )


def decode(root: Path) -> float:
    """CPU seconds to read image and label row by row, each pixel once, and nothing else."""
    start = time.process_time()
    for name in ("img", "lab"):
        with rasterio.open(root / name / "a.tif") as file:
            for top in range(0, file.height, STRIDE):
                file.read(window=Window(0, top, file.width, min(STRIDE, file.height - top)))
    return time.process_time() - start


def decode_windows(root: Path) -> float:
    """CPU seconds to read image and label of every patch by itself, and nothing else."""
    start = time.process_time()
    with rasterio.open(root / "img" / "a.tif") as image, rasterio.open(root / "lab" / "a.tif") as label:
        for top in range(0, image.height - SIZE + 1, STRIDE):
            for left in range(0, image.width - SIZE + 1, STRIDE):
                image.read(window=Window(left, top, SIZE, SIZE))
                label.read(window=Window(left, top, SIZE, SIZE))
    return time.process_time() - start


def one(patches: int, stage: str) -> None:
    """In a process of its own: forge so many patches up to a stage; print figures as JSON."""
    from terraprompt.forge import forge, read_recipe

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_copy(root, patches)
        recipe = read_recipe(root / "recipe.yaml")
        forge(recipe, root / "out", until="items")
        decode(root)
        alone, windows = min(decode(root) for _ in range(2)), min(decode_windows(root) for _ in range(2))
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        report = forge(recipe, root / "out", until="patches", resume=True)
        seconds = time.process_time() - start
        if stage != "patches":
            forge(recipe, root / "out", until=stage, resume=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        done = (
            report.notes["Bench: patches cut"]
            if "Bench: patches cut" in report.notes
            else report.notes["own: patches cut"]
        )
        print(
            json.dumps(
                {"patches": done, "seconds": seconds, "decode": alone, "windows": windows, "before": held, "peak": peak}
            )
        )


def relations(count: int) -> tuple[float, int]:
    """Seconds for so many square regions of 4 kinds on a jittered grid; and how many relations were found."""
    from terraprompt.forge.relations import Shape, nearest_of_kind, related

    rng = np.random.default_rng(count)
    side = int(np.ceil(np.sqrt(count)))
    shapes = []
    for i in range(count):
        x, y = (i % side) * 60 + int(rng.integers(0, 20)), (i // side) * 60 + int(rng.integers(0, 20))
        w, h = int(rng.integers(8, 36)), int(rng.integers(8, 36))
        xs, ys = np.arange(w) + x + 0.5, np.arange(h) + y + 0.5
        edge = np.concatenate(
            [np.stack([xs, np.full(w, v)], 1) for v in (ys[0], ys[-1])]
            + [np.stack([np.full(h, v), ys], 1) for v in (xs[0], xs[-1])]
        ).astype(np.float32)
        shapes.append(Shape(str(i % 4), (x, y, x + w, y + h), (x + w / 2, y + h / 2), edge))
    start = time.process_time()
    found = related(shapes, reach=60.0)
    nearest_of_kind(shapes)
    return time.process_time() - start, sum(map(len, found))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--patches", type=int, nargs="*", default=[1000, 20000])
    parser.add_argument("--regions", type=int, nargs="*", default=[1000, 10000, 100000])
    parser.add_argument("--stage", default="filter")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.stage)
        return
    if given.patches:
        print("| patches | patches/s | windows alone/s | share | pixels once/s | peak MiB | above the start, MiB |")
        print("|---:|---:|---:|---:|---:|---:|---:|")
    for patches in given.patches:
        command = [sys.executable, __file__, "--one", str(patches), "--stage", given.stage]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        speed, windows, once = (row["patches"] / row[key] for key in ("seconds", "windows", "decode"))
        above = (row["peak"] - row["before"]) / 1024
        print(
            f"| {row['patches']} | {speed:.0f} | {windows:.0f} | {100 * speed / windows:.0f} % | {once:.0f} | "
            f"{row['peak'] / 1024:.0f} | {above:.0f} |",
            flush=True,
        )
    if given.regions:
        print("\n| regions | seconds | microseconds a region | relations |")
        print("|---:|---:|---:|---:|")
    for count in given.regions:
        seconds, found = relations(count)
        print(f"| {count} | {seconds:.2f} | {1e6 * seconds / count:.0f} | {found} |", flush=True)


if __name__ == "__main__":
    main()
