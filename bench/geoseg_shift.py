"""GeoSeg with a reasoner whose boxes are shifted: `official` against `calibrated`, and what each part is worth.

python bench/geoseg_shift.py [--targets 148] [--seed 0] [--out runs/geoseg]
python bench/geoseg_shift.py --study --targets 120 --seed 1   # train split: when are routes intersected

A real HTTP endpoint answers from the labels of the image pack (TERRAPROMPT_DATA or ../shared/data), with a planted
fault. One query a target: a connected part of a val mask. `nano` draws both routes. The calibration is made by
`terraprompt reasoner calibrate` on boxes of the train split, one for each fault. Runs that are in --out are not made
again; the tables are printed as Markdown. gIoU is the mean IoU over the targets.

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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from endpoint_server import Asked, EndpointServer, Say, endpoint_server
from terraprompt.datasets.pack import Record, find_pack, read_pack
from terraprompt.engines.geoseg import GeoSegEngine, geoseg
from terraprompt.evaluation.intervals import resampled_sums
from terraprompt.flow.session import Session
from terraprompt.geometry.connectivity import label
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene
from terraprompt.vlm.conventions import View

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
            labels, _ = label(record.load_mask(category))
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
    parser.add_argument("--targets", type=int, default=148, help="at most; the val split has 148 for any seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/geoseg"))
    parser.add_argument("--study", action="store_true", help="fusion on the train split, in place of the tables")
    args = parser.parse_args()
    data = args.data or find_pack()
    if data is None:
        raise SystemExit("No image pack: set TERRAPROMPT_DATA or give --data.")
    args.out.mkdir(parents=True, exist_ok=True)
    targets = chosen(read_pack(data, "train" if args.study else "val"), args.targets, args.seed)
    train = [record for record in read_pack(data, "train") if record.label_kind == "box"]
    oracle = Oracle(targets, train)
    with endpoint_server(oracle) as server:
        rows = _rows(server, data, args.out, study=args.study)
        done: dict[str, dict[str, Any]] = {}
        for name, fault, make, alone in rows:
            stem = f"{'train-' * args.study}{args.seed}-{len(targets)}"
            path = args.out / f"{stem}-{name.replace(' ', '_')}.json"
            if not path.exists():
                oracle.fault = fault
                with clocked(name):
                    path.write_text(json.dumps(answered(make(), targets, box_alone=alone), indent=0))
            done[name] = json.loads(path.read_text())
    if args.study:
        _print_parts(done, STUDY, targets, args.seed)
    else:
        _print(done, targets, args.seed, args.out)


Row = tuple[str, str, Callable[[], GeoSegEngine], bool]


def _rows(server: EndpointServer, data: Path, out: Path, *, study: bool) -> list[Row]:
    """Name, fault, engine, and whether the box alone is drawn."""
    link: dict[str, Any] = {"endpoint": server.url, "model": "oracle", "units": "pixels", "side": SIDE}
    link |= {"asking": {"image_format": "jpeg"}}

    def ours(fault: str, **options: Any) -> Callable[[], GeoSegEngine]:
        return lambda: geoseg(**link, calibration=calibrated(server, data, out / f"{fault}.json"), **options)

    if study:
        return [
            (f"{fault} {name}", fault, ours(fault, **options), False)
            for fault in ("shift", "jitter")
            for name, options in STUDY.items()
        ]
    rows: list[Row] = []
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
STUDY: dict[str, dict[str, Any]] = {
    "A only": {"routes": "A"},
    "B only": {"routes": "B"},
    "AND": {"fusion": "official"},
    **{f"AND from IoU {at}": {"disagreement": at} for at in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)},
}


def _print(done: dict[str, dict[str, Any]], targets: list[Target], seed: int, out: Path) -> None:
    keys = [target.key for target in targets]
    iou = {name: np.array([row[key]["iou"] for key in keys]) for name, row in done.items()}
    numbers = _Numbers(targets, seed)
    _print_targets(targets, "val", seed)
    print("| fault | `official` | `calibrated` | difference | `official` lost | `calibrated` recovered |")
    print("|---|---|---|---|---|---|")
    for fault in FAULTS:
        a, b = iou[f"{fault} official"], iou[f"{fault} calibrated"]
        lost, share = iou["exact official"] - a, ""
        if fault in ("shift", "units"):
            share = numbers.share(b - a, lost)
        print(f"| {fault} | {numbers.cell(a)} | {numbers.cell(b)} | {numbers.cell(b - a, sign=True)} | "
              f"{numbers.cell(lost, sign=True) if fault != 'exact' else ''} | {share} |")  # fmt: skip
    bare, whole = iou["shift no refine"], iou["exact calibrated"]
    print(f"\nOf what the shift costs `calibrated` itself without a calibration ({numbers.cell(whole - bare)}), "
          f"the calibration recovers {numbers.share(iou['shift calibrated'] - bare, whole - bare)}.")  # fmt: skip
    print("\nConstants fitted on the train split:\n")
    for fault in FAULTS:
        made = json.loads((out / f"{fault}.json").read_text())
        fit = made["fit"]
        print(f"- {fault}: read as {made['convention']['units']}, {made['advised']}, alpha {made['alpha']:.2f}, beta "
              f"{made['beta']:.2f}; box IoU {fit['iou_plain']:.3f} as answered, {fit['iou_fixed']:.3f} with the fixed "
              f"constants, {fit['iou_fitted']:.3f} fitted (leave-one-out, {fit['count']} pairs)")  # fmt: skip
    _print_rows(("calibrated", *PARTS, "box alone", "official"), iou, numbers)
    for name in ("shift official", "shift calibrated", "jitter calibrated"):
        rules = [row["rule"] for row in done[name].values()]
        counts = {str(rule): rules.count(rule) for rule in dict.fromkeys(rules)}
        print(f"\n{name}: {', '.join(f'{rule} {n}' for rule, n in counts.items())}")
    for name in ("jitter official", "jitter calibrated", "jitter A only", "jitter B only"):
        costs = [row["cost"] for row in done[name].values() if row["cost"]]
        print(f"\n{name}: {np.mean([c['calls'] for c in costs]):.1f} calls of models a query, "
              f"median {np.median([c['seconds'] for c in costs]):.2f} s.")  # fmt: skip


def _print_parts(done: dict[str, dict[str, Any]], parts: dict[str, Any], targets: list[Target], seed: int) -> None:
    keys = [target.key for target in targets]
    iou = {name: np.array([row[key]["iou"] for key in keys]) for name, row in done.items()}
    _print_targets(targets, "train", seed)
    _print_rows(tuple(parts), iou, _Numbers(targets, seed))


def _print_targets(targets: list[Target], split: str, seed: int) -> None:
    kinds = {c: sum(t.category == c for t in targets) for c in sorted({t.category for t in targets})}
    images = len({target.record.image for target in targets})
    print(f"\n{len(targets)} targets on {images} images of the {split} split (seed {seed}): "
          f"{', '.join(f'{n} {c}' for c, n in kinds.items())}.\n")  # fmt: skip


def _print_rows(names: tuple[str, ...], iou: dict[str, np.ndarray], numbers: _Numbers) -> None:
    print("\n| part | shift | jitter |\n|---|---|---|")
    for name in names:
        print(f"| {name} | {numbers.cell(iou[f'shift {name}'])} | {numbers.cell(iou[f'jitter {name}'])} |")


@dataclass(frozen=True)
class _Numbers:
    """Means over targets with 95 % intervals; images are resampled, not targets, which are alike within an image."""

    targets: list[Target]
    seed: int

    def cell(self, values: np.ndarray, *, sign: bool = False) -> str:
        """Mean in percent."""
        low, high = np.percentile(100 * self._quotients(values, np.ones(len(values))), (2.5, 97.5))
        form = "+.1f" if sign else ".1f"
        return f"{100 * values.mean():{form}} [{low:{form}}, {high:{form}}]"

    def share(self, gained: np.ndarray, lost: np.ndarray) -> str:
        """Quotient of two means."""
        low, high = np.percentile(self._quotients(gained, lost), (2.5, 97.5))
        return f"{gained.mean() / lost.mean():.0%} [{low:.0%}, {high:.0%}]"

    def _quotients(self, above: np.ndarray, below: np.ndarray) -> np.ndarray:
        _, image = np.unique([str(target.record.image) for target in self.targets], return_inverse=True)
        columns = np.stack([np.bincount(image, weights) for weights in (above, below)], axis=1)
        sums = resampled_sums(columns, seed=self.seed)
        quotients: np.ndarray = sums[:, 0] / sums[:, 1]
        return quotients


if __name__ == "__main__":
    main()
