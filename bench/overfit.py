"""``tiny`` learns 8 real samples by heart: mean IoU after a few hundred steps, with all losses and all tasks.

python bench/overfit.py [--steps 600] [--seed 0]

The samples are the first crops of the stream, task by task, whose target covers 10 to 70 % of the picture and survives
the decoder's stride of 4 with an IoU of 0.97: finer ones cannot be learned by any weights. Real imagery is found by
TERRAPROMPT_DATA or ../shared/data; without it, scenes are rendered.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fixed_source import FixedSource
from torch import Tensor

from terraprompt.datasets.pack import find_pack
from terraprompt.engines.dialogue import DialogueWriter
from terraprompt.models.unigeoseg import UniGeoSeg, preset
from terraprompt.prompt import Task
from terraprompt.training.causal_step import CausalTrainer
from terraprompt.training.crops import Crop, CropRecipe
from terraprompt.training.dialogues import CropSource, TaskStream, byte_tokenizer, collate
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.rendered import RENDERED, from_rendered
from terraprompt.training.schedule import TaskSchedule
from terraprompt.training.train_causal import TINY
from terraprompt.training.train_nano import load_labeled_images, shares_of
from terraprompt_synthetic import render


def labeled(seed: int) -> LabeledImage:
    return from_rendered(render(seed, width=512, height=512, gsd_m=0.3), RENDERED)


def iou(logits: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
    """Of each mask at full size; where nothing is known nothing counts."""
    full = F.interpolate(logits[:, None].float(), size=target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    found, truth = full > 0, target > 0
    if known is not None:
        found, truth = found & (known > 0), truth & (known > 0)
    both, either = ((m.flatten(1).sum(1)) for m in (found & truth, found | truth))
    return both / either.clamp(min=1)


def learnable(crop: Crop) -> bool:
    target = torch.from_numpy(crop.items[0].target)[None].float()
    if not 0.1 < float(target.mean()) < 0.7:
        return False
    coarse = F.avg_pool2d(target, 4) - 0.5
    return float(iou(coarse, target, None)) > 0.97


def eight(source: CropSource) -> list[Crop]:
    found: list[Crop] = []
    seeds, tasks = count(), cycle(Task)
    for task in tasks:
        sample = source.draw(task, np.random.default_rng(next(seeds)))
        while not learnable(sample):
            sample = source.draw(task, np.random.default_rng(next(seeds)))
        found.append(sample)
        if len(found) == 8:
            return found
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    pack = find_pack()
    images = load_labeled_images(pack) if pack else [labeled(seed) for seed in range(16)]
    config = replace(TINY, steps=options.steps, seed=options.seed, save_every=10**6, log_every=50)
    source = CropSource(images, shares_of(images), CropRecipe(size=128))
    samples = eight(source)
    fixed = FixedSource(samples)
    torch.manual_seed(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        byte_tokenizer().save_pretrained(folder)
        writer = DialogueWriter.load(Path(folder), 512, system="Look.")
        trainer = CausalTrainer(UniGeoSeg(preset("tiny")), writer, config, Path(folder) / "run", device="cpu")
        batch = collate(writer, list(enumerate(samples)))

        def scores() -> Tensor:
            model = trainer.bare.eval()
            with torch.inference_mode():
                return iou(model(batch.images, batch.dialogue).logits[-1], batch.target, batch.known)

        started = time.monotonic()

        def report() -> bool:
            if trainer.step % 50 == 0:
                each = scores()
                print(
                    f"step {trainer.step:4d}  {time.monotonic() - started:5.0f} s  mean {each.mean():.4f}", flush=True
                )
            return False

        trainer.fit(
            TaskStream(fixed, TaskSchedule(fixed.natural), config.seed, config.steps * config.batch), stop=report
        )
        each = scores()
    where = "real" if pack else "rendered"
    print(
        f"8 {where} samples, {config.steps} steps, seed {config.seed}, {time.monotonic() - started:.0f} s on one core"
    )
    for crop, value in zip(samples, each, strict=True):
        sample = crop.items[0]
        print(f"  {value:.4f}  {sample.task.value:11s} {sample.target.mean():5.1%}  {sample.text}")
    print(f"mean IoU {each.mean():.4f}, worst {each.min():.4f}")


if __name__ == "__main__":
    main()
