"""ONNX graphs of a member that reads with a sentence encoder, without its weights.

A graph is the architecture: its initialisers have the names of the state dict, and whoever runs it hands their values
in (:class:`terraprompt.engines.onnx.OnnxEngine` takes them from the ``.safetensors`` file). So one set of graphs serves
all weights of a configuration, and the weights exist once.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from terraprompt.errors import ConfigError
from terraprompt.models.graph_runtime import GRAPHS, PLACE, graph_session
from terraprompt.models.unigeoseg.model import Instructions, UniGeoSeg
from terraprompt.models.unigeoseg.pixel_decoder import PixelFeatures

__all__ = ["export_graphs"]

_OPSET = 20
#: Height, width and task of what each graph is compared on.
_CHECKED = ((128, 96, 0), (512, 512, 1), (64, 224, 2))
#: Rows and columns of each input for one cell of res5.
_CELLS = {"images": 32, "res2": 8, "res3": 4, "res4": 2, "res5": 1, "mask": 8, "s32": 1, "s16": 2, "s8": 4}


class _Image(nn.Module):
    """Images (1, 3, H, W) float32 on 0..255, H and W multiples of 32 -> res2..res5."""

    def __init__(self, model: UniGeoSeg) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.encode_image(images))


class _Pixels(nn.Module):
    """res2..res5, and points (1, P, 3) and a box (1, 4) if they are given -> pixel features."""

    def __init__(self, model: UniGeoSeg) -> None:
        super().__init__()
        self.model = model

    def forward(self, res2: Tensor, res3: Tensor, res4: Tensor, res5: Tensor, *drawn: Tensor) -> tuple[Tensor, ...]:
        pixels = self.model.decode_pixels([res2, res3, res4, res5], *drawn)
        return (pixels.mask, *pixels.scales)


class _Query(nn.Module):
    """Token states (1, L, D), which of them are words bool (1, L), task (1,), rows (1, R, 4), res5 -> query (1, C)."""

    def __init__(self, model: UniGeoSeg) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor, tokens: Tensor, task: Tensor, coordinates: Tensor, res5: Tensor) -> Tensor:
        image = torch.zeros(1, dtype=torch.int64)
        return self.model.encode_text(Instructions(states, tokens, task, coordinates, image), res5)


class _Masks(nn.Module):
    """Query (1, C) and pixel features -> logits (1, H, W), one a pixel of the image, and the presence logit (1,)."""

    def __init__(self, model: UniGeoSeg) -> None:
        super().__init__()
        self.model = model

    def forward(self, query: Tensor, mask: Tensor, s32: Tensor, s16: Tensor, s8: Tensor) -> tuple[Tensor, ...]:
        prediction = self.model.predict_masks(query, PixelFeatures(mask, (s32, s16, s8)), None)
        assert prediction.presence is not None
        logits = F.interpolate(prediction.logits[-1][:, None], scale_factor=4, mode="bilinear", align_corners=False)
        return logits[:, 0], prediction.presence


def export_graphs(model: UniGeoSeg, folder: Path) -> dict[str, float]:
    """Write ``<name>.onnx`` for every name of :data:`GRAPHS` and ``graphs.json`` (the configuration, and the weights
    that each takes), and compare each with torch on images of other sizes.

    Args:
        model: in eval mode, on the CPU.
        folder: where the files go; it must exist.

    Returns:
        Name -> largest absolute difference of an output from torch, divided by the largest absolute value there.

    Raises:
        ConfigError: a member that reads with a language model inside, or has no points and boxes or presence.
    """
    if model.reader is not None or model.dense_prompt is None or model.presence is None:
        raise ConfigError("Graphs are made of members like nano.", received=model.config.name)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    traced, others = _example(model, 256, 320, 0), [_example(model, *size) for size in _CHECKED]
    parts = {"image": _Image, "pixels": _Pixels, "prompted": _Pixels, "query": _Query, "masks": _Masks}
    differences: dict[str, float] = {}
    used: dict[str, list[str]] = {}
    for name, (takes, gives) in GRAPHS.items():
        part, path = parts[name](model).eval(), folder / f"{name}.onnx"
        graph = _without_weights(_traced(part, name, [traced[k] for k in takes]), weights)
        onnx.save(graph, path)
        used[name] = [i.name for i in graph.graph.initializer if i.name in weights]
        session = graph_session(path, {k: weights[k] for k in used[name]})
        differences[name] = max(_difference(part, session, [one[k] for k in takes], gives) for one in others)
    facts = {"model": model.config.to_dict(), "weights": used}
    (folder / "graphs.json").write_text(json.dumps(facts, indent=1) + "\n")
    return differences


@torch.inference_mode()
def _example(model: UniGeoSeg, height: int, width: int, task: int) -> dict[str, Tensor]:
    """Values of every input, for an image (height, width) of noise and an instruction of one task."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, height, width, generator=generator) * 255
    values = {"images": images, **dict(zip(GRAPHS["image"][1], model.encode_image(images), strict=True))}
    points = torch.full((1, 6, 3), -1.0)
    points[0, 0] = torch.tensor([width / 3, height / 2, 1.0])
    values |= {"points": points, "boxes": torch.tensor([[8.0, 8.0, width / 2, height / 2]])}
    values |= {
        "states": torch.randn(1, 9, model.config.language_width, generator=generator),
        "tokens": torch.ones(1, 9, dtype=torch.bool),
        "task": torch.tensor([task]),
        "coordinates": torch.rand(1, 3, 4, generator=generator),
    }
    drawn = _Pixels(model)(*(values[k] for k in GRAPHS["prompted"][0]))
    values |= dict(zip(GRAPHS["prompted"][1], drawn, strict=True))
    return values | {"query": _Query(model)(*(values[k] for k in GRAPHS["query"][0]))}


def _traced(part: nn.Module, name: str, inputs: Sequence[Tensor]) -> onnx.ModelProto:
    height, width = Dim("height", min=2, max=4096), Dim("width", min=2, max=4096)
    words, spots = Dim("words", min=2, max=512), Dim("spots", min=2, max=4096)
    moving: dict[str, dict[int, Any]] = {k: {2: f * height, 3: f * width} for k, f in _CELLS.items()}
    moving |= {"states": {1: words}, "tokens": {1: words}, "points": {1: spots}}
    takes, gives = GRAPHS[name]
    shapes = tuple(moving.get(k) for k in takes)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            part, tuple(inputs), dynamo=True, optimize=False, verbose=False, opset_version=_OPSET,
            input_names=list(takes), output_names=list(gives),
            dynamic_shapes=(*shapes[:4], shapes[4:]) if name == "prompted" else shapes,
        )  # fmt: skip
    assert program is not None
    return program.model_proto


def _without_weights(graph: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Initialisers that are parameters get the name of the state dict and lose their values."""
    renamed = {i.name: i.name.removeprefix("model.") for i in graph.graph.initializer}
    for node in graph.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = renamed.get(name, name)
    for initialiser in graph.graph.initializer:
        initialiser.name = renamed[initialiser.name]
        if initialiser.name in weights:
            initialiser.ClearField("raw_data")
            initialiser.data_location = onnx.TensorProto.EXTERNAL
            initialiser.external_data.add(key="location", value=PLACE)
    del graph.graph.value_info[:]
    for part in (*graph.graph.node, *graph.graph.initializer, *graph.graph.input, *graph.graph.output, graph.graph):
        del part.metadata_props[:]  # where in the source each node comes from
    return graph


@torch.inference_mode()
def _difference(part: nn.Module, session: Any, inputs: Sequence[Tensor], gives: Sequence[str]) -> float:
    want = part(*inputs)
    got = session.run(list(gives), {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)})
    pairs = zip(want if isinstance(want, tuple) else (want,), got, strict=True)
    return max(float(np.abs(a.numpy() - b).max()) / max(float(a.abs().max()), 1e-9) for a, b in pairs)
