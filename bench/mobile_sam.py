"""mobile-sam against nano on labelled objects: point, box, box and point, and end to end behind a scripted reasoner.

python bench/mobile_sam.py [--weights real-weights] [--output docs/evaluation/mobile-sam.json]

Objects: the up to three largest connected parts (from 400 px) of each mask of the val split of the image pack
(TERRAPROMPT_DATA or ../shared/data; centre lines left out), in the whole picture; and the largest buildings of each
real scene, in a window of 512 pixels about them. The point is the deepest inside, the box that of the label. Think2Seg:
the product's flow on every val picture with a mask, asked for its category; the reasoner is a server on loopback that
answers from the labels (box and two points of the up to six largest parts): the drawing alone is measured.

In a mixed order, so that a run that is stopped is a sample; what is in the output is not measured again. Tables are
printed as Markdown, of what both have done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from endpoint_server import endpoint_server
from oracle_endpoint import Oracle, Target, boxed, targets
from real_weights import FOLDER
from terraprompt.datasets.pack import Record, find_pack, read_pack
from terraprompt.engines.think2seg import Think2SegEngine
from terraprompt.evaluation.metrics import Overlap
from terraprompt.flow.session import segment
from terraprompt.io.atomic import write_atomic
from terraprompt.prompt import Prompt
from terraprompt.raster.pictures import read_rgb
from terraprompt.segmenters import PromptableSegmenter, load_segmenter
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import connect

KINDS = ("point", "box", "box + point")
WINDOW = 512
_VIEW = View("square", side=896)


def main() -> None:
    """Measure what is not there yet, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=FOLDER, help="mobile_sam.pt, or a folder of its weights.")
    parser.add_argument("--output", type=Path, default=Path("docs/evaluation/mobile-sam.json"))
    parser.add_argument("--only", choices=("picture", "scene", "think2seg"), help="One kind of measurement.")
    parser.add_argument("--limit", type=int, help="Pictures, to try it out.")
    parser.add_argument("--buildings", type=int, default=12, help="Of each scene.")
    args = parser.parse_args()
    root = find_pack()
    if root is None:
        raise SystemExit("There is no image pack: set TERRAPROMPT_DATA or put it at ../shared/data.")
    done: dict[str, Any] = json.loads(args.output.read_text()) if args.output.exists() else {}
    segmenters = {"nano": load_segmenter("nano"), "mobile-sam": load_segmenter(args.weights)}
    for key, measure in sorted(
        work(root, args.limit, args.buildings), key=lambda item: hashlib.md5(item[0].encode()).digest()
    ):
        if args.only not in (None, key.split(" ")[0]):
            continue
        for name, segmenter in segmenters.items():
            if f"{name} {key}" not in done:
                start = time.monotonic()
                done[f"{name} {key}"] = measure(segmenter)
                print(f"{name} {key}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
                write_atomic(args.output, json.dumps(done, indent=1, sort_keys=True) + "\n")
    print_tables(done)


def work(root: Path, limit: int | None, buildings: int) -> Iterator[tuple[str, Any]]:
    """Keys and what to measure for each."""
    records = [r for r in read_pack(root, "val") if r.label_kind == "mask" and r.present][:limit]
    for record in records:
        yield f"picture {record.id}", lambda s, r=record: on_picture(s, r)
    for scene in json.loads((root / "scenes" / "scenes.json").read_text()):
        key = f"scene {scene['id']}, largest {buildings}"
        yield key, lambda s, x=scene: on_scene(s, root / x["image"], root / x["mask"], buildings)
    for record in records:
        yield f"think2seg {record.id}", lambda s, r=record: end_to_end(s, r)


def on_picture(segmenter: PromptableSegmenter, record: Record) -> list[dict[str, float]]:
    """IoU of each object by kind of prompt."""
    image = record.load_image()
    [embedding] = segmenter.embed([image])
    rows = []
    for category in record.present:
        mask = record.load_mask(category) > 0
        for target in targets(mask, least=400, most=3):
            rows.append(ious(segmenter, embedding, target, boxed(mask, target)))
    return rows


def on_scene(segmenter: PromptableSegmenter, image: Path, mask: Path, most: int) -> list[dict[str, float]]:
    """IoU of each building by kind of prompt, in a window about it."""
    with rasterio.open(mask) as file:
        truth = file.read(1) == 1
    pixels, _ = read_rgb(image)  # with one stretch for the whole scene
    rows = []
    for target in targets(truth, least=400, most=most):
        x0, y0, x1, y1 = target.box
        left, top = (
            int(np.clip((low + high - WINDOW) / 2, 0, max(0, side - WINDOW)))
            for low, high, side in ((x0, x1, truth.shape[1]), (y0, y1, truth.shape[0]))
        )
        window = np.s_[top : top + WINDOW, left : left + WINDOW]
        (x, y), _ = target.points
        moved = Target((x0 - left, y0 - top, x1 - left, y1 - top), ((x - left, y - top), (0.0, 0.0)))
        [embedding] = segmenter.embed([np.ascontiguousarray(pixels[window])])
        rows.append(ious(segmenter, embedding, moved, boxed(truth[window], moved)))
    return rows


def ious(segmenter: PromptableSegmenter, embedding: Any, target: Target, truth: np.ndarray) -> dict[str, float]:
    """IoU of one object with what each kind of prompt draws."""
    point, box = target.points[0], target.box
    prompts = [Prompt(points=(point,)), Prompt(boxes=(box,)), Prompt(points=(point,), boxes=(box,))]
    answers = segmenter.predict(embedding, prompts)
    return {
        kind: round(Overlap.of(answer.logits > 0, truth).iou, 4) for kind, answer in zip(KINDS, answers, strict=True)
    }


def end_to_end(segmenter: PromptableSegmenter, record: Record) -> dict[str, float]:
    """IoU of the product's flow by category: picture and sentence in, the union of what was proposed out."""
    found = {}
    for category in record.present:
        mask = record.load_mask(category)
        oracle = Oracle("0..1000", digits=0)
        oracle.size, oracle.targets = mask.shape, targets(mask)
        with endpoint_server(oracle) as server:
            asker = connect(server.url, "oracle", convention=Convention(Units.THOUSAND, _VIEW), structured="off")
            engine = Think2SegEngine(asker, segmenter)
            with segment(record.image, f"every {category.replace('_', ' ')}", engine=engine) as result:
                found[category] = round(Overlap.of(result.mask() == 1, mask > 0).iou, 4)
    return found


def print_tables(done: dict[str, Any]) -> None:
    """Mean IoU by source of the pictures and scene; objects in brackets."""
    groups: dict[str, dict[str, list[dict[str, float]]]] = {}
    drawn: dict[str, dict[str, list[float]]] = {}
    for key, value in sorted(done.items()):
        name, kind, where = key.split(" ", 2)
        if not all(f"{one} {kind} {where}" in done for one in ("nano", "mobile-sam")):
            continue
        if kind == "think2seg":
            drawn.setdefault(where.split("/")[0], {}).setdefault(name, []).extend(value.values())
        else:
            groups.setdefault(where.split("/")[0], {}).setdefault(name, []).extend(value)
    names = ("nano", "mobile-sam")
    print("| objects | " + " | ".join(f"{kind}: {', '.join(names)}" for kind in KINDS) + " |")
    print("| --- |" + " --- |" * len(KINDS))
    groups["all"] = {name: [row for group in groups.values() for row in group.get(name, [])] for name in names}
    for group, rows in groups.items():
        cells = [", ".join(f"{_mean([row[kind] for row in rows.get(n, [])]):.3f}" for n in names) for kind in KINDS]
        print(f"| {group} ({len(rows.get('nano', []))}) | {' | '.join(cells)} |")
    print("\n| think2seg, a picture's category | nano | mobile-sam |\n| --- | --- | --- |")
    drawn["all"] = {name: [value for group in drawn.values() for value in group.get(name, [])] for name in names}
    for group, by_name in drawn.items():
        cells = [f"{_mean(by_name.get(name, [])):.3f}" for name in names]
        print(f"| {group} ({len(by_name.get('nano', []))}) | {' | '.join(cells)} |")


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


if __name__ == "__main__":
    main()
