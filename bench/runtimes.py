"""nano on torch and on ONNX Runtime, side by side on one thread: seconds by question, as ratios; equality beside them.

Run: python bench/runtimes.py [--rounds 15]
Rounds alternate, and of each pair the ratio is taken; the median and its middle half are printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from terraprompt.engines.base import Embedding, Engine
from terraprompt.engines.unigeoseg import nano
from terraprompt.prompt import Prompt
from terraprompt_synthetic import render

TEXT, NEXT = Prompt(text="the buildings"), Prompt(text="where a truck could drive")
CLICK, BOX = Prompt(points=((120.0, 130.0),)), Prompt(boxes=((60.0, 60.0, 160.0, 180.0),))


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    engines = nano(), nano(runtime="onnx", threads=1)
    print("| tile | question | torch, s | onnx, s | torch / onnx (middle half) | largest difference of logits |")
    print("| --- | --- | --- | --- | --- | --- |")
    for side in (512, 256):
        image = render(3, width=side, height=side, gsd_m=0.3, style="suburb").rgb
        seen = [engine.encode([image]) for engine in engines]
        for label, prompt in (("first text", TEXT), ("next text", NEXT), ("click", CLICK), ("box", BOX)):
            kept = [None, None] if label == "first text" else seen
            asked = [
                partial(_answer, engine, image, known, prompt) for engine, known in zip(engines, kept, strict=True)
            ]
            answers = [ask() for ask in asked]
            took = np.array([[_seconds(ask) for ask in asked] for _ in range(rounds)])
            low, middle, high = np.percentile(took[:, 0] / took[:, 1], (25, 50, 75))
            far = float(np.abs(answers[0] - answers[1]).max())
            a, b = np.median(took, axis=0)
            print(
                f"| {side} | {label} | {a:.3f} | {b:.3f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {far:.1e} |",
                flush=True,
            )


def _answer(
    engine: Engine, image: NDArray[np.uint8], kept: list[Embedding] | None, prompt: Prompt
) -> NDArray[np.float32]:
    """Logits of a prompt, on what was kept of the image or on the image anew."""
    (answer,) = engine.predict(engine.encode([image]) if kept is None else kept, [prompt])
    return answer.logits


def _seconds(ask: Callable[[], object]) -> float:
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
