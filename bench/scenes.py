"""The real scenes: "the buildings" through the command line, then IoU against the reference mask.

Run: python bench/scenes.py --data ../shared/data --output runs/scenes
Masks, polygons and pictures stay in the output folder for looking at in a GIS.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import pyogrio
import rasterio

from terraprompt.evaluation.metrics import Overlap


def main() -> None:
    """Segment every scene, print one row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/scenes"))
    parser.add_argument("--instruction", default="the buildings")
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    print("| scene | size | IoU | precision | recall | polygons | reference polygons | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for scene in json.loads((args.data / "scenes" / "scenes.json").read_text()):
        stem = args.output / scene["id"]
        mask, vector = stem.with_suffix(".tif"), stem.with_suffix(".gpkg")
        command = ["terraprompt", "segment", str(args.data / scene["image"]), args.instruction, "-o", str(mask)]
        command += ["--vector", str(vector), "--picture", str(stem.with_suffix(".png")), "--overwrite", "--json"]
        command += ["--weights", str(args.weights)] if args.weights else []
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        with rasterio.open(mask) as got, rasterio.open(args.data / scene["mask"]) as want:
            if (got.crs, got.shape) != (want.crs, want.shape) or not got.transform.almost_equals(want.transform, 1e-6):
                raise SystemExit(f"{mask} does not lie on the grid of {scene['mask']}")
            overlap = Overlap.of(got.read(1) == 1, want.read(1) == 1)
        polygons = pyogrio.read_info(vector)["features"]
        size = f"{scene['width']} x {scene['height']}"
        precision = overlap.intersection / max(1, overlap.predicted)
        recall = overlap.intersection / max(1, overlap.truth)
        row = [scene["id"], size, f"{overlap.iou:.3f}", f"{precision:.3f}", f"{recall:.3f}", polygons]
        print("|", " | ".join(map(str, [*row, scene["polygons"], f"{said['seconds']:.0f}"])), "|", flush=True)


if __name__ == "__main__":
    main()
