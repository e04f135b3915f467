"""From kept answers to scores: joins predictions to truths under a protocol, without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.sample import Sample
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.evaluation.predictions import EvalItem, Prediction
from terraprompt.evaluation.protocols import Protocol
from terraprompt.evaluation.scored_prediction import ScoredPrediction, Status
from terraprompt.io.files import replacing
from terraprompt.io.progress import Progress
from terraprompt.raster.pictures import picture_size

__all__ = ["can_score", "items_of", "read_scores", "score_predictions", "truth_of", "write_scores"]


def can_score(protocol: Protocol, sample: Sample) -> bool:
    """Whether the sample has the truth that the protocol compares with: a box is no mask."""
    return sample.truth is not None or protocol.shape != "mask"


def items_of(samples: Sequence[Sample], predictions: Iterable[Prediction]) -> list[EvalItem]:
    """The questions that kept predictions answer.

    Raises:
        DatasetError: a prediction for a sample that the data set does not have.
    """
    known = {sample.id: sample for sample in samples}
    items = []
    for row in predictions:
        if row.sample_id not in known:
            raise DatasetError(
                "There is a prediction for a sample that the data set does not have.",
                received=row.sample_id,
                hint="Give the data set, the split and the seed that the predictions were made on.",
            )
        items.append(EvalItem(known[row.sample_id], row.instruction_index))
    return items


def truth_of(sample: Sample) -> NDArray[np.uint8]:
    """uint8 (height, width), 1 = target: the mask, or the filled box where the data set has boxes only.

    Raises:
        DatasetError: the truth or the image is missing or damaged.
    """
    if sample.truth is not None or sample.box is None:
        return sample.load_mask()
    width, height = picture_size(sample.image)
    out = np.zeros((height, width), np.uint8)
    x0, y0, x1, y1 = (max(0, round(v)) for v in sample.box)
    out[y0:y1, x0:x1] = 1
    return out


def score_predictions(
    items: Sequence[EvalItem],
    predictions: Sequence[Prediction],
    protocol: Protocol,
    *,
    progress: Progress | None = None,
) -> list[ScoredPrediction]:
    """Score answers, in the order of the questions; skipped samples have none.

    Args:
        items: side by side.
        predictions: as ``items``.
        protocol: whose rules.
        progress: called with (done, all).

    Raises:
        DatasetError: a truth is missing, damaged or of another size than the answer; the message names the sample.
    """
    ids = [item.sample.id for item in items]
    several = len(set(ids)) < len(ids)
    out = []
    for i, (item, row) in enumerate(zip(items, predictions, strict=True), start=1):
        if row.status != "skipped":
            name = f"{row.sample_id}#{row.instruction_index}" if several else row.sample_id
            out.append(_score(item, row, protocol, name))
        if progress is not None:
            progress(i, len(items))
    return out


def _score(item: EvalItem, row: Prediction, protocol: Protocol, name: str) -> ScoredPrediction:
    sample = item.sample
    try:
        truth = truth_of(sample)
    except DatasetError as error:
        raise DatasetError(f'The sample "{sample.id}" is broken: {error.what}', received=error.received) from error
    mask = None if row.mask is None else row.mask.load()
    if mask is not None and not protocol.grid.joins(mask.shape, truth.shape):
        raise DatasetError(
            f'The prediction for "{sample.id}" has another size than its truth.',
            received=f"{mask.shape}, {truth.shape}",
            hint="Give the copy of the data set that the predictions were made on.",
        )
    score = protocol.score(
        mask, truth, sample_id=name, status=cast("Status", row.status), reason=row.reason if mask is None else None,
        category=sample.category, task=sample.task.value, level=sample.level, source=sample.source or None,
    )  # fmt: skip
    return replace(score, item=item, prediction=row)


def write_scores(path: Path, scores: Iterable[ScoredPrediction], *, overwrite: bool = False) -> None:
    """One score a line, JSON; numbers come back exactly."""
    target = replacing(path, overwrite, kind="lines", suffixes=(".jsonl", ".ndjson"))
    with target as temporary, temporary.open("w", encoding="utf-8") as lines:
        for score in scores:
            lines.write(json.dumps(score.to_row()) + "\n")


def read_scores(path: Path) -> list[ScoredPrediction]:
    """The inverse of :func:`write_scores`.

    Args:
        path: the file, or the run folder that holds it.

    Raises:
        DatasetError: no such file, or a broken line.
        ConfigError: nothing in it.
    """
    path = path / "scores.jsonl" if path.is_dir() else path
    try:
        scores = [ScoredPrediction(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise DatasetError(
            "There are no scores.", received=path, hint="Give the output folder of a finished `terraprompt evaluate`."
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DatasetError(f"A file of scores cannot be read ({error}).", received=path) from error
    if not scores:
        raise ConfigError("There is nothing to compare.", received=path)
    return scores
