"""The best, median and worst answers of a run, as pictures with what was asked and what the system said."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terraprompt.errors import PromptError
from terraprompt.evaluation.scored_prediction import ScoredPrediction
from terraprompt.evaluation.scoring import truth_of
from terraprompt.outputs.formats.picture import blend, mark
from terraprompt.prompt import Prompt

__all__ = ["choose_cases", "panels"]

_TRUTH, _PREDICTED = (60, 200, 120), (255, 64, 129)


def choose_cases(scored: Sequence[ScoredPrediction], *, each: int = 4) -> list[tuple[str, ScoredPrediction]]:
    """Pairs of "best", "median" or "worst" and an answer, by IoU; the same for the same scores.

    True negatives have IoU 1 and nothing to show: best and median come from samples with a target. Equal IoUs are
    ordered by the hashed id, because neighbours in a data set are alike. An image is shown once; of few images each
    kind gets its share.
    """

    def place(one: ScoredPrediction) -> tuple[float, str]:
        return one.iou, hashlib.sha256(one.sample_id.encode()).hexdigest()

    everything = sorted(scored, key=place)
    targets = [one for one in everything if one.truth > 0]
    middle = len(targets) // 2
    outward = sorted(range(len(targets)), key=lambda i: (abs(i - middle), i))
    candidates = {
        "best": iter(targets[::-1]),
        "median": iter([targets[i] for i in outward]),
        "worst": iter(everything),
    }
    chosen: dict[str, list[tuple[str, ScoredPrediction]]] = {kind: [] for kind in candidates}
    seen: set[object] = set()
    for _ in range(each):
        for kind in ("worst", "best", "median"):
            for one in candidates[kind]:
                if one.item is not None and one.item.sample.image not in seen:
                    seen.add(one.item.sample.image)
                    chosen[kind].append((kind, one))
                    break
    return [case for cases in chosen.values() for case in cases]


def panels(one: ScoredPrediction, *, side: int = 320) -> dict[str, str]:
    """Pictures of a case as data URIs: "image" with the prompt's points and boxes, "truth", and "prediction" with the
    points and boxes that the system used on its way; a failure has no prediction.

    Args:
        one: the case.
        side: longer side of a picture, pixels.

    Raises:
        DatasetError: image or truth are missing or damaged.
    """
    assert one.item is not None
    assert one.prediction is not None
    sample = one.item.sample
    image = sample.load_image()
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    factor = size[1] / width, size[0] / height
    picture = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)
    small = np.asarray(picture)

    asked = picture.copy()
    if sample.points or sample.boxes:
        mark(asked, Prompt(points=sample.points, labels=sample.labels, boxes=sample.boxes), factor)
    out = {"image": _uri(asked), "truth": _uri(_overlay(small, truth_of(sample), _TRUTH))}
    if one.prediction.mask is not None:
        answered = _overlay(small, one.prediction.mask.load(), _PREDICTED)
        for used in evidence(one.prediction.notes):
            mark(answered, used, factor)
        out["prediction"] = _uri(answered)
    return out


def evidence(notes: Mapping[str, Any]) -> list[Prompt]:
    """Points and boxes in an engine's notes, as prompts that can be drawn; what has no such form is left out."""
    found = []
    for answer in notes.get("answers", ()):
        points = [p for p in answer.get("points") or () if _is_numbers(p, 2)]
        boxes = [b[:4] for b in answer.get("boxes") or () if _is_numbers(b, 4) and b[0] != b[2] and b[1] != b[3]]
        labels = tuple(1 if len(p) < 3 or p[2] else 0 for p in points)
        try:
            found.append(Prompt(points=tuple((p[0], p[1]) for p in points), labels=labels, boxes=tuple(boxes)))
        except PromptError:
            continue  # nothing that can be drawn
    return found


def _is_numbers(value: Any, least: int) -> bool:
    return isinstance(value, list) and len(value) >= least and all(isinstance(v, int | float) for v in value)


def _overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8], colour: tuple[int, int, int]) -> Image.Image:
    size = image.shape[:2]
    how = Image.Resampling.BOX if mask.shape[0] > size[0] else Image.Resampling.NEAREST
    flags = Image.fromarray((mask != 0).view(np.uint8) * np.uint8(255)).resize(size[::-1], how)
    cover = np.asarray(flags, np.float32) / np.float32(255)
    return Image.fromarray(blend(image, cover, np.zeros(size, bool), fill=colour))


def _uri(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.convert("RGB").save(data, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
