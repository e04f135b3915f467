"""Writes rendered scenes as a labelled pack, to try training and evaluation without any imagery.

python examples/rendered_pack.py PACK --scenes 6 --seed 900
terraprompt evaluate --dataset pack --root PACK --split val -o OUT
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from terraprompt_synthetic import CATEGORIES, STYLES, render


def write_pack(root: Path, scenes: int, seed: int, size: int) -> None:
    """Images, masks and ``annotations.jsonl``; every category of a scene is known, also where it is absent."""
    for folder in ("rendered/images", "rendered/masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    with (root / "annotations.jsonl").open("w", encoding="utf-8") as index:
        for i in range(scenes):
            scene = render(seed + i, width=size, height=size, style=STYLES[i % len(STYLES)])
            name = f"{scene.style}-{scene.seed}"
            Image.fromarray(scene.rgb).save(root / f"rendered/images/{name}.png")
            regions = []
            for category in CATEGORIES:
                mask = scene.mask(category)
                if mask.any():
                    file = f"rendered/masks/{name}-{category}.png"
                    Image.fromarray(mask).save(root / file)
                    regions.append({"category": category, "mask": file, "value": 1, "box": None})
            height, width = scene.shape
            record = {
                "id": f"rendered/{name}", "source": "rendered", "split": "val", "image": f"rendered/images/{name}.png",
                "width": width, "height": height, "gsd_m": scene.gsd_m, "label_kind": "mask",
                "labelled": list(CATEGORIES), "regions": regions, "licence": "Apache-2.0", "group": name,
                "scale_variant": False,
            }  # fmt: skip
            index.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rendered scenes as a labelled pack.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--seed", type=int, default=900)
    parser.add_argument("--size", type=int, default=384)
    options = parser.parse_args()
    write_pack(options.root, options.scenes, options.seed, options.size)
