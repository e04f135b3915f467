"""``nano`` on ONNX Runtime: the same weights and answers as with torch, which is not needed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec, check_pairs, checked_target
from terraprompt.engines.prompt_arrays import coordinate_rows, drawn_prompt, sentence_of
from terraprompt.engines.weights import card_categories, card_info, load_arrays
from terraprompt.errors import CheckpointError
from terraprompt.models.graph_runtime import GRAPHS, graph_session
from terraprompt.models.sentence_numpy import NumpySentenceEncoder, packaged_numpy_encoder
from terraprompt.prompt import Prompt, Task
from terraprompt.raster.pictures import checked_image

__all__ = ["OnnxEngine", "build_onnx"]

_Arrays = dict[str, NDArray[Any]]


class _View:
    """What one image left behind: features, and pixel features once a text has asked for them."""

    __slots__ = ("features", "pixels")

    def __init__(self, features: _Arrays) -> None:
        self.features = features
        self.pixels: _Arrays | None = None


class OnnxEngine:
    """Runs the graphs of a member of the UniGeoSeg family that reads with a sentence encoder.

    Args:
        sessions: by name of the graph.
        encoder: reads instructions.
        info: which weights.
        tile: how scenes are cut.
        name: under which it answers.
    """

    tasks = frozenset(Task)

    def __init__(
        self,
        sessions: Mapping[str, Any],
        encoder: NumpySentenceEncoder,
        info: ModelInfo,
        *,
        tile: TileSpec | None = None,
        name: str = "nano",
    ) -> None:
        self.name, self.info, self.encoder = name, info, encoder
        self.tile = tile or TileSpec(size=512, overlap=192, multiple=32, batch=2, focus=256)
        self.vocabulary: tuple[str, ...] = ()
        self._sessions = sessions
        self._read = lru_cache(maxsize=256)(encoder)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode RGB uint8 images (H, W, 3)."""
        out = []
        for image in images:
            checked_image(image)
            height, width = image.shape[:2]
            more = (0, -height % self.tile.multiple), (0, -width % self.tile.multiple), (0, 0)
            padded = np.pad(image, more, mode="edge").transpose(2, 0, 1)[None].astype(np.float32)
            out.append(self._embedding((height, width), self._run("image", {"images": padded})))
        return out

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer ``prompts[i]`` on ``embeddings[i]``; coordinates in pixels of that image."""
        check_pairs(embeddings, prompts)
        return [self._answer(e, p) for e, p in zip(embeddings, prompts, strict=True)]

    def _answer(self, embedding: Embedding, prompt: Prompt) -> Answer:
        checked_target(prompt)
        view: _View = embedding.data
        height, width = embedding.size
        if prompt.is_spatial:
            points, box = drawn_prompt(prompt)
            pixels = self._run("prompted", {**view.features, "points": points, "boxes": box})
        else:
            if view.pixels is None:
                view.pixels = self._run("pixels", view.features)
            pixels = view.pixels
        states = self._read(sentence_of(prompt))
        query = self._run(
            "query",
            {
                "states": states[None],
                "tokens": np.ones((1, len(states)), bool),
                "task": np.array([list(Task).index(prompt.task)]),
                "coordinates": coordinate_rows(prompt, width, height),
                "res5": view.features["res5"],
            },
        )
        drawn = self._run("masks", {**query, **pixels})
        presence = 1 / (1 + np.exp(-np.float64(drawn["presence"][0])))
        return Answer(np.ascontiguousarray(drawn["logits"][0, :height, :width]), float(presence))

    def is_word(self, word: str) -> bool:
        """Whether the sentence encoder knows a word as a whole."""
        return self.encoder.tokenizer.token_to_id(word) is not None

    def pack(self, embedding: Embedding) -> _Arrays:
        """Features as float32 arrays, for the disk; what follows from them is not kept."""
        return dict(embedding.data.features)

    def unpack(self, size: tuple[int, int], arrays: _Arrays) -> Embedding:
        """The inverse of :meth:`pack`."""
        return self._embedding(size, {name: arrays[name] for name in GRAPHS["image"][1]})

    def _run(self, name: str, values: Mapping[str, NDArray[Any]]) -> _Arrays:
        takes, gives = GRAPHS[name]
        return dict(zip(gives, self._sessions[name].run(list(gives), {k: values[k] for k in takes}), strict=True))

    def _embedding(self, size: tuple[int, int], features: _Arrays) -> Embedding:
        held = sum(f.nbytes for f in features.values())
        # the pixel decoder's output, kept from the first text on, is counted in advance: as wide as a query
        width = self._sessions["masks"].get_inputs()[0].shape[1]
        return Embedding(size, _View(features), held + width * features["res2"][0, 0].nbytes * 4 // 3)


def build_onnx(path: Path, *, name: str, graphs: Path | None = None, threads: int = 0) -> OnnxEngine:
    """An engine from weights (safetensors beside its JSON card) and graphs.

    Args:
        path: of the weights.
        name: under which it answers.
        graphs: folder that ``terraprompt models export`` wrote; None takes the packaged ones.
        threads: of one operation; 0 = ``OMP_NUM_THREADS``, or as many as there are cores.

    Raises:
        CheckpointError: damaged files, or weights of another architecture than the graphs.
    """
    weights, card = load_arrays(path)
    folder = Path(str(resources.files("terraprompt.weights") / "graphs")) if graphs is None else graphs
    try:
        facts = json.loads((folder / "graphs.json").read_text())
        used: dict[str, list[str]] = facts["weights"]
        made_for = facts["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "The graphs cannot be read.",
            received=f"{folder}: {error}",
            hint="Write them with: terraprompt models export",
        ) from error
    if not _agrees(card.get("model"), made_for) or not {n for names in used.values() for n in names} <= set(weights):
        raise CheckpointError(
            "The weights are of another architecture than the graphs.",
            received=f"{path} with {folder}",
            hint="Write graphs for them with: terraprompt models export",
        )
    threads = threads or int(os.environ.get("OMP_NUM_THREADS", 0))
    sessions = {
        graph: graph_session(folder / f"{graph}.onnx", {n: weights[n] for n in used[graph]}, threads=threads)
        for graph in GRAPHS
    }
    engine = OnnxEngine(
        sessions,
        packaged_numpy_encoder(),
        card_info(card, path, name, {"precision": "fp32", "runtime": "onnx"}),
        name=name,
    )
    engine.vocabulary = card_categories(card, path)
    return engine


def _agrees(settings: Any, made_for: Any) -> bool:
    """Whether an architecture is the one that graphs were made for; what is younger than its card is not in it."""
    if isinstance(settings, dict) and isinstance(made_for, dict):
        return all(_agrees(value, made_for.get(key)) for key, value in settings.items() if key != "name")
    return bool(settings == made_for)
