"""The rule that fills parameters for the golden numbers, and the numbers themselves; see ``tests/golden/README.md``."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import Tensor

from terraprompt.models.unigeoseg import Dialogue, UniGeoSeg, UniGeoSegConfig, preset
from terraprompt.models.unigeoseg.config import ConnectorConfig
from terraprompt.models.unigeoseg.layout import account, config_of, official_layout, split

FOLDER = Path(__file__).parents[1] / "golden"
_BRANCHES = ("attn.proj.weight", "mlp.fc2.weight", "output_proj.weight", "out_proj.weight", "linear2.weight")
_TASKS = {"intera": 0, "ref": 1, "reason": 2}


def _scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Scale and offset of a parameter; the first rule that fits."""
    leaf = name.rsplit(".", 1)[-1]
    if name == "model.embed_tokens.weight" or leaf in ("query", "multi_query", "global_tokens"):
        return 1.0, 0.0
    if leaf == "relative_position_bias_table" or leaf == "level_embed" or name == "predictor.level_embed.weight":
        return 0.5, 0.0
    if name.endswith("sampling_offsets.bias"):
        return 2.0, 0.0
    if leaf in ("bias", "in_proj_bias", "global_latents"):
        return 0.05, 0.0
    if len(shape) == 1 or (len(shape) == 3 and leaf == "weight"):  # the gain of a norm
        return 0.1, 1.0
    gain = 1.0
    if name.endswith(_BRANCHES) and not name.startswith("model.layers."):
        gain = 0.4
    if name == "predictor.mask_embed.layers.2.weight":
        gain = -1.0
    return gain / math.sqrt(math.prod(shape[1:])), 0.0


def golden_tensor(name: str, *shape: int) -> Tensor:
    """Parameter ``name`` of the golden model: normal numbers seeded by the name, scaled by kind."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    x = np.random.Generator(np.random.PCG64(seed)).standard_normal(size=shape, dtype=np.float32)
    scale, offset = _scale(name, shape)
    x *= np.float32(scale)
    x += np.float32(offset)
    return torch.from_numpy(x)


@cache
def golden_parts() -> dict[str, np.ndarray]:
    """Everything in ``unigeoseg_parts.npz``."""
    return _arrays(FOLDER / "unigeoseg_parts.npz")


@cache
def golden_arrays(name: str) -> dict[str, np.ndarray]:
    """Everything in ``unigeoseg/<name>.npz``."""
    return _arrays(FOLDER / "unigeoseg" / f"{name}.npz")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


@cache
def golden_inputs() -> dict[str, Any]:
    """Token ids, coordinates and seeds of the cases."""
    inputs: dict[str, Any] = json.loads((FOLDER / "unigeoseg" / "inputs.json").read_text())
    return inputs


def official_names(connector: str = "SparseConv_1") -> Iterator[dict[str, str]]:
    """Rows of the official list of tensors, for one kind of connector."""
    with (FOLDER / "unigeoseg" / "state_dict_names.tsv").open() as stream:
        yield from (r for r in csv.DictReader(stream, delimiter="\t") if r["projector"] in ("both", connector))


def official_shapes(connector: str = "SparseConv_1") -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released checkpoint."""
    return {row["name"]: tuple(map(int, row["shape"].split("x"))) for row in official_names(connector)}


def golden_config(size: str, connector: str = "SparseConv_1") -> UniGeoSegConfig:
    """As the converter finds it: ``full`` is the released size, ``small`` has two layers and 512 words."""
    shapes = official_shapes(connector)
    if size == "small":
        shapes = {
            name: (512, *shape[1:]) if name in ("model.embed_tokens.weight", "lm_head.weight") else shape
            for name, shape in shapes.items()
            if not name.startswith("model.layers.") or int(name.split(".")[2]) < 2
        }
    config = config_of(shapes, preset("unigeoseg-official"))
    account(shapes, config).check(f"golden {size}")
    return config


def golden_model(size: str) -> UniGeoSeg:
    """The model under the rule, by way of the converter's layout."""
    config = golden_config(size)
    with init_empty_weights(include_buffers=False):
        model = UniGeoSeg(config)
    state: dict[str, Tensor] = {}
    for name, source in official_layout(config).items():
        state.update(split(golden_tensor(name, *source.shape), source))
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def golden_mscc() -> torch.nn.Module:
    """The other connector under the rule."""
    with init_empty_weights(include_buffers=False):
        wanted = replace(golden_config("small"), connector=ConnectorConfig("mscc"))
        reader = UniGeoSeg(wanted).reader
    assert reader is not None
    state = {
        name: golden_tensor(f"model.mm_projector.{name}", *value.shape)
        for name, value in reader.connector.state_dict().items()
    }
    reader.connector.load_state_dict(state, strict=True, assign=True)
    return reader.connector


def cases_of(size: str, name: str) -> list[dict[str, Any]]:
    """The samples of a case; most have one."""
    source = "reasoning" if name.startswith("reasoning_allmasked") else name
    cases: list[dict[str, Any]] = golden_inputs()[size]["cases"][source]
    return cases


def golden_dialogue(size: str, cases: Sequence[dict[str, Any]], *, answers: bool = False) -> Dialogue:
    """Cases as one batch; ``image`` counts A as 0 and B as 1."""
    inputs = golden_inputs()[size]
    words = inputs["segments"]
    after = [[*words["mid1"], *words["mid2"], *c["answer"], *words["tail"]] if answers else [] for c in cases]
    ids = [[*c["instruction"], *rest] for c, rest in zip(cases, after, strict=True)]
    longest = max(map(len, ids))
    tokens = torch.full((len(cases), longest), inputs["pad_id"])
    labels = torch.full((len(cases), longest), -100)
    refer = torch.zeros(len(cases), longest, dtype=torch.bool)
    coordinates = torch.zeros(len(cases), 3, 4)
    for i, case in enumerate(cases):
        count = len(case["instruction"])
        tokens[i, : len(ids[i])] = torch.tensor(ids[i])
        refer[i, :count] = True
        labels[i, count + 3 : len(ids[i])] = torch.tensor(ids[i][count + 3 :], dtype=torch.int64)
        for row, values in enumerate(case["coords"] or ()):
            coordinates[i, row, : len(values)] = torch.tensor(values)
    return Dialogue(
        torch.tensor(words["prefix"]),
        torch.tensor(words["template"]),
        tokens,
        refer,
        torch.tensor([_TASKS[c["task"]] for c in cases]),
        coordinates,
        torch.tensor([("A", "B").index(c["image"]) for c in cases]),
        labels if answers else None,
    )


def sub_sample(array: Tensor) -> Tensor:
    """At most some 4096 values, at an odd stride."""
    flat = array.detach().flatten()
    step = math.ceil(len(flat) / 4096)
    return flat[:: step + 1 if step > 1 and step % 2 == 0 else step]
