"""Parts at the full model's settings, and the members that the config can name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg import Dialogue, UniGeoSeg, UniGeoSegConfig, preset
from terraprompt.models.unigeoseg.config import (
    CausalConfig,
    ConnectorConfig,
    MemoryConfig,
    TateConfig,
    VisionConfig,
)
from terraprompt.models.unigeoseg.connector import MultiScaleConnector, SparseConnector
from terraprompt.models.unigeoseg.pixel_decoder import _sample_maps, _sample_rows
from terraprompt.models.unigeoseg.swin import Swin
from terraprompt.models.unigeoseg.tate import AttentionPool, MeanPool
from terraprompt.models.unigeoseg.vision import build_vision

TINY = preset("tiny")
LLAMA = CausalConfig(
    "llama",
    {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 300,
    },
)  # fmt: skip


def dialogue() -> Dialogue:
    generator = torch.Generator().manual_seed(0)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(0, 300, shape, generator=generator)

    refer = torch.arange(9)[None] < torch.tensor([[9], [4], [6]])
    coordinates = torch.rand(3, 3, 4, generator=generator)
    return Dialogue(ids(5), ids(7), ids(3, 9), refer, torch.tensor([0, 1, 2]), coordinates, torch.tensor([0, 1, 1]))


def built(config: UniGeoSegConfig) -> UniGeoSeg:
    torch.manual_seed(0)
    return UniGeoSeg(config).eval()


# Swin and connectors


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (36, 20)])
@torch.no_grad()
def test_swin_takes_any_multiple_of_4(size: tuple[int, int]) -> None:
    vision = build_vision(TINY.vision).eval()
    assert isinstance(vision, Swin)
    height, width = size
    wanted = []
    for level, channels in enumerate(TINY.vision.channels):
        step = 4 * 2**level
        wanted.append((2, channels, -(-height // step), -(-width // step)))
    assert [tuple(f.shape) for f in vision(torch.randn(2, 3, *size))] == wanted


@torch.no_grad()
def test_windows_of_one_picture_do_not_look_at_another() -> None:
    torch.manual_seed(0)
    vision = build_vision(TINY.vision).eval()
    x = torch.randn(2, 3, 96, 96)
    for together, alone in zip(vision(x), vision(x[1:]), strict=True):
        torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_shifted_windows_do_not_look_round_the_edge() -> None:
    """A change at the right edge reaches no token of the left edge within the first level's two blocks."""
    torch.manual_seed(0)
    vision = Swin((16, 32, 64, 128), (2, 0, 0, 0), (1, 2, 4, 8), 4)
    x = torch.randn(1, 3, 128, 128)
    other = x.clone()
    other[..., -4:] += 1
    change = (vision(x)[0] - vision(other)[0]).abs().amax((0, 1, 2))
    assert change[-4:].min() > 0
    assert change[:16].max() == 0


@pytest.mark.parametrize(
    ("connector", "side", "tokens"),
    [
        (SparseConnector(16, 32, 16, (1, 2)), 16, 64),
        (SparseConnector(16, 32, 32, (2, 2)), 32, 64),
        (SparseConnector(16, 32, 7, (1, 2)), 7, 16),
        (MultiScaleConnector(16, 32, 16, 4), 16, 68),
        (MultiScaleConnector(16, 32, 7, 2), 7, 18),
    ],
)
@torch.no_grad()
def test_connectors_say_how_many_tokens_they_make(connector: Any, side: int, tokens: int) -> None:
    assert connector.tokens == tokens
    assert connector(torch.randn(2, 16, side, side)).shape == (2, tokens, 32)


@pytest.mark.parametrize("heads", [1, 4])
def test_both_ways_of_sampling_agree(heads: int) -> None:
    """Deformable attention, far beyond the edges of every level too."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (6, 10), (12, 20)]
    count = sum(h * w for h, w in shapes)
    values = torch.randn(2, count, heads, 32, generator=generator)
    offsets = torch.randn(2, count, heads, 3, 4, 2, generator=generator) * 4
    offsets[0, 0] *= 1e6
    weights = torch.rand(2, count, heads, 3, 4, generator=generator)
    reference = torch.rand(count, 2, generator=generator)
    maps, rows = (f(values, offsets, weights, reference, shapes) for f in (_sample_maps, _sample_rows))
    torch.testing.assert_close(rows, maps, atol=2e-5, rtol=0)


# members


def test_the_pool_without_a_query_is_a_mean_over_real_tokens() -> None:
    tokens, mask = torch.randn(2, 5, 8), torch.arange(5)[None] < torch.tensor([[5], [3]])
    pool = MeanPool()
    torch.testing.assert_close(pool(tokens, mask)[1, 0], tokens[1, :3].mean(0))
    torch.testing.assert_close(pool.weights(tokens, mask) @ tokens, pool(tokens, mask))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unigeoseg-official", {"tokens": 64, "scope": "template", "memory": "pooled", "pool": AttentionPool}),
        ("unigeoseg-paper", {"tokens": 64, "scope": "instruction", "memory": "tokens", "pool": AttentionPool}),
        ("segearth-r1", {"tokens": 64, "scope": None, "memory": None, "pool": MeanPool}),
    ],
)
def test_named_members_at_full_size(name: str, parts: dict[str, Any]) -> None:
    with init_empty_weights():
        model = UniGeoSeg(preset(name))
    assert model.reader is not None
    assert model.reader.connector.tokens == parts["tokens"]
    assert (model.reader.scope, model.memory_scope) == (parts["scope"], parts["memory"])
    assert isinstance(model.pool, parts["pool"])
    assert 1.5e9 < sum(p.numel() for p in model.parameters()) < 1.7e9
    assert len(model.mask_decoder.layers) == 9
    assert len(model.pixel_decoder.layers) == 6


CHANGES: dict[str, dict[str, Any]] = {
    "official": {},
    "paper": {"tate": TateConfig(form="paper"), "memory": MemoryConfig(scope="tokens", lambda_=(0.2, 0.2, 0.2))},
    "template in the paper's form": {"tate": TateConfig(form="paper", scope="template")},
    "instruction in the official form": {"tate": TateConfig(form="official", scope="instruction")},
    "no TATE": {"tate": None},
    "no memory": {"memory": None},
    "mean": {"tate": None, "memory": None, "pool": "mean"},
    "MSCC": {"connector": ConnectorConfig("mscc")},
    "llama": {"causal": LLAMA},
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_choice_gives_masks_and_gradients(change: str) -> None:
    model = built(replace(TINY, **CHANGES[change]))
    images = torch.rand(2, 3, 128, 128) * 255
    prediction = model(images, dialogue())
    assert len(prediction.logits) == 4
    assert all(level.shape == (3, 32, 32) for level in prediction.logits)
    torch.stack([level.square().mean() for level in prediction.logits]).sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"reader.lm_head.weight"}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_every_choice_goes_on_from_what_it_read(change: str) -> None:
    model, asked = built(replace(TINY, **CHANGES[change])), dialogue()
    res5 = model.encode_image(torch.rand(2, 3, 128, 128) * 255)[-1]
    whole = model.read(asked, res5)
    assert whole.context is None
    begun = model.begin(asked.prefix)
    opened = model.open(res5, begun).rows(asked.image)
    for parts in (model.read(asked, None, after=[begun, opened]), model.read(asked, res5, after=[begun])):
        torch.testing.assert_close(parts.states[asked.refer], whole.states[asked.refer], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_lambda_is_of_each_sample() -> None:
    """Interactive has lambda 0: another memory changes the other tasks' queries alone."""
    model, asked = built(TINY), dialogue()
    assert model.memory is not None
    res5 = model.encode_image(torch.rand(2, 3, 128, 128) * 255)[-1]
    before = model.encode_text(asked, res5)
    model.memory.slots.add_(1)
    moved = (model.encode_text(asked, res5) - before).abs().amax(1) > 0
    assert moved.tolist() == [False, True, True]


@pytest.mark.parametrize(
    "change",
    [
        {"causal": None},
        {"connector": None},
        {"vision": VisionConfig()},
        {"language": "sentence", "tate": TateConfig(scope="template")},
        {"pool": "median"},
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(TINY, **change)


def test_what_a_member_lacks_is_said() -> None:
    with pytest.raises(ConfigError, match="language_width"):
        UniGeoSeg(replace(TINY, language_width=32))
    with pytest.raises(ConfigError, match="sentence encoder"):
        UniGeoSeg(preset("nano")).begin(torch.zeros(3, dtype=torch.int64))
    headless = replace(TINY, causal=replace(TINY.causal or LLAMA, lm_head=False))
    reader = UniGeoSeg(headless).reader
    assert reader is not None
    with pytest.raises(ConfigError, match="left out"):
        reader.answer_loss(torch.zeros(1, 2, 64), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="image features"):
        reader(dialogue(), None)
