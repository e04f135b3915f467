"""Every row of the ablation tables (6-9), trained at the size of ``tiny`` with one budget, and scored on val.

python bench/ablations.py [NAME …] [--table N] [--steps 200] [--seed 0] [--out runs/ablations]

``--table 6`` to ``9`` (or 13) takes the rows of a table of the paper; names join by a plus sign. Without names or table
all rows run, one after the other; a row whose result is in --out already is not run again. Real imagery is found by
TERRAPROMPT_DATA or ../shared/data. At this size and budget the scores show that every row runs, not which is better;
for that, give many seeds and steps.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from terraprompt.datasets.pack import find_pack
from terraprompt.prompt import Task
from terraprompt.training.ablations import TABLES, ablation, ablation_names
from terraprompt.training.causal_step import CausalTrainer
from terraprompt.training.crops import CropRecipe
from terraprompt.training.dialogues import CropSource, collate
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.train_causal import TINY, train_causal
from terraprompt.training.train_nano import load_labeled_images, shares_of


def giou(trainer: CausalTrainer, images: list[LabeledImage], each: int) -> dict[str, float]:
    """Mean IoU of ``each`` val crops a task; the same crops for every row. Empty where nothing is: 1."""
    source = CropSource(images, shares_of(images), CropRecipe(size=trainer.member.vision.size, light=False))
    model = trainer.bare.eval()
    out: dict[str, float] = {}
    for task in Task:
        values: list[float] = []
        drawn = [(i, source.draw(task, np.random.default_rng([7, i]))) for i in range(each)]
        for first in range(0, each, 8):
            batch = collate(trainer.writer, drawn[first : first + 8])
            with torch.inference_mode():
                logits = model(batch.images, batch.dialogue).logits[-1].float()
            found = F.interpolate(logits[:, None], size=batch.target.shape[-2:], mode="bilinear")[:, 0] > 0
            truth = batch.target > 0
            if batch.known is not None:
                found, truth = found & (batch.known > 0), truth & (batch.known > 0)
            both, either = ((m.flatten(1).sum(1)) for m in (found & truth, found | truth))
            values += torch.where(either > 0, both / either.clamp(min=1), 1.0).tolist()
        out[task.value] = float(np.mean(values))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--table", type=int, choices=sorted(TABLES), help="all rows of a table of the paper")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crops", type=int, default=48, help="val crops a task")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    options = parser.parse_args()
    names = [*options.names, *TABLES.get(options.table, ())] or ablation_names()
    torch.set_num_threads(1)
    pack = find_pack()
    if pack is None:
        parser.error("no imagery: set TERRAPROMPT_DATA")
    train, val = load_labeled_images(pack), load_labeled_images(pack, split="val")
    config = replace(
        TINY,
        steps=options.steps,
        batch=options.batch,
        micro_batch_size=options.batch,
        seed=options.seed,
        save_every=10**6,
        keep=1,
    )
    print("| row | what | interactive | referring | reasoning | s |")
    print("|---|---|---|---|---|---|")
    for name in names:
        run = options.out / f"{name}-{options.steps}-{options.seed}"
        kept = run / "scores.json"
        if kept.is_file():
            scores = json.loads(kept.read_text())
        else:
            started = time.monotonic()
            trainer = train_causal(
                pack, run, config, ablation_name=name, images=train, device="cpu", system="Look.",
                resume=any(run.glob("step-*")),
            )  # fmt: skip
            scores = {**giou(trainer, val, options.crops), "seconds": time.monotonic() - started}
            kept.write_text(json.dumps(scores) + "\n")
        cells = " | ".join(f"{100 * scores[task.value]:.2f}" for task in Task)
        print(f"| {name} | {ablation(name).about} | {cells} | {scores['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
