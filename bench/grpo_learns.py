"""Does GRPO learn? A small LLaVA with random weights, rendered scenes, and nano as the frozen segmenter.

A picture is put together from four pieces of rendered scenes, each with one lake, or each with one building. A question
names the corner: "the lake in the upper left corner".

Warm-up (supervised, by a bad teacher): the thought says which corner is looked at and the answer boxes what is there,
but only one lesson in ten looks where it was asked; in the others the corner is drawn at random, so that a third of
all is right. It teaches the form of an answer, where things are, and hardly what a question means. GRPO then learns
that from masks alone: what nano draws from box and points, against the truth; nobody says which corner was meant.

Held-out: questions about pictures from scenes that neither stage saw, two completions each, drawn as in training.

Run: python bench/grpo_learns.py --seed 0 --output runs/grpo-learns   (once a seed), then
     python bench/grpo_learns.py --draw runs/grpo-learns --output docs
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PreTrainedTokenizerFast,
)

from terraprompt.geometry.connectivity import label
from terraprompt.segmenters import load_segmenter
from terraprompt.training.grpo import GrpoConfig, train_grpo
from terraprompt.training.sft import SftConfig, train_sft
from terraprompt.training.sft_examples import MemorySample, SftExample, answer_text, instances_of
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt_synthetic import render

KINDS = ("lake", "building")
CORNERS = ("northwest", "northeast", "southwest", "southeast")
WAYS = ("upper left", "upper right", "lower left", "lower right")
FRAMES = (
    "the {kind} in the {way} corner", "outline the {kind} in the {way} corner", "Which {kind} lies farthest {way}?",
    "segment the {way} {kind}",
)  # fmt: skip
PLACES = (
    ("lakes", 0.5), ("lakes", 1.0), ("rural", 0.5), ("industrial", 0.5), ("industrial", 1.0), ("suburb", 0.3),
)  # fmt: skip
PIECE, SIDE = 112, 112  # pixels of a piece, and of the square that the reasoner is shown
STEP = 28  # of the grid of boxes, rounded outwards
RIGHT = 0.1  # of the lessons answer the question; the others answer one that is drawn at random
CONVENTION = Convention(Units.PIXELS, View("square", side=SIDE))
COMMON = {"precision": "fp32", "checkpointing": False, "vision": True, "units": "pixels", "side": SIDE,
          "template": "{instruction}"}  # fmt: skip

Pieces = dict[str, list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]]


def pieces_of(first: int, scenes: int) -> Pieces:
    """Image and mask of every piece of ``scenes`` scenes that shows one thing of one kind, by kind."""
    found: Pieces = {kind: [] for kind in KINDS}
    for i in range(scenes):
        style, gsd = PLACES[i % len(PLACES)]
        scene = render(first + i, width=4 * PIECE, height=4 * PIECE, gsd_m=gsd, style=style)
        masks = {kind: scene.mask(kind) for kind in KINDS}
        for y in range(0, 3 * PIECE + 1, PIECE // 2):
            for x in range(0, 3 * PIECE + 1, PIECE // 2):
                cut = {kind: mask[y : y + PIECE, x : x + PIECE] for kind, mask in masks.items()}
                there = [kind for kind, mask in cut.items() if mask.mean() > 0.03]
                if len(there) == 1 and 0.12 < cut[there[0]].mean() < 0.5 and one_thing(cut[there[0]]):
                    found[there[0]].append((scene.rgb[y : y + PIECE, x : x + PIECE], cut[there[0]]))
    return found


def one_thing(mask: NDArray[np.uint8]) -> bool:
    """Whether one connected part holds four fifths of the mask."""
    sizes = np.bincount(label(mask)[0].ravel())[1:]
    return bool(sizes.max() >= 0.8 * sizes.sum())


def picture(pieces: Pieces, kind: str, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Four pieces side by side, each turned or flipped; the masks in the order of the corners."""
    image = np.zeros((2 * PIECE, 2 * PIECE, 3), np.uint8)
    masks = []
    for i in rng.choice(len(pieces[kind]), len(CORNERS), replace=False):
        turns, flip = int(rng.integers(4)), 1 - 2 * int(rng.integers(2))
        rgb, mask = (np.rot90(array, turns)[:, ::flip] for array in pieces[kind][i])
        row, column = (PIECE * n for n in divmod(len(masks), 2))
        window = np.s_[row : row + PIECE, column : column + PIECE]
        image[window] = rgb
        masks.append(np.zeros(image.shape[:2], np.uint8))
        masks[-1][window] = mask
    return image, masks


def question(kind: str, corner: int, rng: np.random.Generator) -> str:
    """One of the ways to ask for the thing in a corner."""
    return FRAMES[int(rng.integers(len(FRAMES)))].format(kind=kind, way=WAYS[corner])


class WarmUp(Sequence[SftExample]):
    """Lessons made when asked for, the same each time: what is said has nothing to do with the question."""

    def __init__(self, pieces: Pieces, count: int, seed: int) -> None:
        self.pieces, self.count, self.seed = pieces, count, seed

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> SftExample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[SftExample]: ...

    def __getitem__(self, index: int | slice) -> SftExample | Sequence[SftExample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.count))]
        rng = np.random.default_rng([self.seed, index])
        kind = KINDS[int(rng.integers(len(KINDS)))]
        said, asked = (int(rng.integers(len(CORNERS))) for _ in range(2))
        said = asked if rng.random() < RIGHT else said
        image, masks = picture(self.pieces, kind, rng)
        found = CONVENTION.from_source(instances_of(masks[said], most=1), image.shape[:2])
        think = f"I read {WAYS[asked]} and look {CORNERS[said]}."
        return SftExample(image, question(kind, asked, rng), answer_text([coarse(v) for v in found], think))


def coarse(instance: Instance) -> Instance:
    """A box on the grid of the lessons, and its middle for both points: few numbers to learn."""
    assert instance.box is not None
    x0, y0, x1, y1 = (np.array(instance.box) / STEP).tolist()
    box = tuple(float(STEP * n) for n in (math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return replace(instance, box=box, points=(middle, middle), labels=(1, 1))  # two: so the strict reader wants it


def questions(pieces: Pieces, count: int, seed: int) -> list[MemorySample]:
    """Prompts with masks, every corner as often as the next."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        kind, corner = KINDS[i // len(CORNERS) % len(KINDS)], i % len(CORNERS)
        image, masks = picture(pieces, kind, rng)
        made.append(MemorySample.make(f"{seed}/{i}", (question(kind, corner, rng),), image, masks[corner], kind))
    return made


def write_start(folder: Path, lessons: Sequence[SftExample], seed: int) -> Path:
    """A small LLaVA with random weights; its tokenizer is trained on the warm-up, words and numbers whole."""
    tokenizer = Tokenizer(models.BPE())
    apart = pre_tokenizers.Split(Regex(rf"\d+| (?:{'|'.join(CORNERS + WAYS)})"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [apart, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [text for lesson in lessons[:1000] for text in (lesson.instruction, lesson.answer)]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    wrapped.add_special_tokens(
        {"additional_special_tokens": ["<image>"], "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    )
    text = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id, initializer_range=0.08,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE,
        patch_size=28, projection_dim=64,
    )  # fmt: skip
    token = wrapped.convert_tokens_to_ids("<image>")
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=token, vision_feature_layer=-1)
    )
    logging.warning("%.2f million parameters, %d tokens", model.num_parameters() / 1e6, len(wrapped))
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square).save_pretrained(folder)
    return folder


def learn(seed: int, output: Path, warm_steps: int, steps: int, lr: float, warm: Path | None) -> None:
    """Warm up, then GRPO; writes <output>/seed-N."""
    began = time.monotonic()
    run = output / f"seed-{seed}"
    seen, unseen = pieces_of(1000, 48), pieces_of(900_000, 18)
    for name, pieces in (("seen", seen), ("held out", unseen)):
        logging.warning("%s: %s", name, {kind: len(found) for kind, found in pieces.items()})
    if warm is None:
        lessons = WarmUp(seen, warm_steps * 32, seed)
        warm = train_sft(
            lessons, write_start(run / "start", lessons, seed), run / "warm-up",
            SftConfig(batch=32, micro_batch_size=32, steps=warm_steps, lr=1e-3, log_every=25,
                      save_every=10**6, seed=seed, **COMMON),
        )  # fmt: skip
    warmed = time.monotonic()
    config = GrpoConfig(
        generations=8, prompts=16, micro_batch_size=128, steps=steps, lr=lr, temperature=0.7, max_tokens=48,
        evaluate_every=10, save_every=10**6, seed=seed, **{**COMMON, "vision": False},
    )  # fmt: skip
    done = train_grpo(
        questions(seen, 16 * steps, seed), warm, load_segmenter("nano"), run / "grpo", config,
        held_out=questions(unseen, 64, 77),
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "grpo" / "metrics.jsonl").read_text().splitlines()]
    held = [row["held_out_reward"] for row in rows if "held_out_reward" in row]
    said = {
        "seed": seed, "first": held[0], "last": held[-1], "rise": held[-1] - held[0],
        "warm_up_minutes": (warmed - began) / 60, "grpo_minutes": (time.monotonic() - warmed) / 60,
        "cpu_minutes": time.process_time() / 60, "encoded": done.draw.encoded, "drawn": done.draw.drawn,
    }  # fmt: skip
    (run / "said.json").write_text(json.dumps(said))
    print(json.dumps(said))


def draw(runs: Path, output: Path) -> None:
    """All seeds in one picture and one table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
    with (output / "grpo_learns.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["seed", "step", "held_out_reward"])
        for run in sorted(runs.glob("seed-*")):
            rows = [json.loads(line) for line in (run / "grpo" / "metrics.jsonl").read_text().splitlines()]
            held = [(row["step"], row["held_out_reward"]) for row in rows if "held_out_reward" in row]
            table.writerows([run.name.removeprefix("seed-"), *row] for row in held)
            axis.plot(*zip(*held, strict=True), marker=".", label=run.name.replace("-", " "))
    axis.set(xlabel="GRPO step", ylabel="held-out reward (at most 4)")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(output / "grpo_learns.png", dpi=90)


def main() -> None:
    """Train one seed, or draw all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/grpo-learns"))
    parser.add_argument("--warm-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--warm", type=Path, help="Weights of an earlier warm-up.")
    parser.add_argument("--draw", type=Path, metavar="RUNS")
    args = parser.parse_args()
    if args.draw:
        draw(args.draw, args.output)
    else:
        learn(args.seed, args.output, args.warm_steps, args.steps, args.lr, args.warm)


if __name__ == "__main__":
    main()
