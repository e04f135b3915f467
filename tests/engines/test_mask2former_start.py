"""Mask2Former as a start: both codings land in our parts, and our parts compute what transformers computes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from released import tiny_model
from terraprompt.engines.mask2former import mask2former
from terraprompt.errors import CheckpointError
from terraprompt.models.unigeoseg import PixelFeatures, UniGeoSeg, preset
from terraprompt.models.unigeoseg.layout import to_official

TINY = preset("tiny")
# stock Mask2Former has no ReLU here
PLAIN = replace(TINY, pixel_decoder=replace(TINY.pixel_decoder, lateral_relu=False, groups=32))


def detectron_state() -> dict[str, np.ndarray]:
    """As Detectron2 names it, from random weights of ours."""
    out: dict[str, np.ndarray] = {}
    for name, value in to_official(tiny_model().state_dict(), TINY).items():
        if name.startswith("model.vision_tower."):
            theirs = name.replace("model.vision_tower.", "backbone.")
        elif name.startswith(("pixel_decoder.", "predictor.")):
            theirs = f"sem_seg_head.{name}"
        else:
            continue
        for part in ("adapter_1", "layer_1"):
            theirs = theirs.replace(f"{part}.0.weight", f"{part}.weight").replace(f"{part}.1.", f"{part}.norm.")
        if name not in ("pixel_decoder.adapter_1.0.bias", "pixel_decoder.layer_1.0.bias"):
            out[theirs] = value.numpy()
    out["sem_seg_head.predictor.class_embed.weight"] = np.zeros((134, 64), np.float32)
    out["sem_seg_head.predictor.static_query.weight"] = np.zeros((100, 64), np.float32)
    return out


def write(path: Path, state: dict[str, Any]) -> Path:
    path.write_bytes(pickle.dumps({"model": state, "__author__": "someone", "matching_heuristics": True}))
    return path


def test_a_detectron_pickle_fills_vision_and_both_decoders(tmp_path: Path) -> None:
    found = mask2former(write(tmp_path / "m.pkl", detectron_state()), TINY)
    assert sorted(found.zeros) == ["pixel_decoder.lateral.0.bias", "pixel_decoder.output.0.bias"]
    assert len(found.unused) == 2
    ours = tiny_model().state_dict()
    parts = {name for name in ours if name.startswith(("vision.", "pixel_decoder.", "mask_decoder."))}
    assert set(found.state) == parts
    for name in parts - set(found.zeros):
        torch.testing.assert_close(found.state[name], ours[name], rtol=0, atol=0)


def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (ran,))

    with pytest.raises(CheckpointError, match="refused"):
        mask2former(write(tmp_path / "m.pkl", {**detectron_state(), "trap": Trap()}), TINY)
    assert not ran.exists()


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "nan", "truncated", "no model", "absent"])
def test_what_does_not_fit_is_said(tmp_path: Path, fault: str) -> None:
    state, path = detectron_state(), tmp_path / "m.pkl"
    name = "backbone.layers.0.blocks.0.mlp.fc1.weight"
    said = name.replace("backbone.layers.0.blocks.0.mlp", "vision.stages.0.blocks.0")
    if fault == "missing":
        del state[name]
    elif fault == "unknown":
        state["sem_seg_head.new.weight"] = np.zeros(3, np.float32)
        said = "unknown sem_seg_head.new.weight"
    elif fault == "shape":
        state[name] = state[name][:, :3]
    elif fault == "nan":
        state[name] = state[name] * np.nan
    write(path, state)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
        said = "damaged|refused"
    elif fault == "no model":
        path.write_bytes(pickle.dumps({"weights": 3}))
        said = "no arrays"
    elif fault == "absent":
        path.unlink()
        said = "missing"
    with pytest.raises(CheckpointError, match=said):
        mask2former(path, TINY)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mask2FormerForUniversalSegmentation]:
    torch.manual_seed(0)
    vision = SwinConfig(
        image_size=128, embed_dim=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"], drop_path_rate=0.0,
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=vision, feature_size=64, mask_feature_size=64, hidden_dim=64, encoder_feedforward_dim=128,
        encoder_layers=2, decoder_layers=4, num_attention_heads=8, dim_feedforward=128, num_queries=1, num_labels=3,
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    folder = tmp_path_factory.mktemp("stock")
    model.save_pretrained(str(folder))
    return folder, model


@torch.inference_mode()
def test_from_transformers_every_part_computes_the_same(
    stock: tuple[Path, Mask2FormerForUniversalSegmentation],
) -> None:
    folder, theirs = stock
    found = mask2former(folder, PLAIN)
    ours = UniGeoSeg(PLAIN).eval()
    ours.load_state_dict(found.state, strict=False)
    pixels = torch.randn(1, 3, 128, 128)
    level = theirs.model.pixel_level_module
    maps = level.encoder(pixels).feature_maps
    for one, other in zip(ours.vision(pixels), maps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    seen = level(pixels)
    decoded = ours.pixel_decoder(list(maps))
    torch.testing.assert_close(decoded.mask, seen.decoder_last_hidden_state, atol=1e-4, rtol=1e-4)
    for one, other in zip(decoded.scales, seen.decoder_hidden_states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    module = theirs.model.transformer_module
    module.queries_embedder.weight.zero_()  # UniGeoSeg's query has no position
    wanted = module(list(seen.decoder_hidden_states), seen.decoder_last_hidden_state).masks_queries_logits
    mine = PixelFeatures(seen.decoder_last_hidden_state, tuple(seen.decoder_hidden_states))
    drawn = ours.mask_decoder(module.queries_features.weight, mine)
    for one, other in zip(drawn.logits, wanted, strict=True):
        torch.testing.assert_close(one, other[:, 0], atol=1e-3, rtol=1e-3)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="transformers cannot read"):
        mask2former(tmp_path, TINY)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError):
        mask2former(tmp_path, TINY)
