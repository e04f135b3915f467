"""Configs as plain values, presets, and the packaged weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from terraprompt.engines.weights import load_weights, packaged
from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg import UniGeoSeg, UniGeoSegConfig, preset, preset_names
from terraprompt.models.unigeoseg.config import MemoryConfig, TateConfig


@pytest.mark.parametrize("name", preset_names())
def test_round_trip_through_json(name: str) -> None:
    config = preset(name)
    assert config.name == name
    assert UniGeoSegConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert UniGeoSegConfig.from_dict(config.to_dict()) == config


def test_defaults_fill_what_is_left_out() -> None:
    assert UniGeoSegConfig.from_dict({"name": "x", "memory": {"slots": 8}}) == replace(
        UniGeoSegConfig(), name="x", memory=MemoryConfig(slots=8)
    )


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"tate": {"form": "paper", "query": 3}}, "query"),
        ({"dense_prompt": {"depth": 3}}, "depth"),
        ({"tate": {"form": "papers"}}, "papers"),
        ({"memory": {"scope": "token"}}, "token"),
        ({"language": "latin"}, "latin"),
    ],
)
def test_what_is_unknown_is_an_error(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        UniGeoSegConfig.from_dict(values)


def test_unknown_preset_names_the_known() -> None:
    with pytest.raises(ConfigError, match="nano, nano-text-coordinates, nano-plain"):
        preset("micro")


@pytest.mark.parametrize(
    ("name", "parameters"), [("nano", 4_998_209), ("nano-text-coordinates", 4_945_857), ("nano-plain", 4_546_241)]
)
def test_sizes(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in UniGeoSeg(preset(name)).parameters()) == parameters


def test_parts_follow_the_config() -> None:
    plain = UniGeoSeg(preset("nano-plain"))
    assert plain.tate is None
    assert plain.memory is None
    assert plain.memory_scope is None
    assert plain.dense_prompt is not None
    text = UniGeoSeg(preset("nano-text-coordinates"))
    assert text.dense_prompt is None
    assert text.memory_scope == "pooled"
    official = UniGeoSeg(replace(preset("nano"), tate=TateConfig(form="official")))
    assert official.tate is not None
    assert official.tate.coordinates.in_features == 4


def test_a_card_with_the_old_name_of_lambda_is_told_the_new_one() -> None:
    card = preset("nano").to_dict()
    card["memory"]["mix"] = card["memory"].pop("lambda_")
    with pytest.raises(ConfigError, match="lambda_ now"):
        UniGeoSegConfig.from_dict(card)


def test_packaged_weights_are_what_their_card_says() -> None:
    path = packaged("nano")
    assert path.stat().st_size <= 40 * 2**20
    state, card = load_weights(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]
    assert path.stat().st_size == card["bytes"]
    assert len(state) == card["tensors"]
    model = UniGeoSeg(UniGeoSegConfig.from_dict(card["model"]))
    model.load_state_dict(state, strict=True)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert all(v.dtype in (torch.float32, torch.int64) for v in state.values())


def test_packaged_weights_are_of_the_preset() -> None:
    assert UniGeoSegConfig.from_dict(load_weights(packaged("nano"))[1]["model"]) == preset("nano")
