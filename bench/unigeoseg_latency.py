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


_BRANCHES = ("proj.weight", "fc2.weight", "linear2.weight")  # the ends of residual branches


def _scale(name: str, shape: torch.Size) -> tuple[float, float]:
    """Standard deviation and mean at which activations stay healthy through 24 layers (tests/golden/unigeoseg)."""
    leaf = name.rsplit(".", 1)[-1]
    if "embed_tokens" in name or leaf == "query":
        return 1.0, 0.0
    if leaf == "bias_table" or "level_embed" in name:
        return 0.5, 0.0
    if leaf == "bias":
        return 2.0 if "sampling_offsets" in name else 0.05, 0.0
    if leaf == "slots":
        return 0.05, 0.0
    if len(shape) == 1 or "connector.norm" in name:
        return 0.1, 1.0
    fan = float(np.prod(shape[1:]))
    branch = name.endswith(_BRANCHES) and not name.startswith("reader.") and ".value_proj" not in name
    return (0.4 if branch else 1.0) * fan**-0.5, 0.0


def generated(name: str, precision: str) -> UniGeoSeg:
    """The member with normal numbers of usual scale, seeded by name."""
    config = preset(name)
    assert config.causal is not None
    with init_empty_weights(include_buffers=False):
        model = UniGeoSeg(replace(config, causal=replace(config.causal, lm_head=False)))
    state, buffer = {}, torch.empty(1 << 20)  # one buffer, so that the peak is the model's
    for key, value in model.state_dict().items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        kind = _DTYPES[precision] if key.startswith(("vision.", "reader.")) else torch.float32
        state[key] = torch.empty(value.shape, dtype=kind)
        scale, mean = _scale(key, value.shape)
        for part in state[key].view(-1).split(len(buffer)):  # the same numbers in each precision
            part.copy_(buffer[: len(part)].normal_(mean, scale, generator=generator))
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
    from terraprompt.geometry.frame import Frame

    model = engine.model
    picture = letterboxed(image, Frame.letterbox(image.shape[:2], engine.size))
    x = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    model.encode_image(x)
    features = model.encode_image(x)
    pixels = model.decode_pixels(features)
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
    drawn = model.predict_masks(model.encode_text(dialogue, features[-1]), pixels, dialogue.image)
    full = F.interpolate(drawn.logits[-1][:, None], size=(engine.size, engine.size), mode="bilinear")
    return (full[0, 0] > 0).numpy()


def measure(name: str, precision: str, masks: Path, turns: int) -> dict[str, Any]:
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
        views = engine.encode([image])
        for prompt in prompts:
            found.append(engine.predict(views, [prompt])[0].logits > 0)
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
        return seconds, found

    def together() -> float:
        views = engine.encode([image])
        start = time.perf_counter()
        engine.predict(views * len(prompts), prompts)
        return time.perf_counter() - start

    ours()  # the first pass of a process also sets up libraries
    together()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    # ours and the naive schedule take turns, so that what else the machine does falls on both
    mine, batched, agree = [], [], []
    slow: list[list[float]] = [[], []]  # of texts, of points and boxes, whose sentences are longer
    for turn in range(turns):
        seconds, found = ours()
        mine.append(seconds)
        batched.append(together())
        model.reader.language.set_attn_implementation("eager")
        if turn == 0:
            naive(engine, image, prompts[0])
        for prompt, one in zip(prompts[:3], found, strict=False):
            start = time.perf_counter()
            theirs = naive(engine, image, prompt)
            slow[prompt.is_spatial].append(time.perf_counter() - start)
            agree.append(_iou(one, theirs))
        model.reader.language.set_attn_implementation("sdpa")
    facts: dict[str, Any] = {
        "precision": precision, "threads": torch.get_num_threads(), "seconds": np.median(mine, 0).tolist(),
        "naive": [float(np.median(kind)) for kind in slow],
        "batched": float(np.median(batched)), "peak_gb": peak, "naive_iou": min(agree),
        "spatial": [prompt.is_spatial for prompt in prompts], "share": [float(one.mean()) for one in found],
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


def _show(facts: dict[str, Any], first: dict[str, Any]) -> None:
    slow, base = facts["naive"], first["naive"]
    print(f"\n{facts['precision']}, threads: {facts['threads']}, peak {facts['peak_gb']:.1f} GB")
    print(f"naive schedule (not in the peak): {slow[0]:.2f} s a text, {slow[1]:.2f} s a box\n")
    other = facts is not first
    head = ["instruction", "seconds", f"times faster than naive {facts['precision']}"]
    head += [f"than naive {first['precision']}", f"IoU with {first['precision']}"] if other else []
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    count = len(facts["seconds"])
    spatial = facts["spatial"]
    names = [f"{i}{', points or box' if one else ''}" for i, one in enumerate(spatial, 1)]
    lines = list(zip(names, facts["seconds"], [float(one) for one in spatial], strict=True))
    lines.append((f"{count} in one call, each", facts["batched"] / count, sum(spatial) / count))
    for i, (name, seconds, share) in enumerate(lines):
        times = [(one[0] * (1 - share) + one[1] * share) / seconds for one in (slow, base)]
        cells = [name, f"{seconds:.3f}", f"{times[0]:.1f}"]
        if other:
            cells += [f"{times[1]:.1f}", f"{facts['iou'][i]:.3f}" if i < count else ""]
        print("| " + " | ".join(cells) + " |")
    shares, same = facts["share"], facts["naive_iou"]
    print(
        f"\nmasks fill {min(shares):.2f} to {max(shares):.2f} of the image; IoU with the naive schedule's >= {same:.4f}"
    )


def main() -> None:
    """Parse, measure each precision in its own process, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="unigeoseg-official")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=list(_DTYPES))
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's default")
    parser.add_argument("--turns", type=int, default=3, help="medians are over this many")
    parser.add_argument("--masks", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.masks is not None:
        print(json.dumps(measure(options.preset, options.precision[0], options.masks, options.turns)))
        return
    print(f"{options.preset}, torch {torch.__version__}")
    first: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in options.precision:
            command = [sys.executable, __file__, "--preset", options.preset, "--precision", precision]
            command += ["--threads", str(options.threads), "--turns", str(options.turns)]
            command += ["--masks", str(Path(folder) / "masks.npy")]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            facts = json.loads(done.stdout.splitlines()[-1])
            first = first or facts
            _show(facts, first)


if __name__ == "__main__":
    main()
