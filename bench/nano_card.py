"""The numbers of docs/model_card_nano.md: nano, dedicated U-Nets, filling the box and predicting nothing, on one split.

Run: python bench/nano_card.py --data ../shared/data
The six U-Nets are trained first (on two cores about half an hour) and kept in runs/card, so that a second run only
asks. A U-Net gets as many crops of its category's images as nano was asked about by words in its whole training (4,400
steps of 8 crops in two stages, of which the schedule asks 60 % by words), with nano's backbone, augmentation,
optimiser, seed, rate and losses (BCE and Dice, dense instead of sampled).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from dedicated import category_share, train_unet
from numpy.typing import NDArray
from pack_questions import ask_record, score_row, weak_table
from unet import UNet

from terraprompt.datasets.pack import Record, read_pack
from terraprompt.datasets.questions import Plan
from terraprompt.engines.registry import load_engine
from terraprompt.evaluation import tables
from terraprompt.evaluation.metrics import Overlap
from terraprompt.evaluation.scored_prediction import ScoredPrediction
from terraprompt.models.unigeoseg import preset
from terraprompt.training.nano_step import NanoTrainConfig
from terraprompt.training.train_nano import SHARES, imagenet_backbone, load_labeled_images

log = logging.getLogger("nano_card")


def unets(data: Path, kept: Path, steps: int) -> dict[str, UNet]:
    """A trained U-Net for every mask-labelled category."""
    images = load_labeled_images(data)
    categories = sorted({c for g in images if not g.centreline for c in g.labels})
    models = {}
    for category in categories:
        model, path = UNet(preset("nano").vision), kept / f"unet_{category}.pt"
        if not path.is_file():
            shares = category_share(category, images, SHARES)
            config = NanoTrainConfig(steps=math.ceil(steps * sum(shares.values())), precision="bf16")
            log.info("%s: %d steps of %d crops from %s", category, config.steps, config.batch, sorted(shares))
            trained = train_unet(category, images, shares, config, imagenet_backbone())
            torch.save(trained.state_dict(), path)
        model.load_state_dict(torch.load(path, weights_only=True))
        models[category] = model.eval()
    return models


@torch.inference_mode()
def find(model: UNet, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mask (H, W) of an RGB image at its own resolution."""
    height, width = image.shape[:2]
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    logits = model(F.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate"))
    mask: NDArray[np.uint8] = (logits[0, :height, :width] > 0).numpy().astype(np.uint8)
    return mask


def others(models: Mapping[str, UNet], record: Record) -> Iterator[ScoredPrediction]:
    """The U-Nets and the empty answer, on the same images and truths as nano."""
    if record.label_kind != "mask":
        return
    for category in record.labelled:
        truth = record.load_mask(category)
        masks = {"nothing": np.zeros_like(truth)}
        if category in models:
            masks["unet"] = find(models[category], record.load_image())
        for kind, mask in masks.items():
            yield score_row(record, 0, kind, Overlap.of(mask, truth), category=category)


def targets(rows: list[ScoredPrediction]) -> list[list[str]]:
    """What was aimed at, beside what was reached; gIoU in points, means of the mask-labelled categories."""
    got = {name: 100 * value for name, value in tables.headline(rows).items() if value is not None}
    text = got["referring"]
    lines = [
        ("text (referring, trained wording) minus U-Net", text - got.get("U-Net", math.nan), -3.0),
        ("held-back minus trained wording, referring", got["referring, held back"] - text, -2.0),
        ("held-back minus trained wording, reasoning", got["reasoning, held back"] - got["reasoning"], -2.0),
        ("box minus filling the box", got["box"] - got["filling the box"], 12.0),
        ("N-acc, all sentences without a target", got["N-acc"], 85.0),
        ("T-acc, mask-labelled images", got["T-acc, masks"], 95.0),
        ("T-acc, with box-labelled images", got["T-acc"], 95.0),
    ]
    head = ["target", "reached", "aimed at", ""]
    return [head, *([n, f"{v:+.1f}", f">= {t:g}", "met" if v >= t else "**missed**"] for n, v, t in lines)]


def main() -> None:
    """Train what is missing, ask, print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, default=Path("runs/card"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--no-unets", action="store_true", help="neither train nor ask them: minutes, not an hour")
    parser.add_argument("--steps", type=int, default=2660, help="of nano's training that asked by words")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.kept.mkdir(parents=True, exist_ok=True)
    models = {} if args.no_unets else unets(args.data, args.kept, args.steps)
    engine = load_engine("nano", **({"weights": args.weights} if args.weights else {}))
    rows: list[ScoredPrediction] = []
    for record in read_pack(args.data, split=args.split):
        rows += [*ask_record(engine, record, Plan()), *others(models, record)]
        log.info("%s: %d rows", record.id, len(rows))
    (args.kept / "rows.jsonl").write_text("".join(json.dumps(row.to_row()) + "\n" for row in rows))
    for title, table in (
        ("Targets", targets(rows)),
        ("gIoU (cIoU), per cent, native resolution", tables.mask_table(rows)),
        ("Words of size and place, gIoU (cIoU)", tables.selector_table(rows)),
        ("Targets that are there, and that are not", tables.absence_table(rows)),
        ("Box-labelled categories, by text", weak_table(rows)),
    ):
        print(f"### {title}\n\n{tables.markdown(table)}")


if __name__ == "__main__":
    main()
