"""Does GRPO learn? A small Qwen2.5-VL with random weights, rendered scenes, and nano as the frozen segmenter.

Warm-up (supervised, truthful but blind to the question): the model says which of five kinds of thing it looks for,
**drawn at random whatever was asked**, and boxes that thing, or answers with an empty list where it is not there. So it
learns the form of an answer and where things are, but not what a question means. GRPO then learns that from masks alone:
the mask that nano draws from box and points, against the truth; nobody tells it which thing was asked for.

Held-out: prompts on scenes that neither stage saw, two completions each, drawn as in training.

Run: python bench/grpo_learns.py --seed 0 --output runs/grpo-learns   (once a seed), then
     python bench/grpo_learns.py --draw runs/grpo-learns --output docs
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLImageProcessorPil,
)

from terraprompt.instructions.writer import category_instruction
from terraprompt.models.promptable import load_segmenter
from terraprompt.prompt import Task
from terraprompt.scene.rendered import render
from terraprompt.training.grpo import GrpoConfig, train_grpo
from terraprompt.training.lessons import Lesson, Question, answer_text, instances_of, rounded
from terraprompt.training.sft import SftConfig, train_sft

KINDS = ("lake", "forest", "field", "bare_ground", "building")
PLACES = (
    ("rural", 0.5), ("rural", 1.0), ("rural", 2.0), ("lakes", 0.5), ("lakes", 1.0), ("lakes", 2.0),
    ("industrial", 0.5), ("suburb", 0.3),
)  # fmt: skip
SIDE, STEP, PATCH = 112, 4, 14
TEMPLATE = "{instruction}"


@dataclass(frozen=True)
class Crop:
    """A piece of a scene: ``clear`` are kinds with one dominant thing in it, ``gone`` those that are not in it."""

    image: NDArray[np.uint8]
    clear: dict[str, NDArray[np.uint8]]
    gone: tuple[str, ...]


def crops(first: int, scenes: int) -> list[Crop]:
    """Overlapping pieces of ``scenes`` scenes from seed ``first`` on."""
    found = []
    for i in range(scenes):
        style, gsd = PLACES[i % len(PLACES)]
        scene = render(first + i, width=4 * SIDE, height=4 * SIDE, gsd_m=gsd, style=style)
        masks = {kind: scene.mask(kind) for kind in KINDS}
        for y in range(0, 3 * SIDE + 1, SIDE // 2):
            for x in range(0, 3 * SIDE + 1, SIDE // 2):
                cut = {kind: mask[y : y + SIDE, x : x + SIDE] for kind, mask in masks.items()}
                clear = {kind: mask for kind, mask in cut.items() if 0.04 < mask.mean() < 0.45 and one_thing(mask)}
                gone = tuple(kind for kind, mask in cut.items() if mask.mean() < 0.005)
                if clear:
                    found.append(Crop(scene.rgb[y : y + SIDE, x : x + SIDE], clear, gone))
    return found


def one_thing(mask: NDArray[np.uint8]) -> bool:
    """Whether one connected part holds four fifths of the mask."""
    sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
    return bool(sizes.max() >= 0.8 * sizes.sum())


def turned(array: NDArray[np.uint8], way: int) -> NDArray[np.uint8]:
    """One of the eight turns and flips."""
    array = np.rot90(array, way % 4)
    return np.ascontiguousarray(array[:, ::-1] if way >= 4 else array)


def wordings() -> dict[str, tuple[str, ...]]:
    """Four questions a kind, by name and by purpose."""
    rng = np.random.default_rng(5)
    tasks = (Task.REFERRING, Task.REASONING)
    return {kind: tuple(category_instruction(kind, rng, task=tasks[i % 2]) for i in range(4)) for kind in KINDS}


class WarmUp(Sequence[Lesson]):
    """Lessons made when asked for, the same each time: what is said has nothing to do with the question."""

    def __init__(self, pieces: Sequence[Crop], count: int, seed: int) -> None:
        self.pieces, self.count, self.seed, self.questions = pieces, count, seed, wordings()

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> Lesson: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Lesson]: ...

    def __getitem__(self, index: int | slice) -> Lesson | Sequence[Lesson]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.count))]
        rng = np.random.default_rng([self.seed, index])
        kind, asked = (KINDS[int(rng.integers(len(KINDS)))] for _ in range(2))
        known = [piece for piece in self.pieces if kind in piece.clear or kind in piece.gone]
        piece, way = known[int(rng.integers(len(known)))], int(rng.integers(8))
        found = ()
        if kind in piece.clear:
            found = tuple(rounded(v, STEP) for v in instances_of(turned(piece.clear[kind], way), most=1))
        words = self.questions[asked]
        think = f"I look for {kind.replace('_', ' ')}."
        return Lesson(turned(piece.image, way), words[int(rng.integers(len(words)))], answer_text(found, think))


def questions(pieces: Sequence[Crop], count: int, seed: int) -> list[Question]:
    """Prompts with masks, every kind as often as the next."""
    rng, words = np.random.default_rng(seed), wordings()
    made = []
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        having = [piece for piece in pieces if kind in piece.clear]
        piece, way = having[int(rng.integers(len(having)))], int(rng.integers(8))
        text = words[kind][int(rng.integers(len(words[kind])))]
        mask = turned(piece.clear[kind], way)
        made.append(Question(f"{seed}/{i}", (text,), turned(piece.image, way), mask, kind))
    return made


def write_start(folder: Path, lessons: Sequence[Lesson], seed: int) -> Path:
    """A small Qwen2.5-VL with random weights; its tokenizer is trained on the texts of the warm-up, numbers whole."""
    tokenizer = Tokenizer(models.BPE())
    numbers = pre_tokenizers.Split(Regex(r"\d+|\."), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [numbers, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [text for i in range(2000) for text in (lessons[i].instruction, lessons[i].answer)]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=800, initial_alphabet=alphabet, show_progress=False)
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    special = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    wrapped.add_special_tokens(
        {"additional_special_tokens": special, "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    )

    def token(name: str) -> int:
        return int(wrapped.convert_tokens_to_ids(name))

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(wrapped), "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 1024,
            "eos_token_id": token("<|im_end|>"), "bos_token_id": None, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 3, "hidden_size": 96, "num_heads": 4, "intermediate_size": 192, "out_hidden_size": 128,
            "fullatt_block_indexes": [0, 1, 2], "patch_size": PATCH, "window_size": SIDE,
        },
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    logging.warning("%.2f million parameters, %d tokens", model.num_parameters() / 1e6, len(wrapped))
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=PATCH).save_pretrained(folder)
    return folder


@lru_cache
def pieces_of(train: int, held_out: int) -> tuple[list[Crop], list[Crop]]:
    """Pieces of scenes for training, and of other scenes."""
    return crops(1000, train), crops(900_000, held_out)


def learn(seed: int, output: Path, warm_steps: int, steps: int, warm: Path | None) -> None:
    """Warm up, then GRPO; writes <output>/seed-N."""
    began = time.monotonic()
    run = output / f"seed-{seed}"
    seen, unseen = pieces_of(64, 24)
    logging.warning("%d pieces to learn from, %d held out", len(seen), len(unseen))
    common = {"precision": "fp32", "checkpointing": False, "vision": True, "side": SIDE, "template": TEMPLATE}
    lessons = WarmUp(seen, warm_steps * 32, seed)
    if warm is None:
        start = write_start(run / "start", lessons, seed)
        warm = train_sft(
            lessons, start, run / "warm-up",
            SftConfig(batch=32, micro=32, steps=warm_steps, rate=1e-3, log_every=50, save_every=10**6, seed=seed, **common),
        )  # fmt: skip
    warmed = time.monotonic()
    config = GrpoConfig(
        generations=16, prompts=8, micro=128, steps=steps, rate=2e-4, max_tokens=64, evaluate_every=10,
        save_every=10**6, seed=seed, **common,
    )  # fmt: skip
    train_grpo(
        questions(seen, 8 * steps, seed), warm, load_segmenter("nano"), run / "grpo", config,
        held_out=questions(unseen, 96, 77),
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "grpo" / "metrics.jsonl").read_text().splitlines()]
    held = [row["held_out_reward"] for row in rows if "held_out_reward" in row]
    ended = time.monotonic()
    said = {
        "seed": seed, "first": held[0], "last": held[-1], "rise": held[-1] - held[0],
        "warm_up_minutes": (warmed - began) / 60, "grpo_minutes": (ended - warmed) / 60,
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
    axis.set(xlabel="GRPO step", ylabel="mean reward of held-out prompts (most 4)")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(output / "grpo_learns.png", dpi=90)


def main() -> None:
    """Train one seed, or draw all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/grpo-learns"))
    parser.add_argument("--warm-steps", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warm", type=Path, help="Weights of an earlier warm-up.")
    parser.add_argument("--draw", type=Path, metavar="RUNS")
    args = parser.parse_args()
    if args.draw:
        draw(args.draw, args.output)
    else:
        learn(args.seed, args.output, args.warm_steps, args.steps, args.warm)


if __name__ == "__main__":
    main()
