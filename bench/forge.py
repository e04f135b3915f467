"""Speed and memory of the forge. Times are of the CPU, so that other work on the machine does not count.

    python bench/forge.py                                  # all; hours of memory runs on a small machine
    python bench/forge.py --speed 1000 --memory --regions  # one of the three
    python bench/forge.py --speed 0 --memory 1000 5000 20000 --last select --regions

1. Patches a second of the patch stage (decoding, windows, categories, hashes, work files) against decode speed: image
   and label files of the same patches read once from top to bottom with rasterio, each pixel decoded once, and nothing
   done with them. Both take turns in one process; the best of each counts.
2. Peak resident memory after each stage, in a process that does nothing else; the copy is made by another one. GDAL's
   cache of blocks, at most 192 MiB, is in it.
3. Seconds for gaps and relations of ever more regions at one density; from 10 times as many, about 10 times as long.

Copies are made up: RGB GeoTIFFs of 1,000 patches each, eight abreast, each half over the next, tiled, deflated (about
two thirds of the raw size, as imagery), with index rasters of six classes. Patches have 512 px, for memory 128 px.
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

SIZE = 512
ACROSS = 8


PER_IMAGE = 1000


def write_copy(root: Path, patches: int, size: int) -> None:
    """Images with labels as tiled TIFFs, of 1,000 patches each, and their table and recipe."""
    for number in range(max(1, patches // PER_IMAGE)):
        write_image(root, f"{number:03d}", min(patches, PER_IMAGE), size, seed=number)
    write_recipe(root, size)


def write_image(root: Path, name: str, patches: int, size: int, *, seed: int) -> None:
    """An image 8 patches wide and as high as so many need; blobs of six classes on noise."""
    rows, stride = max(1, round(patches / ACROSS)), size // 2
    width, height = size + (ACROSS - 1) * stride, size + (rows - 1) * stride
    rng = np.random.default_rng(seed)
    # smooth ground with a little noise compresses and decodes about as imagery does; pure noise is only copied
    coarse = rng.normal(120, 45, (3, size // 8 + 4, width // 8 + 4))
    smooth = ndimage.zoom(coarse, (1, 8, 8), order=1)[:, :size, :width]
    tile = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    labels = np.ones((size, width), np.uint8)
    low, high = size // 16, size // 6
    for _ in range(ACROSS * 6):
        y, x = int(rng.integers(0, size - high)), int(rng.integers(0, width - high))
        side = int(rng.integers(low, high))
        labels[y : y + side, x : x + side] = rng.integers(2, 8)
    blocks = {
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 2,
        "bigtiff": "yes",
    }
    for folder, data in (("img", tile), ("lab", labels[None])):
        (root / folder).mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            root / folder / f"{name}.tif",
            "w",
            driver="GTiff",
            width=width,
            height=height,
            count=len(data),
            dtype="uint8",
            **blocks,
        ) as file:
            for top in range(0, height, size):
                count = min(size, height - top)
                # shifted from band to band, so that no two patches are the same picture
                part = np.roll(data, 7 * top // size, axis=2)[:, :count]
                file.write(part, window=Window(0, top, width, count))


def write_recipe(root: Path, size: int) -> None:
    """The table of the copy and a recipe for it."""
    classes = "".join(
        f'[[class]]\ncode = {code}\nlabel = "{word}"\n' + (f'category = "{word}"\n' if code > 1 else "ignore = true\n")
        for code, word in enumerate(["none", "building", "road", "water", "bare_land", "forest", "cropland"], 1)
    )
    (root / "own.toml").write_text(
        'title = "Bench"\nlicence = "none"\ncodec = "index"\nconfirmed = true\n[layout]\n'
        f'image = "img/{{stem}}.tif"\nlabel = "lab/{{stem}}.tif"\n{classes}'
    )
    (root / "recipe.yaml").write_text(
        json.dumps(
            {
                "name": "bench",
                "sources": [{"table": str(root / "own.toml"), "root": str(root)}],
                "patches": {"size": size, "stride": size // 2},
            }
        )
    )


def decode(root: Path) -> float:
    """CPU seconds to read image and label row by row, each pixel once, and nothing else."""
    start = time.process_time()
    for path in (*sorted((root / "img").iterdir()), *sorted((root / "lab").iterdir())):
        with rasterio.open(path) as file:
            for top in range(0, file.height, SIZE // 2):
                file.read(window=Window(0, top, file.width, min(SIZE // 2, file.height - top)))
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
    from terraprompt.language.object_geometry import Component
    from terraprompt.language.object_relations import nearest_of_kind, related

    rng = np.random.default_rng(count)
    side = int(np.ceil(np.sqrt(count)))
    items, edges = [], []
    for i in range(count):
        x, y = (i % side) * 60 + int(rng.integers(0, 20)), (i // side) * 60 + int(rng.integers(0, 20))
        w, h = int(rng.integers(8, 36)), int(rng.integers(8, 36))
        xs, ys = np.arange(w) + x + 0.5, np.arange(h) + y + 0.5
        edges.append(
            np.concatenate(
                [np.stack([xs, np.full(w, v)], 1) for v in (ys[0], ys[-1])]
                + [np.stack([np.full(h, v), ys], 1) for v in (xs[0], xs[-1])]
            ).astype(np.float32)
        )
        items.append(Component(w * h, (x, y, x + w, y + h), (x + w / 2, y + h / 2)))
    start = time.process_time()
    found = related(items, edges, reach=60.0)
    nearest_of_kind(items, [str(i % 4) for i in range(count)], edges)
    return time.process_time() - start, sum(map(len, found))


def as_child(what: str, folder: str, *values: str) -> None:
    """One measurement; the last line printed is its JSON."""
    root, found = Path(folder), {}
    if what == "copy":
        write_copy(root, int(values[0]), int(values[1]))
    elif what == "speed":
        found = speed(root, int(values[0]))
    else:
        found = memory(root, values[0])
    print(json.dumps(found))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--speed", type=int, default=1000, help="patches to cut; 0 = none")
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 5000, 20000], help="patches")
    parser.add_argument("--size", type=int, default=128, help="side of the patches for memory")
    parser.add_argument("--last", default="export", help="stage up to which memory is measured")
    parser.add_argument("--regions", type=int, nargs="*", default=[1000, 10000, 100000])
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        as_child(*given.child)
        return
    if given.speed:
        with tempfile.TemporaryDirectory() as folder:
            child("copy", folder, str(given.speed), str(SIZE))
            found = child("speed", folder, "5")
        cut, decoded = found["patches"] / found["cut"], found["patches"] / found["decode"]
        cells = {"patches": f"{found['patches']:.0f}", "decoded/s": f"{decoded:.0f}", "cut/s": f"{cut:.0f}"}
        table({**cells, "share": f"{100 * cut / decoded:.0f} %"}, head=True)
    for patches in given.memory:
        with tempfile.TemporaryDirectory() as folder:
            child("copy", folder, str(patches), str(given.size))
            found = child("memory", folder, given.last)
        cells = {f"{name}, MiB": f"{peak:.0f}" for name, peak in found.items()}
        table({"patches": str(patches), **cells}, head=patches == given.memory[0])
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
