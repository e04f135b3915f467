"""Speed and memory of the forge. Times are of the CPU, so that other work on the machine does not count.

    python bench/forge.py                            # 1,000, 5,000 and 20,000 patches; up to 100,000 regions
    python bench/forge.py --patches 1000 --regions   # speed and memory of 1,000 patches alone
    python bench/forge.py --patches 1000 --last export

1. Patches a second of the patch stage (decoding, windows, categories, hashes, work files) against decode speed: image
   and label files of the same patches read once from top to bottom with rasterio, each pixel decoded once, and nothing
   done with them. Both take turns in one process; the best of each counts.
2. Peak resident memory after each stage, in a process that does nothing else; the copy is made by another one.
3. Seconds for gaps and relations of ever more regions at one density; from 10 times as many, about 10 times as long.

Copies are made up: 512 px patches every 256 px of one RGB GeoTIFF, 2,304 px wide, tiled, deflated (about two thirds of
the raw size, as imagery), with an index raster of six classes.
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


def speed(root: Path, rounds: int) -> dict[str, float]:
    """Patches, and the least CPU seconds to decode and to cut them."""
    from terraprompt.forge import forge, read_recipe

    recipe = read_recipe(root / "recipe.yaml")
    decoding, cutting, patches = [], [], 0
    for number in range(rounds):
        out = root / f"speed{number}"
        forge(recipe, out, until="items")
        decoding.append(decode(root))
        start = time.process_time()
        patches = forge(recipe, out, until="patches", resume=True).stages["patches"]
        cutting.append(time.process_time() - start)
    return {"patches": patches, "decode": min(decoding), "cut": min(cutting)}


def memory(root: Path, last: str) -> dict[str, float]:
    """Peak MiB of this process once loaded and after each stage."""
    from terraprompt.forge import forge, read_recipe
    from terraprompt.forge.run import stages_of

    recipe = read_recipe(root / "recipe.yaml")
    peaks = {"start": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    for stage in stages_of(recipe):
        forge(recipe, root / "memory", until=stage.name, resume=(root / "memory").exists())
        peaks[stage.name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if stage.name == last:
            break
    return peaks


def child(*arguments: str) -> dict[str, float]:
    """What a process of its own prints."""
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(row: dict[str, str], *, head: bool) -> None:
    """Print a row, the names above the first one."""
    if head:
        print(f"\n| {' | '.join(row)} |\n|{'---:|' * len(row)}")
    print(f"| {' | '.join(row.values())} |", flush=True)


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


def as_child(what: str, folder: str, value: str) -> None:
    """One measurement; the last line printed is its JSON."""
    root = Path(folder)
    if what == "copy":
        write_copy(root, int(value))
    found = speed(root, int(value)) if what == "speed" else memory(root, value) if what == "memory" else {}
    print(json.dumps(found))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--patches", type=int, nargs="*", default=[1000, 5000, 20000])
    parser.add_argument("--regions", type=int, nargs="*", default=[1000, 10000, 100000])
    parser.add_argument("--last", default="select", help="stage up to which memory is measured")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        as_child(*given.child)
        return
    speeds, peaks = [], []
    for patches in given.patches:
        with tempfile.TemporaryDirectory() as folder:
            child("copy", folder, str(patches))
            speeds.append(child("speed", folder, str(max(1, 5000 // patches))))
            peaks.append(child("memory", folder, given.last))
    for row in speeds:
        cut, decoded = row["patches"] / row["cut"], row["patches"] / row["decode"]
        cells = {"patches": f"{row['patches']:.0f}", "decoded/s": f"{decoded:.0f}", "cut/s": f"{cut:.0f}"}
        table({**cells, "share": f"{100 * cut / decoded:.0f} %"}, head=row is speeds[0])
    for row, found in zip(speeds, peaks, strict=True):
        cells = {f"{name}, MiB": f"{peak:.0f}" for name, peak in found.items()}
        table({"patches": f"{row['patches']:.0f}", **cells}, head=found is peaks[0])
    for count in given.regions:
        seconds, number = relations(count)
        cells = {
            "regions": str(count),
            "seconds": f"{seconds:.2f}",
            "microseconds each": f"{1e6 * seconds / count:.0f}",
        }
        table({**cells, "relations": str(number)}, head=count == given.regions[0])


if __name__ == "__main__":
    main()
