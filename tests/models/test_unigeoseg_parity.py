"""The whole model against the published code under one rule of weights: two language layers here, 24 with -m full."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from terraprompt.geometry.frame import Frame
from terraprompt.models.preprocess import letterboxed
from terraprompt.models.unigeoseg import PixelFeatures, Prediction, UniGeoSeg
from terraprompt.models.unigeoseg.causal import Context, Dialogue
from terraprompt.models.unigeoseg.losses import mask_losses, point_bce, point_dice, sample_at
from unigeoseg_golden import (
    FOLDER,
    cases_of,
    golden_arrays,
    golden_dialogue,
    golden_inputs,
    golden_model,
    golden_mscc,
    golden_tensor,
    sub_sample,
)

ORDINARY = (
    "referring", "reasoning", "interactive_box", "interactive_point1", "interactive_point2", "interactive_point3",
    "interactive_box_nonsquare", "reasoning_batch2",
)  # fmt: skip
FULL = ("referring", "reasoning", "interactive_box", "interactive_point3")


class Seen(NamedTuple):
    """Images A and B, seen once."""

    features: list[Tensor]
    pixels: PixelFeatures


@pytest.fixture(scope="module")
def model() -> UniGeoSeg:
    return golden_model("small")


def look_at(model: UniGeoSeg, names: str) -> Seen:
    pictures = np.stack([golden_arrays(f"small_image_{name}")["letterbox_u8"] for name in names])
    with torch.inference_mode():
        features = model.encode_image(torch.from_numpy(pictures))
        return Seen(features, model.decode_pixels(features))


@pytest.fixture(scope="module")
def seen(model: UniGeoSeg) -> Seen:
    return look_at(model, "AB")


def near(found: Tensor, wanted: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(found, torch.from_numpy(np.asarray(wanted)), atol=tolerance, rtol=0)


@contextmanager
def watched(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """What the module returns while this is open."""
    kept: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _given, out: kept.append(out))
    try:
        yield kept
    finally:
        hook.remove()


@torch.inference_mode()
def check_case(model: UniGeoSeg, seen: Seen, size: str, name: str) -> None:
    """Every recorded array of a case."""
    cases, wanted = cases_of(size, name), golden_arrays(f"{size}_case_{name}")
    dialogue = golden_dialogue(size, cases)
    reader, tate, memory = model.reader, model.tate, model.memory
    assert reader is not None
    assert tate is not None
    assert memory is not None
    with (
        watched(tate) as enhanced,
        watched(reader.language.layers[0]) as first,
        watched(model.pool) as pooled,
        watched(memory) as recalled,
        watched(model.query_head.skip) as skip,
        watched(model.query_head.resampler) as refined,
    ):
        states = model.read(dialogue, seen.features[-1]).states
        query = model.predict_query(states, dialogue.refer, dialogue.task, seen.features[-1], dialogue.image)
    drawn = model.predict_masks(query, seen.pixels, dialogue.image)
    for i, case in enumerate(cases):
        mine = {k.removeprefix(f"sample{i}_"): v for k, v in wanted.items()}
        count = len(case["instruction"])
        tight = 5e-6 if case["task"] == "ref" else 2e-5
        near(sub_sample(enhanced[0][i]), mine["tate_sub"], tight)
        near(enhanced[0][i, :, :64], mine["tate_first64"], tight)
        near(enhanced[0][i].square().mean(-1).sqrt(), mine["tate_tokens_rms"], tight)
        layer = first[0][0] if isinstance(first[0], tuple) else first[0]
        near(sub_sample(layer[i, -dialogue.tokens.shape[1] :][:count]), mine["layer0_instr_sub"], 2e-5)
        near(sub_sample(states[i, :count]), mine["hidden_instr_sub"], 2e-5)
        near(pooled[-1][i, 0], mine["pooled_before_memory"], 2e-5)
        near(recalled[0][i], mine["pooled_after_memory"], 2e-5)
        near(skip[0][i], mine["query_skip_512"], 2e-5)
        near(refined[0][i], mine["query_refined_512"], 2e-5)
        near(query[i], mine["mask_query_256"], 2e-5)
        check_masks([level[i] for level in drawn.logits], mine)
    check_losses(drawn, cases, wanted)


def check_masks(levels: list[Tensor], wanted: dict[str, np.ndarray]) -> None:
    assert len(levels) == 10
    near(torch.stack([level.flatten()[::5][:1024] for level in levels]), wanted["aux_logits_sub"], 2e-4)
    near(levels[-1], wanted["logits_128"], 2e-4)
    mask = F.interpolate(levels[-1][None, None], scale_factor=4, mode="bilinear", align_corners=False)[0, 0] > 0
    truth = np.unpackbits(wanted["mask_512_packed"]).reshape(512, 512).astype(bool)
    assert np.count_nonzero(mask.numpy() != truth) <= 10


def truths(cases: list[dict[str, Any]], wanted: dict[str, np.ndarray]) -> Tensor:
    keys = ["gt_512_packed"] if len(cases) == 1 else [f"sample{i}_gt_512_packed" for i in range(len(cases))]
    return torch.stack([torch.from_numpy(np.unpackbits(wanted[k]).reshape(512, 512)) for k in keys]).float()


def check_losses(drawn: Prediction, cases: list[dict[str, Any]], wanted: dict[str, np.ndarray]) -> None:
    seed = golden_inputs()["rules"]["fixed_points_seed"]
    where = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).random((12544, 2), dtype=np.float32))
    where = where[None].expand(len(cases), -1, -1)
    truth = sample_at(truths(cases, wanted), where)
    for level, bce, dice in zip(drawn.logits, wanted["loss_points_bce_10"], wanted["loss_points_dice_10"], strict=True):
        at = sample_at(level, where)
        assert float(point_bce(at, truth, len(cases))) == pytest.approx(bce, abs=5e-5)
        assert float(point_dice(at, truth, len(cases))) == pytest.approx(dice, abs=5e-6)


def test_the_rule_makes_the_recorded_weights() -> None:
    for row in json.loads((FOLDER / "unigeoseg" / "weight_rule_checks.json").read_text()):
        if np.prod(row["shape"]) < 2e6:
            made = golden_tensor(row["name"], *row["shape"])
            assert hashlib.sha256(made.numpy().tobytes()).hexdigest() == row["sha256_of_little_endian_float32"]


@pytest.mark.parametrize("name", ["A", "B"])
def test_what_it_sees(model: UniGeoSeg, seen: Seen, name: str) -> None:
    wanted, i = golden_arrays(f"small_image_{name}"), "AB".index(name)
    picture = (torch.from_numpy(wanted["letterbox_u8"]).float() - model.mean[0]) / model.std[0]
    near(picture[:, 200:216, 200:216], wanted["input_crop16"], 1e-6)
    assert model.reader is not None
    with torch.inference_mode():
        tokens = model.reader.connector(seen.features[-1][i : i + 1])[0]
    assert tokens.shape == (64, 2048)
    for level, feature in zip((2, 3, 4, 5), seen.features, strict=True):
        near(sub_sample(feature[i]), wanted[f"res{level}_sub"], 5e-5)
    near(sub_sample(tokens), wanted["projector_sub"], 5e-5)
    for stride, scale in zip((32, 16, 8), seen.pixels.scales, strict=True):
        near(sub_sample(scale[i]), wanted[f"pixdec_s{stride}_sub"], 5e-5)
    near(sub_sample(seen.pixels.mask[i]), wanted["mask_features_sub"], 3e-5)


def golden_picture(name: str) -> np.ndarray:
    rules = golden_inputs()["rules"]
    (height, width), rng = rules["image_hw"][name], np.random.Generator(np.random.PCG64(rules["image_seeds"][name]))
    base = rng.integers(0, 160, size=(-(-height // 32), -(-width // 32), 3))
    noise = rng.integers(0, 8, size=(height, width, 3))
    y, x, c = np.ogrid[:height, :width, :3]
    wave = ((x * (3 + c) + y * (5 - c)) // 8) % 64
    return np.clip(base[y // 32, x // 32, c] + wave + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["A", "B"])
def test_letterbox_of_the_picture_to_the_bit(name: str) -> None:
    picture = golden_picture(name)
    made = letterboxed(picture, Frame.letterbox(picture.shape[:2], 512))
    assert np.array_equal(made.transpose(2, 0, 1), golden_arrays(f"small_image_{name}")["letterbox_u8"])


@pytest.mark.parametrize("name", ORDINARY)
def test_cases(model: UniGeoSeg, seen: Seen, name: str) -> None:
    check_case(model, seen, "small", name)


def test_the_other_connector(model: UniGeoSeg, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.reader is not None
    monkeypatch.setitem(model.reader._modules, "connector", golden_mscc())
    with torch.inference_mode():
        tokens = model.reader.connector(seen.features[-1][:1])[0]
    assert tokens.shape == (68, 2048)
    near(sub_sample(tokens), golden_arrays("small_image_A_mscc")["projector_sub"], 5e-5)
    check_case(model, seen, "small", "reasoning_mscc")


@torch.inference_mode()
def test_all_masked_means_attend_everywhere(model: UniGeoSeg, seen: Seen) -> None:
    wanted = golden_arrays("small_case_reasoning_allmasked")
    assert wanted["attn_mask_all_true_10"].any()
    # the mask features are linear in the one tensor that differs
    was = model.pixel_decoder.mask_features.bias
    assert was is not None
    change = golden_tensor("pixel_decoder.mask_features.bias", 256) / np.float32(0.05) * -1 - was
    pixels = PixelFeatures(seen.pixels.mask + change[:, None, None], seen.pixels.scales)
    dialogue = golden_dialogue("small", cases_of("small", "reasoning"))
    drawn = model.predict_masks(model.encode_text(dialogue, seen.features[-1]), pixels, dialogue.image)
    check_masks([level[0] for level in drawn.logits], wanted)


MIXED = ("referring", "interactive_box_nonsquare", "reasoning", "interactive_point3")


def mixed() -> tuple[Dialogue, list[dict[str, np.ndarray]]]:
    """Three tasks, two images and four lengths in one batch."""
    cases = [cases_of("small", name)[0] for name in MIXED]
    return golden_dialogue("small", cases), [golden_arrays(f"small_case_{name}") for name in MIXED]


@torch.inference_mode()
def test_a_mixed_batch_equals_single_runs(model: UniGeoSeg, seen: Seen) -> None:
    dialogue, wanted = mixed()
    drawn = model.predict_masks(model.encode_text(dialogue, seen.features[-1]), seen.pixels, dialogue.image)
    for i, one in enumerate(wanted):
        check_masks([level[i] for level in drawn.logits], one)


@torch.inference_mode()
def test_going_on_from_what_was_read_equals_reading_it_all(model: UniGeoSeg, seen: Seen) -> None:
    dialogue, wanted = mixed()
    begun = model.begin(dialogue.prefix)
    assert begun.length == len(dialogue.prefix)
    images = model.open(seen.features[-1], begun)
    assert images.length == 64
    after = [begun, images.rows(dialogue.image)]
    first = model.read(dialogue, None, after=after)
    at_once = model.read(dialogue, seen.features[-1], after=[begun])
    for i, one in enumerate(wanted):
        for states in (first.states, at_once.states):
            near(sub_sample(states[i][dialogue.refer[i]]), one["hidden_instr_sub"], 2e-5)
    assert first.context is not None
    length = len(dialogue.template)
    template = Context.stack([first.context.part(i, 0, length) for i in range(len(wanted))])
    again = model.read(dialogue, None, after=[*after, template], template=False)
    torch.testing.assert_close(again.states[dialogue.refer], first.states[dialogue.refer], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["referring", "reasoning_batch2"])
@torch.inference_mode()
def test_language_loss_and_what_follows_changes_nothing(model: UniGeoSeg, seen: Seen, name: str) -> None:
    cases, wanted = cases_of("small", name), golden_arrays(f"small_case_{name}")
    asked, told = (golden_dialogue("small", cases, answers=answers) for answers in (False, True))
    states = model.read(told, seen.features[-1]).states
    assert model.reader is not None
    assert told.labels is not None
    assert float(model.reader.answer_loss(states, told.labels)) == pytest.approx(wanted["loss_llm"].item(), abs=1e-4)
    before = model.read(asked, seen.features[-1]).states
    torch.testing.assert_close(states[told.refer], before[asked.refer], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_training_criterion_lies_in_the_published_spread(model: UniGeoSeg, seen: Seen) -> None:
    cases, wanted = cases_of("small", "reasoning"), golden_arrays("small_case_reasoning")
    dialogue = golden_dialogue("small", cases)
    drawn = model.predict_masks(model.encode_text(dialogue, seen.features[-1]), seen.pixels, dialogue.image)
    made = mask_losses(drawn.logits, truths(cases, wanted), generator=torch.Generator().manual_seed(0))
    for loss, key in zip(made, ("mask", "dice"), strict=True):
        mean, std = wanted[f"loss_criterion_{key}_mean_std20"].tolist()
        assert 5 * float(loss) == pytest.approx(mean, abs=5 * std)


@pytest.mark.full
@pytest.mark.parametrize("name", FULL)
def test_full_size(full: tuple[UniGeoSeg, Seen], name: str) -> None:
    check_case(*full, "full", name)


@pytest.fixture(scope="module")
def full() -> tuple[UniGeoSeg, Seen]:
    model = golden_model("full")
    return model, look_at(model, "A")
