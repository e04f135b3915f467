"""Counting 100,000 mask pairs from run lengths, against making them dense, in the same run.

    python bench/metrics.py [--pairs 100000] [--dense 2000] [--size 512]

The masks: what overhead labels look like (buildings and fields as rotated rectangles, lakes as blobs, a road now and
then; 1 to 60 parts, half of the images with fewer than 8), and an answer that has every part shifted and resized by a
few pixels, some parts missed and some invented; one pair in twenty has no target. Their run lengths take some 1,000
bytes, as those of real label masks of that size do. Distinct pairs are few (``--distinct``) and repeat, each as its own
object in memory. CPU seconds are said too: on a busy machine they are what counts.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from terraprompt.geometry.types import Mask

T = TypeVar("T")


def parts(rng: np.random.Generator, size: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Kind and (x, y, half width, half height, angle) of each part of one image, in pixels and radians."""
    count = int(min(60, 1 + rng.lognormal(1.9, 1.0)))
    scale = size / 512 * rng.uniform(0.6, 1.8)
    if rng.random() < 0.15:
        yield "box", np.array([size / 2, rng.uniform(0, size), size, 5 * scale, rng.uniform(-1, 1)])
    kind = "blob" if rng.random() < 0.3 else "box"
    for _ in range(count):
        x, y = rng.uniform(0, size, 2)
        a, b = rng.lognormal(2.3, 0.5, 2) * scale
        yield kind, np.array([x, y, a, b, rng.uniform(0, np.pi)])


def paint(mask: Mask, kind: str, part: NDArray[np.float64]) -> None:
    x, y, a, b, angle = part
    reach = np.hypot(a, b) * 1.3
    y0, y1, x0, x1 = (int(np.clip(v, 0, len(mask))) for v in (y - reach, y + reach + 1, x - reach, x + reach + 1))
    dy, dx = np.mgrid[y0:y1, x0:x1].astype(np.float64) + 0.5 - np.array([y, x])[:, None, None]
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / a
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / b
    if kind == "box":
        inside = (np.abs(u) < 1) & (np.abs(v) < 1)
    else:
        inside = np.hypot(u, v) < 1 + 0.15 * np.sin(5 * np.arctan2(v, u) + angle)
    mask[y0:y1, x0:x1] |= inside


def pair(rng: np.random.Generator, size: int) -> tuple[Mask, Mask]:
    """(predicted, truth) uint8 (size, size)."""
    predicted, truth = np.zeros((2, size, size), np.uint8)
    has_target = rng.random() > 0.05
    for kind, part in parts(rng, size):
        if has_target:
            paint(truth, kind, part)
        if rng.random() < (0.9 if has_target else 0.1):
            paint(predicted, kind, part + rng.normal(0, (2, 2, 1, 1, 0.05)) * (1, 1, part[2] / 20, part[3] / 20, 1))
    return predicted, truth


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def timed(name: str, count: int, work: Callable[[], T]) -> tuple[T, float]:
    """Result and CPU seconds a pair, of all processes."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    found = work()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    print(f"{name:<30}{count:>8,} pairs {wall:7.2f} s, {cpu:.2f} s of CPU: {1e6 * cpu / count:7.1f} us a pair")
    return found, cpu / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=2_000)
    parser.add_argument("--dense", type=int, default=2_000, help="pairs that are also counted densely")
    parser.add_argument("--size", type=int, default=512)
    given = parser.parse_args()
    # Not at the top: helper processes load this file too, and need none of it.
    from terraprompt.evaluation.metrics import Overlap
    from terraprompt.io.rle import RunLengths, overlaps

    rng = np.random.default_rng(0)
    masks = [pair(rng, given.size) for _ in range(min(given.distinct, given.pairs))]
    rles = [(RunLengths.encode(p), RunLengths.encode(t)) for p, t in masks]
    lengths = [len(rle.counts) for both in rles for rle in both]
    print(f"{given.size} x {given.size} pixels, run lengths {np.mean(lengths):,.0f} bytes a mask on average")
    # Encoded and decoded: every pair has its own string, so that nothing is faster for having been seen before.
    pairs = [
        tuple(replace(rle, counts=rle.counts.encode().decode()) for rle in rles[i % len(rles)])
        for i in range(given.pairs)
    ]

    found, ours = timed("run lengths, one process", len(pairs), lambda: overlaps(pairs))
    shared, _ = timed("run lengths, two processes", len(pairs), lambda: overlaps(pairs, processes=2))
    some = pairs[: given.dense]
    dense, theirs = timed("decoded, then dense", len(some), lambda: [Overlap.of(p.load(), t.load()) for p, t in some])
    ready, bare = timed(
        "dense masks already in memory",
        len(some),
        lambda: [Overlap.of(*masks[i % len(masks)]) for i in range(len(some))],
    )
    equal = dense == ready and np.array_equal(shared.intersection, found.intersection)
    equal = equal and all(
        (o.intersection, o.predicted, o.truth) == counts
        for o, counts in zip(dense, zip(found.intersection, found.predicted, found.truth, strict=True), strict=False)
    )
    print(f"run lengths are {theirs / ours:.1f} x faster than decoding, {bare / ours:.1f} x than dense masks at hand")
    print(f"equal to the dense counts: {'yes' if equal else 'NO'}")
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
