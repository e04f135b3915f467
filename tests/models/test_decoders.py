"""The decoders against the stock Mask2Former of transformers, given the same weights."""

from dataclasses import replace

import pytest
import torch
from transformers import Mask2FormerConfig, SwinConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoder,
    Mask2FormerPixelDecoder,
)

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.config import MaskDecoderConfig, PixelDecoderConfig
from terraprompt.models.unigeoseg.mask_decoder import MaskDecoder
from terraprompt.models.unigeoseg.pixel_decoder import PixelDecoder, PixelFeatures

WIDTH = 32


@pytest.fixture
def stock_config():
    return Mask2FormerConfig(
        backbone_config=SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]),
        feature_size=WIDTH, mask_feature_size=WIDTH, hidden_dim=WIDTH, encoder_feedforward_dim=48, encoder_layers=2,
        num_attention_heads=4, dim_feedforward=40, decoder_layers=4, num_queries=1, dropout=0.0,
    )  # fmt: skip


def randomise(module, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)


def test_pixel_decoder_equals_mask2former(stock_config):
    channels = (8, 16, 24, 40)
    stock = Mask2FormerPixelDecoder(stock_config, feature_channels=channels).eval()
    ours = PixelDecoder(PixelDecoderConfig(WIDTH, 2, 48, 4, 4, 32, lateral_relu=False), channels).eval()
    randomise(stock, 0)
    renamed = {}
    for name, value in stock.state_dict().items():
        name = name.replace("input_projections.", "input_proj.").replace("encoder.layers.", "layers.")
        name = name.replace("self_attn_layer_norm", "norm1").replace("final_layer_norm", "norm2")
        name = name.replace("fc1", "linear1").replace("fc2", "linear2").replace("mask_projection", "mask_features")
        name = name.replace("adapter_1", "lateral").replace("layer_1", "output")
        renamed[name] = value
    missing = ours.load_state_dict(renamed, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) == {"lateral.0.bias", "output.0.bias"}  # stock has none beside its norms
    with torch.no_grad():
        ours.lateral[0].bias.zero_()
        ours.output[0].bias.zero_()
        features = [torch.randn(2, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
        want = stock(features)
        got = ours(features)
    torch.testing.assert_close(got.mask, want.mask_features, atol=2e-4, rtol=1e-4)
    for a, b in zip(got.scales, want.multi_scale_features, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("heads", [8, 1])  # narrow heads sample maps, wide ones rows of a table
def test_fine_tokens_may_be_looked_at_without_looking_themselves(heads):
    """A pixel decoder whose queries begin at stride 16: the literal rule, token by token."""
    channels, shape = (8, 16, 24, 40), PixelDecoderConfig(WIDTH, 2, 48, heads, 4, 8, finest=16)
    all_look, coarse_look = (
        PixelDecoder(replace(shape, finest=8), channels).eval(),
        PixelDecoder(shape, channels).eval(),
    )
    randomise(all_look, 0)
    coarse_look.load_state_dict(all_look.state_dict())
    features = [torch.randn(2, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
    seen = []
    for layer in all_look.layers:  # the full decoder with its finest tokens put back after every layer
        layer.register_forward_hook(
            lambda _, given, out: seen.append(0) or torch.cat([out[:, : 6 + 24], given[0][:, 6 + 24 :]], 1)
        )
    with torch.no_grad():
        want, got = all_look(features), coarse_look(features)
        projected = coarse_look.input_proj[2](features[1])
    assert len(seen) == 2
    for a, b in zip((got.mask, *got.scales), (want.mask, *want.scales), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.scales[2], projected)
    with pytest.raises(ConfigError, match="stride 8 or 16"):
        replace(shape, finest=4)


def test_mask_decoder_equals_mask2former(stock_config):
    stock = Mask2FormerMaskedAttentionDecoder(stock_config).eval()
    randomise(stock, 1)
    ours = MaskDecoder(WIDTH, MaskDecoderConfig(layers=3, heads=4, feedforward=40)).eval()
    renamed = {}
    for name, value in stock.state_dict().items():
        name = name.replace("layernorm.", "norm.").replace("self_attn_layer_norm", "self_norm")
        name = name.replace("cross_attn_layer_norm", "cross_norm").replace("final_layer_norm", "ffn_norm")
        name = (
            name.replace("fc1", "linear1")
            .replace("fc2", "linear2")
            .replace("cross_attn.in_proj_", "cross_attn.in_proj.")
        )
        for i in range(3):
            name = name.replace(f"mask_predictor.mask_embedder.{i}.0.", f"mask_embed.{2 * i}.")
        renamed[name] = value
    for i in range(3):
        parts = [f"layers.{i}.self_attn.{x}_proj" for x in "qkv"]
        for leaf in ("weight", "bias"):
            renamed[f"layers.{i}.self_attn.in_proj.{leaf}"] = torch.cat([renamed.pop(f"{p}.{leaf}") for p in parts])
    state = ours.state_dict()
    for name in state:
        if name != "level_embed.weight":
            state[name] = renamed[name]
    ours.load_state_dict(state)
    query = torch.randn(2, WIDTH)
    mask = torch.randn(2, WIDTH, 16, 24)
    scales = [torch.randn(2, WIDTH, 16 // s, 24 // s) for s in (8, 4, 2)]
    with torch.no_grad():
        drawing = ours(query, PixelFeatures(mask, tuple(scales)))
        from terraprompt.models.unigeoseg.attention import sine_position

        out = stock(
            inputs_embeds=query[None],
            multi_stage_positional_embeddings=[
                sine_position(*s.shape[-2:], WIDTH)[:, None].expand(-1, 2, -1) for s in scales
            ],
            pixel_embeddings=mask,
            encoder_hidden_states=[
                (s.flatten(2) + ours.level_embed.weight[i][None, :, None]).permute(2, 0, 1)
                for i, s in enumerate(scales)
            ],
            query_position_embeddings=torch.zeros(1, 2, WIDTH),
            feature_size_list=[s.shape[-2:] for s in scales],
        )
    assert len(drawing.logits) == len(out.masks_queries_logits) == 4
    for got, want in zip(drawing.logits, out.masks_queries_logits, strict=True):
        torch.testing.assert_close(got, want[:, 0], atol=1e-4, rtol=1e-4)
