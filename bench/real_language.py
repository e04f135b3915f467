"""Real language weights in UniGeoSeg: TATE and memory against neither, with SmolLM2-135M frozen behind a tiny vision.

make real-weights && terraprompt models convert real-weights/smollm2.gguf runs/smollm2
OMP_NUM_THREADS=1 nice -n 19 python bench/real_language.py --language runs/smollm2 --data ../shared/data ../shared/data2

The member ``tiny`` reads with the language model of --language (any decoder-only model of transformers), whose weights
and head stay as they are; vision, connector, TATE, memory and decoders begin random and learn on the train splits. One
row and seed after the other, with the same crops for every row; gIoU of val crops by task, the empty answer counts as 1
where there is nothing. A row that was stopped goes on from its last checkpoint, one that is done is not run again, and
the table is printed of what is done, with the difference of the rows by seed. At this size a difference says something
only if it has one sign for all seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ablations import giou

from terraprompt.io.atomic import write_atomic
from terraprompt.prompt import Task
from terraprompt.training.train_causal import TINY, train_causal
from terraprompt.training.train_nano import load_labeled_images

ROWS = ("none", "both")
FROZEN = ("reader.language.*", "reader.lm_head.*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--crops", type=int, default=48, help="val crops a task")
    parser.add_argument("--limit", type=int, help="images of train and val, to try it out")
    parser.add_argument("--out", type=Path, default=Path("runs/real-language"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = load_labeled_images(options.data)[: options.limit]
    val = load_labeled_images(options.data, split="val")[: options.limit]
    # the answer's words teach nobody here: what reads and what says them are frozen
    config = replace(
        TINY, steps=options.steps, batch=options.batch, micro_batch_size=options.batch, frozen=FROZEN, language=0.0,
        save_every=50, keep=1,
    )  # fmt: skip
    scores: dict[tuple[str, int], dict[str, float]] = {}
    for seed in range(options.seeds):
        for row in ROWS:
            run = options.out / f"{row}-{options.steps}-{options.batch}-{seed}"
            kept = run / "scores.json"
            if not kept.is_file():
                started = time.monotonic()
                trainer = train_causal(
                    options.data, run, replace(config, seed=seed), ablation_name=row, language=options.language,
                    images=train, device="cpu", system="Look.", resume=any(run.glob("step-*")),
                )  # fmt: skip
                found = {**giou(trainer, val, options.crops), "seconds": time.monotonic() - started}
                write_atomic(kept, json.dumps(found) + "\n")
                for checkpoint in run.glob("step-*"):  # each holds the language model
                    shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
            scores[row, seed] = json.loads(kept.read_text())
            print(row, seed, scores[row, seed], flush=True)
    print_table(scores, options.seeds)


def print_table(scores: dict[tuple[str, int], dict[str, float]], seeds: int) -> None:
    """gIoU in percent: mean over the seeds, and the difference of the rows by seed."""
    tasks = [task.value for task in Task]
    print(f"| row | {' | '.join(tasks)} |\n|---|{'---|' * len(tasks)}")
    values = {
        row: np.array([[100 * scores[row, seed][task] for task in tasks] for seed in range(seeds)]) for row in ROWS
    }
    for row in ROWS:
        cells = [
            f"{mean:.2f} ± {spread:.2f}" for mean, spread in zip(values[row].mean(0), values[row].std(0), strict=True)
        ]
        print(f"| {row} | {' | '.join(cells)} |")
    for seed, difference in enumerate(values["both"] - values["none"]):
        print(f"| both - none, seed {seed} | {' | '.join(f'{value:+.2f}' for value in difference)} |")


if __name__ == "__main__":
    main()
