"""What the dense map of points and boxes brings: nano with it, and with coordinates through the text path alone.

Run: python bench/dense_prompt.py --data ../shared/data
Both are trained from ImageNet with the same seed, crops and budget on interactive prompts only (a short training, so
the numbers are lower than those of the packaged weights), then asked for single objects of the val split.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from pack_questions import ask_record

from terraprompt.datasets.pack import read_pack
from terraprompt.datasets.questions import Plan
from terraprompt.engines.registry import load_engine
from terraprompt.evaluation.metrics import summarise
from terraprompt.evaluation.scored_prediction import ScoredPrediction
from terraprompt.training.nano_step import NanoTrainConfig
from terraprompt.training.schedule import TaskSchedule
from terraprompt.training.train_nano import SHARES, export_nano, load_labeled_images, train_nano


def main() -> None:
    """Train both, ask both, print one row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, default=Path("runs/dense_prompt"))
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    images = [g for g in load_labeled_images(args.data) if g.labels and not g.centreline]
    shares = {source: SHARES[source] for source in sorted({g.source for g in images})}
    records = [r for r in read_pack(args.data, split="val") if r.label_kind == "mask"]
    print(f"{args.steps} steps of 8 crops, seed 0; gIoU (cIoU), means of categories\n")
    print("| coordinates | box | point | filling the box |\n| --- | --- | --- | --- |")
    for name, preset in (("dense map and text path", "nano"), ("text path alone", "nano-text-coordinates")):
        weights = args.kept / preset / "nano.safetensors"
        if not weights.is_file():
            trainer = train_nano(
                args.data, weights.parent, NanoTrainConfig(steps=args.steps, precision="bf16"), preset_name=preset,
                schedule=TaskSchedule((1.0, 0.0, 0.0), floor=1.0), shares=shares, images=images, workers=1,
            )  # fmt: skip
            export_nano(trainer, weights)
        engine = load_engine("nano", weights=weights)
        rows: list[ScoredPrediction] = []
        for record in records:
            rows += ask_record(engine, record, Plan(texts=0, selections=0, absences=0))
        print(f"| {name} |", " | ".join(_mean(rows, kind) for kind in ("box", "point", "filled box")), "|", flush=True)


def _kind(row: ScoredPrediction) -> str:
    return (row.level or "").partition(", ")[0]


def _mean(rows: list[ScoredPrediction], kind: str) -> str:
    per = [
        summarise(r.overlap for r in rows if _kind(r) == kind and r.category == category)
        for category in sorted({r.category for r in rows if _kind(r) == kind})
    ]
    return f"{100 * sum(s.giou for s in per) / len(per):.1f} ({100 * sum(s.ciou for s in per) / len(per):.1f})"


if __name__ == "__main__":
    main()
