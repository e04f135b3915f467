"""Reward of a group of 16 completions: the image encoded once a group, against once a completion (as published).

SAM2.1 tiny has random weights here: what it draws means nothing, what it costs is what the released one costs.

Run: python bench/grpo_reward.py [--side 1024] [--instances 1] [--only sam2-tiny]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.sam2.configuration_sam2 import Sam2Config
from transformers.models.sam2.modeling_sam2 import Sam2Model

from terraprompt.segmenters import PromptableSegmenter, load_segmenter
from terraprompt.training.grpo_rewards import GroupDraw
from terraprompt.training.rewards import target_reward
from terraprompt.training.sft_examples import MemorySample, answer_text, instances_of
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt_synthetic import render

GROUP = 16


class EveryTime(GroupDraw):
    """Encodes the image for each completion."""

    def __call__(self, instances: Sequence[Instance], sample: int) -> NDArray[np.bool_]:
        self._embeddings.clear()
        return super().__call__(instances, sample)


def completions(question: MemorySample, side: int, instances: int) -> list[str]:
    """Answers of a group: the true objects, moved about."""
    rng = np.random.default_rng(0)
    truth = instances_of(question.load_mask(), most=instances)
    made = []
    for _ in range(GROUP):
        moved = []
        for v in truth:
            assert v.box is not None
            box = np.clip(np.array(v.box) + rng.normal(0, side / 100, 4), 1, side - 1)
            x, y = (box[:2] + box[2:]) / 2
            moved.append(Instance(tuple(box.tolist()), ((float(x), float(y)), (float(x) + 1, float(y)))))
        made.append(answer_text(moved, "Moved."))
    return made


def sam2_tiny() -> PromptableSegmenter:
    """SAM2.1 tiny with random weights."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        Sam2Model(Sam2Config()).save_pretrained(Path(folder))
        return load_segmenter(folder)


def main() -> None:
    """Measure both ways, one after the other, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--instances", type=int, default=1, help="objects in each completion")
    parser.add_argument("--only", choices=("sam2-tiny", "nano"))
    args = parser.parse_args()
    scene = render(3, width=args.side, height=args.side, style="lakes", gsd_m=0.5)
    question = MemorySample.make("lake", ("the lake",), scene.rgb, scene.mask("lake"))
    texts = completions(question, args.side, args.instances)
    convention = Convention(Units.PIXELS, View("square", side=args.side))
    print(
        f"group of {GROUP}, {args.side} x {args.side} px, {args.instances} instances, {torch.get_num_threads()} threads"
    )
    print("| segmenter | encodings | completions/s | per completion: encodings | completions/s | faster |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, load in (("sam2-tiny", sam2_tiny), ("nano", lambda: load_segmenter("nano"))):
        if args.only not in (None, name):
            continue
        segmenter = load()
        row = []
        for kind in (GroupDraw, EveryTime):
            draw = kind(segmenter, convention, [question])
            draw.truth(0)
            reward = target_reward(draw, draw.truth)
            reward(texts[:1], sample=[0])  # the first call of a model is slower
            draw._embeddings.clear()
            before, began = draw.encoded, time.perf_counter()
            scores = reward(texts, sample=[0] * GROUP)
            row.append((draw.encoded - before, GROUP / (time.perf_counter() - began), scores))
        (once, fast, first), (each, slow, second) = row
        assert first == second, "both ways must give the same rewards"
        print(f"| {name} | {once} | {fast:.2f} | {each} | {slow:.2f} | {fast / slow:.1f} x |", flush=True)


if __name__ == "__main__":
    main()
