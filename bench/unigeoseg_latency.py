"""Seconds for the 1st, 2nd, … instruction on one image, against the naive schedule, with generated weights.

    python bench/unigeoseg_latency.py                         # full size, 1.6 B parameters, fp32 and bf16
    python bench/unigeoseg_latency.py --preset tiny

The naive schedule does for each instruction what the published code does: vision twice, all branches of the text
enhancement, the whole sequence with an answer, attention matrices written out in the language model. It keeps our own
pixel decoder and vision, which are faster, so the ratios are on the low side. Each precision runs in a process of its
own, so that its peak of memory is its own; masks of the others are compared with those of the first.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights

from terraprompt.engines.base import ModelInfo
from terraprompt.engines.causal import CausalEngine
from terraprompt.engines.dialogue import _PREFIX, _TEMPLATE, SYSTEM, DialogueWriter
from terraprompt.models.preprocess import letterboxed
from terraprompt.models.unigeoseg import UniGeoSeg, preset
from terraprompt.prompt import Prompt

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PROMPTS = (
    Prompt("the two bridges that cross the river south of the harbour"),
    Prompt("where could a helicopter land in an emergency without touching a tree?"),
    Prompt(boxes=((60.0, 90.0, 200.0, 260.0),)),
    Prompt("the largest storage tank beside the railway"),
    Prompt("which building would people go to when they are ill?"),
    Prompt(points=((100.0, 120.0), (300.0, 310.0))),
    Prompt("all boats that lie at the northern pier"),
    Prompt("what keeps the water back above the village?"),
    Prompt("the tennis court next to the school"),
    Prompt("the field in the lower left corner"),
)
_ANSWER = 45  # tokens after the instruction: the closing words and a reason


def generated(name: str, precision: str) -> UniGeoSeg:
    """The member with normal numbers of usual scale, seeded by name."""
    config = preset(name)
    assert config.causal is not None
    with init_empty_weights(include_buffers=False):
        model = UniGeoSeg(replace(config, causal=replace(config.causal, lm_head=False)))
    state = {}
    for key, value in model.state_dict().items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        x = torch.empty(value.shape).normal_(generator=generator)
        norm = (value.dim() == 1 and key.endswith("weight")) or (value.dim() == 3 and "connector.norm" in key)
        fan = value[0].numel() if value.dim() > 1 else 400
        x = 1 + x.mul_(0.1) if norm else x.mul_(1.0 if "embed_tokens" in key or key == "pool.query" else fan**-0.5)
        state[key] = x.to(_DTYPES[precision] if key.startswith(("vision.", "reader.")) else torch.float32)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


class Words:
    """Stands for a tokenizer: an id for each word or mark."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        pieces = re.findall(r"\w+|[^\w\s]|\n", text)
        return {"input_ids": [zlib.crc32(piece.encode()) % (self.vocabulary - 1) for piece in pieces]}


@torch.inference_mode()
def naive(engine: CausalEngine, image: np.ndarray, prompt: Prompt) -> np.ndarray:
    """The mask at the size of the letterbox."""
    from terraprompt.geometry import Frame

    model = engine.model
    picture = letterboxed(image, Frame.letterbox(image.shape[:2], engine.size))
    x = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    model.see(x)
    features = model.see(x)
    pixels = model.look(features)
    dialogue = engine.writer.write([prompt], [image.shape[:2]], torch.zeros(1, dtype=torch.int64))
    dialogue = replace(
        dialogue,
        tokens=F.pad(dialogue.tokens, (0, _ANSWER), value=7),
        refer=F.pad(dialogue.refer, (0, _ANSWER), value=False),
    )
    if model.tate is not None and model.reader is not None:
        words = model.reader.language.get_input_embeddings()(dialogue.template)[None].float()
        for task in {0, 1, 2} - {int(dialogue.task)}:
            everywhere = torch.ones(words.shape[:2], dtype=torch.bool)
            model.tate(words, everywhere, torch.tensor([task]), dialogue.coordinates, model.pool)
    drawn = model.draw(model.ask(dialogue, features[-1]), pixels, dialogue.image)
    full = F.interpolate(drawn.logits[-1][:, None], size=(engine.size, engine.size), mode="bilinear")
    return (full[0, 0] > 0).numpy()


def measure(name: str, precision: str, masks: Path) -> dict[str, Any]:
    """One precision."""
    model = generated(name, precision)
    assert model.reader is not None
    words = Words(int(model.reader.language.config.vocab_size))
    ids = [torch.tensor(words(text)["input_ids"]) for text in (_PREFIX.format(system=SYSTEM), _TEMPLATE)]
    writer = DialogueWriter(words, words.vocabulary - 1, *ids)
    engine = CausalEngine(model, writer, ModelInfo(name, "generated"))
    size = engine.size
    coarse = np.random.default_rng(0).integers(0, 256, (size // 16, size // 16, 3), np.uint8)
    image = np.ascontiguousarray(coarse.repeat(16, 0).repeat(16, 1))
    prompts = [Prompt(p.text, points=p.points, boxes=p.boxes) for p in _PROMPTS]

    def ours() -> tuple[list[float], list[np.ndarray]]:
        seconds, found = [], []
        start = time.perf_counter()
        views = engine.perceive([image])
        for prompt in prompts:
            found.append(engine.answer(views, [prompt])[0].logits > 0)
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
        return seconds, found

    ours()  # the first pass of a process also sets up libraries
    seconds, found = ours()
    views = engine.perceive([image])
    start = time.perf_counter()
    engine.answer(views * len(prompts), prompts)
    batched = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    model.reader.language.set_attn_implementation("eager")
    slow, agree = [], []
    for prompt, mine in zip(prompts[:3], found, strict=False):
        start = time.perf_counter()
        theirs = naive(engine, image, prompt)
        slow.append(time.perf_counter() - start)
        agree.append(_iou(mine, theirs))
    facts: dict[str, Any] = {
        "precision": precision, "seconds": seconds, "naive": slow, "batched": batched, "peak_gib": peak,
        "naive_iou": min(agree),
    }  # fmt: skip
    stack = np.stack(found)
    if masks.exists():
        facts["iou"] = [_iou(a, b) for a, b in zip(stack, np.load(masks), strict=True)]
    else:
        np.save(masks, stack)
    return facts


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _show(facts: dict[str, Any]) -> None:
    slow = sum(facts["naive"]) / len(facts["naive"])
    print(f"\n{facts['precision']}: naive {slow:.2f} s an instruction, peak {facts['peak_gib']:.1f} GiB without it")
    for i, seconds in enumerate(facts["seconds"], 1):
        agree = f"  IoU with the first precision {facts['iou'][i - 1]:.3f}" if "iou" in facts else ""
        print(f"  instruction {i:2d}  {seconds:6.3f} s  {slow / seconds:5.1f}x{agree}")
    count = len(facts["seconds"])
    print(f"  {count} in one call {facts['batched'] / count:6.3f} s each  {slow * count / facts['batched']:5.1f}x")
    print(f"  IoU with the naive schedule's masks: at least {facts['naive_iou']:.4f}")


def main() -> None:
    """Parse, measure each precision in its own process, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="unigeoseg-official")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=list(_DTYPES))
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's default")
    parser.add_argument("--masks", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.masks is not None:
        print(json.dumps(measure(options.preset, options.precision[0], options.masks)))
        return
    print(f"{options.preset}, {options.threads or torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for precision in options.precision:
            command = [sys.executable, __file__, "--preset", options.preset, "--precision", precision]
            command += ["--threads", str(options.threads), "--masks", str(Path(folder) / "masks.npy")]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            _show(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
