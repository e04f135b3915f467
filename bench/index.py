"""How fast an index of a million samples opens, and how fast any one of them is there: Parquet by size of its row
groups, beside Arrow IPC and JSON lines.

Run: python bench/index.py [--samples 1000000] [--kept DIR]
Wanted: open < 0.5 s, a random record < 1 ms. The samples are made up, with paths, sentences and lengths like those of
GeoSeg-1M; each format holds the same JSON records. "first" is the first random record after opening.
"""

from __future__ import annotations

import argparse
import json
import mmap
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from terraprompt.datasets.coding import decode_sample, encode_sample
from terraprompt.datasets.index import ROW_GROUP, open_index, write_index
from terraprompt.datasets.sample import MaskFile, Sample
from terraprompt.prompt import Task

SENTENCE = (
    "the large white building in upper left corner of picture beside wide road and parking lot near river bank with "
    "trees around it that could serve as a place where ships are loaded when water is high"
)
WORDS = SENTENCE.split()
READS = 1000


def samples(count: int, root: Path) -> Iterator[Sample]:
    """Made-up samples, the same for every format."""
    rng = np.random.default_rng(0)
    said = [[" ".join(WORDS[k] for k in rng.integers(len(WORDS), size=n)) for n in (18, 9)] for _ in range(20011)]
    for i in range(count):
        sentence, reason = f"{said[i % len(said)][0]} number {i}", said[i * 7 % len(said)][1]
        folder = ("interactive", "referring", "reasoning")[i % 3]
        yield Sample(
            id=f"{folder}/jsons/{i:07d}",
            image=root / folder / "images" / f"{i // 2:07d}.png",
            task=Task(folder) if folder != "interactive" else Task.REFERRING,
            instructions=(sentence,),
            truth=MaskFile(root / folder / "masks" / f"{i:07d}.png", (255,)),
            answer=(reason,),
            category=WORDS[i % 20],
            split="train",
            source="geoseg-1m",
        )


def measure(name: str, path: Path, opening: Callable[[], Callable[[int], Sample]], count: int) -> list[str]:
    """One row of the table."""
    places = np.random.default_rng(1).integers(count, size=READS).tolist()
    start = time.perf_counter()
    get = opening()
    opened = time.perf_counter() - start
    took = []
    for i in places:
        start = time.perf_counter()
        sample = get(i)
        took.append(1e3 * (time.perf_counter() - start))
        assert sample.id.endswith(f"{i:07d}")
    return [
        name, f"{path.stat().st_size / 1e6:.0f} MB", f"{opened:.3f} s", f"{took[0]:.2f} ms",
        f"{np.median(took):.3f} ms", f"{np.percentile(took, 99):.3f} ms", f"{max(took):.2f} ms",
    ]  # fmt: skip


def arrow(path: Path, root: Path, count: int) -> Callable[[], Callable[[int], Sample]]:
    """An uncompressed, memory-mapped Arrow IPC file."""
    schema = pa.schema([("record", pa.binary())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        rows: list[bytes] = []
        for sample in samples(count, root):
            rows.append(json.dumps(encode_sample(sample, root), separators=(",", ":")).encode())
            if len(rows) == 65536:
                writer.write_batch(pa.record_batch({"record": rows}, schema=schema))
                rows = []
        writer.write_batch(pa.record_batch({"record": rows}, schema=schema))

    def opening() -> Callable[[int], Sample]:
        column: Any = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("record")
        return lambda i: decode_sample(json.loads(column[i].as_py()), root)

    return opening


def lines(path: Path, root: Path, count: int) -> Callable[[], Callable[[int], Sample]]:
    """JSON lines: opening has to look for every line's end."""
    with path.open("wb") as file:
        for sample in samples(count, root):
            file.write(json.dumps(encode_sample(sample, root), separators=(",", ":")).encode() + b"\n")

    def opening() -> Callable[[int], Sample]:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1])
        return lambda i: decode_sample(json.loads(data[starts[i] : ends[i]]), root)

    return opening


def main() -> None:
    """Write each format, open it, read a thousand random records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--kept", type=Path, help="where the files go; without it a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.kept or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        head = ["format", "size", "open", "first", "median", "99 %", "slowest"]
        print(f"{args.samples} samples, {READS} random records\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
        for size in sorted({32, ROW_GROUP, 1024}):
            path = root / f"{size}.parquet"
            write_index(path, samples(args.samples, root), root, row_group=size)
            name = f"Parquet, {size} rows a group" + (" (ours)" if size == ROW_GROUP else "")
            row = measure(name, path, lambda path=path: open_index(path).__getitem__, args.samples)  # type: ignore[misc]
            print(f"| {' | '.join(row)} |", flush=True)
            path.unlink()
        for name, path, make in (("Arrow IPC", root / "a.arrow", arrow), ("JSON lines", root / "a.jsonl", lines)):
            row = measure(name, path, make(path, root, args.samples), args.samples)
            print(f"| {' | '.join(row)} |", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
