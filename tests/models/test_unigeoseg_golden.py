"""Parts of the family against numbers of the published code under one rule of weights."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from terraprompt.models.unigeoseg.config import MemoryConfig, QueryHeadConfig, TateConfig
from terraprompt.models.unigeoseg.losses import point_bce, point_dice, sample_at
from terraprompt.models.unigeoseg.memory import LatentMemory
from terraprompt.models.unigeoseg.query_head import QueryHead
from terraprompt.models.unigeoseg.tate import AttentionPool, TextEnhancement
from unigeoseg_golden import golden_parts, golden_tensor

D = 2048
TASKS = {
    "interactive_box": 0, "interactive_point1": 0, "interactive_point2": 0, "interactive_point3": 0,
    "referring": 1, "reasoning": 2,
}  # fmt: skip


def part(name: str) -> Tensor:
    return torch.from_numpy(golden_parts()[name])


def pair(name: str, *shape: int) -> dict[str, Tensor]:
    return {"weight": golden_tensor(f"{name}.weight", *shape), "bias": golden_tensor(f"{name}.bias", shape[0])}


def test_the_rule_makes_the_recorded_weights() -> None:
    found = {
        name: hashlib.sha256(golden_tensor(name, *shape).numpy().tobytes()).hexdigest()[:16]
        for name, shape in (
            ("ref_attn.query", (1, D)), ("global_latents", (4, D)), ("intera_coord_project.weight", (D, 4))
        )
    }  # fmt: skip
    assert found == {
        "ref_attn.query": "f8e2022edbbaf4a1",
        "global_latents": "7adb9a37865aa474",
        "intera_coord_project.weight": "be85beefc146faa3",
    }


@pytest.fixture(scope="module")
def pool() -> AttentionPool:
    pool = AttentionPool(D)
    pool.load_state_dict({"query": golden_tensor("ref_attn.query", 1, D)})
    return pool


@pytest.fixture(scope="module")
def tate() -> TextEnhancement:
    tate = TextEnhancement(D, TateConfig(form="official")).eval()
    ours = {
        "coordinates": pair("intera_coord_project", D, 4),
        "fuse": pair("intera_fuse", D, 2 * D),
        "functional": pair("enhanced_reasoning_pooling.functional_proj", D, D),
        "fusion": pair("enhanced_reasoning_pooling.fusion", D, 2 * D),
        "norm": pair("enhanced_reasoning_pooling.layer_norm", D),
        "queries": {"query": golden_tensor("enhanced_reasoning_pooling.multi_query", 4, D)},
    }
    tate.load_state_dict({f"{name}.{leaf}": v for name, leaves in ours.items() for leaf, v in leaves.items()})
    return tate


@pytest.fixture(scope="module")
def template() -> Tensor:
    return golden_tensor("model.embed_tokens.weight", 512, D)[part("template")]


@pytest.mark.parametrize("case", TASKS)
@torch.no_grad()
def test_text_enhancement(tate: TextEnhancement, pool: AttentionPool, template: Tensor, case: str) -> None:
    rows = part(f"{case}/coordinates") if TASKS[case] == 0 else torch.zeros(3, 4)
    tokens, mask = template[None], torch.ones(1, len(template), dtype=torch.bool)
    (out,) = tate(tokens, mask, torch.tensor([TASKS[case]]), rows[None], pool)
    torch.testing.assert_close(out[:, :64], part(f"{case}/tate_first64"), atol=2e-5, rtol=0)
    torch.testing.assert_close(out.square().mean(1).sqrt(), part(f"{case}/tate_tokens_rms"), atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", ["interactive_box", "referring", "reasoning"])
@torch.no_grad()
def test_memory_and_query(case: str) -> None:
    memory = LatentMemory(D, MemoryConfig())
    memory.load_state_dict({"slots": golden_tensor("global_latents", 4, D)})
    pooled = memory(part(f"{case}/pooled_before_memory")[None], torch.tensor([TASKS[case]]))
    torch.testing.assert_close(pooled[0], part(f"{case}/pooled_after_memory"), atol=2e-5, rtol=0)

    head = QueryHead(D, 1024, 256, QueryHeadConfig())
    head.skip.load_state_dict(pair("origin_SEG_token_projector", 512, D), strict=True)
    head.join.load_state_dict(pair("SEG_token_projector", 256, 1024), strict=True)
    skip = head.skip(pooled)
    torch.testing.assert_close(skip[0], part(f"{case}/query_skip_512"), atol=2e-5, rtol=0)
    query = head.join(torch.cat([skip, part(f"{case}/query_refined_512")[None]], -1))
    torch.testing.assert_close(query[0], part(f"{case}/mask_query_256"), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("case", "samples"), [("reasoning", ("",)), ("batch", ("sample0_", "sample1_"))])
def test_losses_at_fixed_points(case: str, samples: tuple[str, ...]) -> None:
    seed = int(part("fixed_points_seed"))
    where = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).random((12544, 2), dtype=np.float32))
    logits = torch.stack([part(f"{case}/{s}logits_128") for s in samples])
    truth = torch.stack([
        torch.from_numpy(np.unpackbits(golden_parts()[f"{case}/{s}gt_512_packed"]).reshape(512, 512)) for s in samples
    ]).float()  # fmt: skip
    where = where[None].expand(len(samples), -1, -1)
    at, want = sample_at(logits, where), sample_at(truth, where)
    bce, dice = point_bce(at, want, len(samples)), point_dice(at, want, len(samples))
    assert float(bce) == pytest.approx(golden_parts()[f"{case}/loss_points_bce_10"][-1], abs=5e-5)
    assert float(dice) == pytest.approx(golden_parts()[f"{case}/loss_points_dice_10"][-1], abs=5e-6)


def test_the_mask_at_full_size() -> None:
    logits = part("reasoning/logits_128")[None, None]
    mask = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)[0, 0] > 0
    want = np.unpackbits(golden_parts()["reasoning/mask_512_packed"]).reshape(512, 512).astype(bool)
    assert np.count_nonzero(mask.numpy() != want) <= 10
