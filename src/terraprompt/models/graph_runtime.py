"""Runs the graphs that :mod:`terraprompt.models.unigeoseg.graphs` writes, with weights from outside; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from terraprompt.errors import CheckpointError

__all__ = ["GRAPHS", "PLACE", "graph_session"]

#: Inputs and outputs of each graph.
GRAPHS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "image": (("images",), ("res2", "res3", "res4", "res5")),
    "pixels": (("res2", "res3", "res4", "res5"), ("mask", "s32", "s16", "s8")),
    "prompted": (("res2", "res3", "res4", "res5", "points", "boxes"), ("mask", "s32", "s16", "s8")),
    "query": (("states", "tokens", "task", "coordinates", "res5"), ("query",)),
    "masks": (("query", "mask", "s32", "s16", "s8"), ("logits", "presence")),
}
#: Where a graph says that its weights are.
PLACE = "weights"


def graph_session(path: Path, weights: Mapping[str, NDArray[Any]], *, threads: int = 0) -> Any:
    """An ONNX Runtime session of a graph on the CPU.

    Args:
        path: of the graph.
        weights: values of its initialisers by name, of all that lack them.
        threads: of one operation; 0 = as many as there are cores.

    Raises:
        CheckpointError: the file is missing or damaged, or the weights are of another architecture.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    values = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    options.add_external_initializers(
        list(values), [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in values.values()]
    )
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common base
        raise CheckpointError("A graph does not run with these weights.", received=f"{path}: {error}") from error
