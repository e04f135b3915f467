"""The latent memory and the query head."""

from __future__ import annotations

import pytest
import torch

from terraprompt.models.unigeoseg import Instructions, UniGeoSeg, UniGeoSegConfig
from terraprompt.models.unigeoseg.config import (
    MaskDecoderConfig,
    MemoryConfig,
    PixelDecoderConfig,
    QueryHeadConfig,
    TateConfig,
)
from terraprompt.models.unigeoseg.memory import LatentMemory
from terraprompt.models.unigeoseg.query_head import QueryHead

D = 12


@torch.no_grad()
def test_memory_pulls_each_sample_by_its_own_task() -> None:
    torch.manual_seed(0)
    memory = LatentMemory(D, MemoryConfig(slots=3, lambda_=(0.0, 0.2, 0.5)))
    memory.slots.copy_(torch.randn(3, D))
    x, task = torch.randn(3, D), torch.tensor([2, 0, 1])
    out = memory(x, task)
    recalled = torch.stack([(memory.slots @ v).softmax(0) @ memory.slots for v in x])
    assert torch.equal(out[1], x[1])
    torch.testing.assert_close(out[0], 0.5 * x[0] + 0.5 * recalled[0])
    torch.testing.assert_close(out[2], 0.8 * x[2] + 0.2 * recalled[2])


@torch.no_grad()
def test_memory_on_tokens_is_memory_on_each_token() -> None:
    memory = LatentMemory(D, MemoryConfig(slots=4))
    x, task = torch.randn(2, 5, D), torch.tensor([1, 2])
    out = memory(x, task)
    assert out.shape == x.shape
    for i in range(5):
        torch.testing.assert_close(out[:, i], memory(x[:, i], task))


def test_memory_mix_is_not_in_the_weights() -> None:
    assert set(LatentMemory(D, MemoryConfig()).state_dict()) == {"slots"}


@torch.no_grad()
def test_query_head_looks_at_the_right_image() -> None:
    torch.manual_seed(0)
    head = QueryHead(D, 7, 9, QueryHeadConfig(width=16, heads=4, head_width=4)).eval()
    pooled, res5 = torch.randn(3, D), torch.randn(2, 7, 4, 3)
    image = torch.tensor([1, 0, 1])
    out = head(pooled, res5, image)
    assert out.shape == (3, 9)
    for i in range(3):
        torch.testing.assert_close(out[i : i + 1], head(pooled[i : i + 1], res5[image[i]][None]))
    changed = head(pooled, torch.stack([res5[0] + 1, res5[1]]), image)
    assert torch.equal(changed[0], out[0])
    assert not torch.allclose(changed[1], out[1])


@torch.no_grad()
def test_query_does_not_depend_on_the_order_of_image_tokens() -> None:
    head = QueryHead(D, 7, 9, QueryHeadConfig(width=16, heads=4, head_width=4)).eval()
    pooled, res5 = torch.randn(1, D), torch.randn(1, 7, 4, 3)
    torch.testing.assert_close(head(pooled, res5), head(pooled, res5.flip(2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scope", ["pooled", "tokens"])
@torch.no_grad()
def test_asking_ignores_padding(scope: str) -> None:
    torch.manual_seed(0)
    config = UniGeoSegConfig(
        language_width=D,
        tate=TateConfig(queries=2, residual=True),
        memory=MemoryConfig(slots=2, scope=scope),  # type: ignore[arg-type]
        query_head=QueryHeadConfig(width=16, heads=2, head_width=8),
        pixel_decoder=PixelDecoderConfig(width=16, layers=1, feedforward=16, heads=2, points=2, groups=4),
        mask_decoder=MaskDecoderConfig(layers=1, heads=2, feedforward=16),
    )
    model = UniGeoSeg(config).eval()
    states, res5 = torch.randn(3, 6, D), torch.randn(1, 320, 2, 2)
    mask = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    task, rows, image = torch.tensor([0, 1, 2]), torch.rand(3, 3, 4), torch.zeros(3, dtype=torch.int64)
    query = model.encode_text(Instructions(states, mask, task, rows, image), res5)
    assert query.shape == (3, 16)
    noisy = torch.where(mask[..., None], states, torch.full_like(states, 50.0))
    torch.testing.assert_close(
        model.encode_text(Instructions(noisy, mask, task, rows, image), res5), query, atol=1e-5, rtol=1e-5
    )
    for i, n in enumerate((6, 4, 2)):
        one = Instructions(states[i : i + 1, :n], mask[i : i + 1, :n], task[i : i + 1], rows[i : i + 1], image[:1])
        torch.testing.assert_close(model.encode_text(one, res5), query[i : i + 1], atol=1e-5, rtol=1e-5)
