"""GeoSeg with a reasoner whose boxes are shifted: `official` against `calibrated`, and what each part is worth.

python bench/geoseg_shift.py [--targets 100] [--seed 0] [--out runs/geoseg]

A real HTTP endpoint answers from the labels of the image pack (TERRAPROMPT_DATA or ../shared/data), with a planted
fault. One query a target: a connected part of a val mask. `nano` draws both routes. The calibration is made by
`terraprompt reasoner calibrate` on boxes of the train split, one for each fault. Runs that are in --out are not made
again; the tables are printed as Markdown.

Faults, each edge of a box moved at random by 6 % of the side (deviation) but in `exact`:

- exact: the label's box;
- jitter: nothing else;
- shift: moved to the right and down by a quarter of its sides;
- units: answered in 0..1000 about a square of 800 pixels, while the reader is told pixels: a quarter of its *position*.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from endpoint_server import Asked, EndpointServer, Say, endpoint_server
from terraprompt.datasets.pack import Record, find_pack, read_pack
from terraprompt.engines.geoseg import GeoSegEngine, geoseg
from terraprompt.evaluation.intervals import bootstrap
from terraprompt.pipeline import Session
from terraprompt.prompt import Prompt
from terraprompt.reasoners.conventions import View
from terraprompt.scene import open_scene

SIDE = 800  # of the square that the reasoner is shown
SHIFT, JITTER = 0.25, 0.06
FAULTS = ("exact", "jitter", "shift", "units")
_TASK = re.compile(r"^Task: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """One connected part of a mask, and the query for it."""

    key: str
    record: Record
    category: str
    truth: np.ndarray
    box: tuple[float, float, float, float]

    @property
    def query(self) -> str:
        return f"the {self.category.replace('_', ' ')} with the number {self.key}"


def chosen(records: list[Record], count: int, seed: int, *, each: int = 6) -> list[Target]:
    """Parts of masks that a box can mean: no thin scraps, none that fills the image; a few an image."""
    found: list[Target] = []
    rng = np.random.default_rng(seed)
    for record in records:
        if record.label_kind != "mask":
            continue
        for category in record.present:
            if category == "road":  # a net, not an object
                continue
            labels, _ = ndimage.label(record.load_mask(category), np.ones((3, 3)))
            parts = []
            for i, (ys, xs) in enumerate(ndimage.find_objects(labels), 1):
                sides = ys.stop - ys.start, xs.stop - xs.start
                if min(sides) >= 12 and max(sides) <= 0.6 * max(record.width, record.height):
                    parts.append((i, (float(xs.start), float(ys.start), float(xs.stop), float(ys.stop))))
            for k in sorted(rng.permutation(len(parts))[:each].tolist()):
                i, box = parts[k]
                found.append(Target(f"{len(found):04d}", record, category, labels == i, box))
    take = sorted(rng.permutation(len(found))[:count].tolist())
    return [found[i] for i in take]


class Oracle:
    """Answers from labels: about a val target by the number in the query, about a train image by its pixels."""

    def __init__(self, targets: list[Target], train: list[Record]) -> None:
        self.fault = "exact"
        self._targets = {target.query: target for target in targets}
        view = View("square", side=SIDE)
        self._train = {_digest(view.shown(record.load_image())): record for record in train}

    def __call__(self, asked: Asked) -> Say:
        task = _TASK.search(asked.words)
        assert task is not None
        known = self._targets.get(task[1])
        if known is not None:
            size, name, boxes = (known.record.height, known.record.width), known.category, [known.box]
        else:
            record = self._train[_digest(asked.image)]
            name = task[1].removeprefix("every ").replace(" ", "_")
            size, boxes = (record.height, record.width), record.boxes(name).tolist()
        items = [self._faulty(box, size, f"{task[1]} {i}") for i, box in enumerate(boxes)]
        phrase = name.replace("_", " ")
        if '{"bbox": [' in asked.words:
            return Say(json.dumps({"bbox": items[0], "prompt": phrase}))
        return Say("```json\n" + json.dumps([{"bbox_2d": box, "label": phrase} for box in items]) + "\n```")

    def _faulty(self, box: Any, size: tuple[int, int], seed: str) -> list[float]:
        x0, y0, x1, y1 = box
        edges = np.array([x0, y0, x1, y1], np.float64)
        sides = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
        if self.fault != "exact":
            rng = np.random.default_rng(list(seed.encode()))
            edges = edges + JITTER * sides * rng.standard_normal(4)
        if self.fault == "shift":
            edges = edges + SHIFT * sides
        reach = 1000 if self.fault == "units" else SIDE
        return [round(float(v), 1) for v in edges * reach / np.array([size[1], size[0]] * 2)]


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def calibrated(server: EndpointServer, data: Path, path: Path) -> Path:
    """The calibration of the endpoint as it answers now, made on the train split by the command."""
    if not path.exists():
        command = [sys.executable, "-m", "terraprompt", "reasoner", "calibrate", "--data", data, "--split", "train",
                   "--endpoint", server.url, "--model", "oracle", "--units", "pixels", "--side", SIDE, "-o", path,
                   "--limit", 32, "-q"]  # fmt: skip
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if not path.exists():
            raise SystemExit(done.stderr)
        path.with_suffix(".txt").write_text(done.stdout)
    return path


def answered(engine: GeoSegEngine, targets: list[Target], *, box_alone: bool = False) -> dict[str, Any]:
    """IoU, rule and cost of each target."""
    out: dict[str, Any] = {}
    for target in targets:
        with open_scene(target.record.image) as scene:
            session = Session(engine, scene, cache_bytes=0)
            if box_alone:  # the segmenter with the corrected box, no route
                proposals = engine.propose(session.preview(scene.height, scene.width), target.query)
                boxes = tuple(box for prompt in proposals.prompts for box in prompt.boxes)
                result = session.segment(Prompt(boxes=boxes))
            else:
                result = session.segment(target.query)
            with result:
                mask = result.mask() == 1 if result.status.value != "failed" else np.zeros_like(target.truth)
                drawn = [part.get("fusion", {}).get("rule") for part in result.notes.get("targets", [])]
                union = np.count_nonzero(mask | target.truth)
                out[target.key] = {
                    "iou": np.count_nonzero(mask & target.truth) / union,
                    "status": result.status.value,
                    "reason": result.reason,
                    "rule": drawn[0] if drawn else None,
                    "cost": result.notes.get("cost"),
                }
    return out


@contextmanager
def clocked(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"<!-- {name}: {time.perf_counter() - start:.0f} s -->", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/geoseg"))
    args = parser.parse_args()
    data = args.data or find_pack()
    if data is None:
        raise SystemExit("No image pack: set TERRAPROMPT_DATA or give --data.")
    args.out.mkdir(parents=True, exist_ok=True)
    targets = chosen(read_pack(data, "val"), args.targets, args.seed)
    train = [record for record in read_pack(data, "train") if record.label_kind == "box"]
    oracle = Oracle(targets, train)
    with endpoint_server(oracle) as server:
        rows = _rows(server, data, args.out)
        done: dict[str, dict[str, Any]] = {}
        for name, fault, make, alone in rows:
            path = args.out / f"{args.seed}-{len(targets)}-{name.replace(' ', '_')}.json"
            if not path.exists():
                oracle.fault = fault
                with clocked(name):
                    path.write_text(json.dumps(answered(make(), targets, box_alone=alone), indent=0))
            done[name] = json.loads(path.read_text())
    _print(done, targets, args.seed, args.out)


def _rows(server: EndpointServer, data: Path, out: Path) -> list[tuple[str, str, Callable[[], GeoSegEngine], bool]]:
    """Name, fault, engine, and whether the box alone is drawn."""
    link: dict[str, Any] = {"endpoint": server.url, "model": "oracle", "units": "pixels", "side": SIDE}
    link |= {"asking": {"image_format": "jpeg"}}

    def ours(fault: str, **options: Any) -> Callable[[], GeoSegEngine]:
        return lambda: geoseg(**link, calibration=calibrated(server, data, out / f"{fault}.json"), **options)

    rows: list[tuple[str, str, Callable[[], GeoSegEngine], bool]] = []
    for fault in FAULTS:
        rows.append((f"{fault} official", fault, lambda: geoseg(**link, mode="official"), False))
        rows.append((f"{fault} calibrated", fault, ours(fault), False))
    for fault in ("shift", "jitter"):
        for name, options in PARTS.items():
            rows.append((f"{fault} {name}", fault, ours(fault, **options), False))
        rows.append((f"{fault} box alone", fault, ours(fault), True))
    return rows


#: Name of a row to options of the engine; all with the calibrated units.
PARTS: dict[str, dict[str, Any]] = {
    "no refine": {"refine": False},
    "fixed constants": {"alpha": 0.2, "beta": 0.1},
    "A only": {"routes": "A"},
    "B only": {"routes": "B"},
    "AND": {"fusion": "official"},
    "B only, no surroundings": {"routes": "B", "context": 0.0},
    "no presence": {"presence": False},
}


def _print(done: dict[str, dict[str, Any]], targets: list[Target], seed: int, out: Path) -> None:
    keys = [target.key for target in targets]
    iou = {name: np.array([row[key]["iou"] for key in keys]) for name, row in done.items()}
    kinds = {c: sum(t.category == c for t in targets) for c in sorted({t.category for t in targets})}
    print(f"\n{len(keys)} targets of the val split (seed {seed}): {', '.join(f'{n} {c}' for c, n in kinds.items())}.\n")
    print(
        "| fault | `official` | `calibrated` | difference | lost by `official` | recovered |\n|---|---|---|---|---|---|"
    )
    for fault in FAULTS:
        a, b = iou[f"{fault} official"], iou[f"{fault} calibrated"]
        base = iou["exact official" if fault in ("exact", "jitter") else "jitter official"]
        lost, share = base - a, ""
        if fault in ("shift", "units"):
            low, high = _share(b - a, lost, seed)
            share = f"{(b - a).mean() / lost.mean():.0%} [{low:.0%}, {high:.0%}]"
        print(f"| {fault} | {_cell(a, seed)} | {_cell(b, seed)} | {_cell(b - a, seed, sign=True)} | "
              f"{_cell(lost, seed, sign=True) if fault != 'exact' else ''} | {share} |")  # fmt: skip
    print("\nConstants fitted on the train split:\n")
    for fault in FAULTS:
        made = json.loads((out / f"{fault}.json").read_text())
        fit = made["fit"]
        print(f"- {fault}: read as {made['convention']['units']}, {made['advised']}, alpha {made['alpha']:.2f}, beta "
              f"{made['beta']:.2f}; box IoU {fit['iou_plain']:.3f} as answered, {fit['iou_fixed']:.3f} with the fixed "
              f"constants, {fit['iou_fitted']:.3f} fitted (leave-one-out, {fit['count']} pairs)")  # fmt: skip
    print("\n| part | shift | jitter |\n|---|---|---|")
    for name in ("calibrated", *PARTS, "box alone", "official"):
        print(f"| {name} | {_cell(iou[f'shift {name}'], seed)} | {_cell(iou[f'jitter {name}'], seed)} |")
    for name in ("shift official", "shift calibrated", "jitter calibrated"):
        rules = [row["rule"] for row in done[name].values()]
        counts = {str(rule): rules.count(rule) for rule in dict.fromkeys(rules)}
        print(f"\n{name}: {', '.join(f'{rule} {n}' for rule, n in counts.items())}")
    costs = [row["cost"] for row in done["jitter calibrated"].values() if row["cost"]]
    print(f"\nA query: {np.mean([c['calls'] for c in costs]):.1f} calls of models, "
          f"median {np.median([c['seconds'] for c in costs]):.2f} s.")  # fmt: skip


def _cell(values: np.ndarray, seed: int, *, sign: bool = False) -> str:
    low, high = bootstrap((100 * values).tolist(), seed=seed)
    form = "+.1f" if sign else ".1f"
    return f"{100 * values.mean():{form}} [{low:{form}}, {high:{form}}]"


def _share(gained: np.ndarray, lost: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the quotient of two means over the same targets."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(gained), size=(2000, len(gained)))
    shares = gained[picks].mean(axis=1) / lost[picks].mean(axis=1)
    low, high = np.percentile(shares, (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
