"""CLIP Surgery on small random models: against loops that follow the paper's formulas, and at its edges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SiglipConfig, SiglipModel

from terraprompt.errors import CheckpointError, ConfigError, PromptError, SceneError
from terraprompt.models.clip_prompts import OVERHEAD_TEMPLATES
from terraprompt.models.clip_surgery import ClipSurgery, dual_path, feature_surgery, normalised, upsampled

_LETTERS = [chr(code) for code in range(33, 127)]
_WORDS = [*_LETTERS, *(letter + "</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
_VOCABULARY = {word: number for number, word in enumerate(_WORDS)}
_END = len(_WORDS) - 1


def _written(folder: Path, kind: Any, config: Any) -> Path:
    torch.manual_seed(6)
    model = kind(config)
    for value in model.parameters():  # the usual start is so small that all attention would be uniform
        value.data.normal_(std=0.3)
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=_VOCABULARY, merges=[]).save_pretrained(folder)
    return folder


_TEXT = {
    "vocab_size": len(_WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": _END - 1,
    "eos_token_id": _END,
    "pad_token_id": _END,
    "max_position_embeddings": 77,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=24)
    return _written(tmp_path_factory.mktemp("clip"), CLIPModel, config)


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SiglipConfig(text_config=_TEXT | {"projection_size": 32}, vision_config=_VISION)
    return _written(tmp_path_factory.mktemp("siglip"), SiglipModel, config)


@pytest.fixture(scope="module")
def load(clip_folder: Path) -> Callable[..., ClipSurgery]:
    def loaded(**options: Any) -> ClipSurgery:
        return ClipSurgery.load(
            clip_folder, **({"layers": 2, "templates": ("a photo of {}.", "{} from above.")} | options)
        )

    return loaded


def _picture(seed: int, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- the paper's formulas, one number at a time -----------------------------------------------------------------


class _Loops:
    """Dual paths in float64: every attention weight and feed-forward value by a loop over heads and tokens."""

    def __init__(self, model: Any, layers: int) -> None:
        self.w = {k: v.double().numpy() for k, v in model.state_dict().items()}
        vision = model.config.vision_config
        self.layers, self.depth, self.patch = layers, vision.num_hidden_layers, vision.patch_size
        self.side, self.heads = vision.image_size, vision.num_attention_heads

    def linear(self, name: str, x: NDArray[Any]) -> NDArray[Any]:
        return self.w[f"{name}.weight"] @ x + self.w.get(f"{name}.bias", 0.0)

    def norm(self, name: str, x: NDArray[Any]) -> NDArray[Any]:
        centred = x - x.mean()
        scaled = centred / np.sqrt((centred**2).mean() + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, name: str, tokens: list[NDArray[Any]], queries: str, keys: str) -> list[NDArray[Any]]:
        q, k, v = ([self.linear(f"{name}.{p}_proj", t) for t in tokens] for p in (queries, keys, "v"))
        out = []
        for i in range(len(tokens)):
            mixed = np.zeros(32)
            wide = 32 // self.heads
            for head in (slice(h * wide, (h + 1) * wide) for h in range(self.heads)):
                scores = np.array([q[i][head] @ k[j][head] / wide**0.5 for j in range(len(tokens))])
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                for j, weight in enumerate(weights):
                    mixed[head] += weight * v[j][head]
            out.append(self.linear(f"{name}.out_proj", mixed))
        return out

    def features(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """(1 + patches, 24) unit features: class token of the original path, patches of the new one."""
        vision = "vision_model"
        kernel = self.w[f"{vision}.embeddings.patch_embedding.weight"]
        tokens = [self.w[f"{vision}.embeddings.class_embedding"]]
        patch = self.patch
        for top in range(0, self.side, patch):
            for left in range(0, self.side, patch):
                tokens.append((kernel * pixels[None, :, top : top + patch, left : left + patch]).sum(axis=(1, 2, 3)))
        places = self.w[f"{vision}.embeddings.position_embedding.weight"]
        x = [self.norm(f"{vision}.pre_layrnorm", t + p) for t, p in zip(tokens, places, strict=True)]
        new: list[NDArray[Any]] | None = None
        for number in range(self.depth):
            block = f"{vision}.encoder.layers.{number}"
            states = [self.norm(f"{block}.layer_norm1", t) for t in x]
            if number >= self.depth - self.layers:
                added = self.attention(f"{block}.self_attn", states, "v", "v")
                new = [before + plus for before, plus in zip(new or x, added, strict=True)]
            raw = self.attention(f"{block}.self_attn", states, "q", "k")
            x = [t + a for t, a in zip(x, raw, strict=True)]
            for i, t in enumerate(x):
                inner = self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.layer_norm2", t))
                x[i] = t + self.linear(f"{block}.mlp.fc2", inner / (1 + np.exp(-1.702 * inner)))
        assert new is not None
        chosen = [x[0], *new[1:]]
        projected = [self.linear("visual_projection", self.norm(f"{vision}.post_layernorm", t)) for t in chosen]
        return np.stack([p / np.linalg.norm(p) for p in projected])


def _surgery_by_loops(image: NDArray[Any], text: NDArray[Any]) -> NDArray[Any]:
    """Feature surgery as the paper builds it: the array of products, its weights, its mean, the sum of channels."""
    class_scores = np.exp(2 * (text @ image[0]))
    weights = class_scores / class_scores.sum()
    weights /= weights.mean()
    out = np.zeros((len(image), len(text)))
    for i in range(len(image)):
        products = [image[i] * text[t] * weights[t] for t in range(len(text))]
        redundant = sum(products) / len(products)
        for t in range(len(text)):
            out[i, t] = (products[t] - redundant).sum()
    return out


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_equals_the_papers_formulas(load: Callable[..., ClipSurgery], layers: int) -> None:
    surgery = load(layers=layers)
    image, phrases = _picture(1), ["roof", "solar panel", "boat"]
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    slow = _Loops(surgery.model, layers).features(((image / 255 - mean) / deviation).transpose(2, 0, 1))
    fast = surgery.image_features([image], size=32)[0].numpy()
    np.testing.assert_allclose(fast, slow, atol=1e-5, rtol=0)

    text, empty = (surgery.text_features(p).double().numpy() for p in (phrases, [""]))
    with_empty = surgery.similarity([image], phrases, size=32)[0].reshape(3, 16)
    np.testing.assert_allclose(with_empty, (slow @ (text - empty).T)[1:].T, atol=1e-5, rtol=0)
    among = surgery.similarity([image], phrases, size=32, redundant=None)[0].reshape(3, 16)
    np.testing.assert_allclose(among, _surgery_by_loops(slow, text)[1:].T, atol=1e-5, rtol=0)


#: Patch, layers and heads of the public models; two by two patches, since the loops are slow.
PUBLIC = {"ViT-B/16": (16, 12, 4), "ViT-B/32": (32, 12, 4), "ViT-L/14": (14, 24, 8)}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_shapes_equal_the_papers_formulas(name: str, tmp_path: Path) -> None:
    patch, depth, heads = PUBLIC[name]
    shape = {"patch_size": patch, "num_hidden_layers": depth, "num_attention_heads": heads, "image_size": 2 * patch}
    config = CLIPConfig(text_config=_TEXT, vision_config=_VISION | shape, projection_dim=24)
    surgery = ClipSurgery.load(_written(tmp_path, CLIPModel, config))
    assert surgery.layers == 6
    image = _picture(3, 2 * patch, 2 * patch)
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    slow = _Loops(surgery.model, 6).features(((image / 255 - mean) / deviation).transpose(2, 0, 1))
    np.testing.assert_allclose(surgery.image_features([image], size=2 * patch)[0].numpy(), slow, atol=1e-5, rtol=0)
    side = {16: 32, 32: 16, 14: 36}[patch]
    maps = surgery.similarity([_picture(4, 30, 50)], ["grey roof"])
    assert maps.shape == (1, 1, side, side)
    assert np.isfinite(maps).all()


def test_differs_from_plain_attention_and_from_unshared_features(load: Callable[..., ClipSurgery]) -> None:
    plain, surgery = load(layers=0), load()
    before, after = (s.image_features([_picture(2)], size=32)[0] for s in (plain, surgery))
    torch.testing.assert_close(before[0], after[0])  # the class token keeps the original path
    assert (before[1:] - after[1:]).norm(dim=-1).min() > 0.1
    raw = before[1:] @ plain.text_features(["roof"]).T
    ours = surgery.similarity([_picture(2)], ["roof"], size=32).reshape(-1, 1)
    assert abs(np.corrcoef(raw.numpy().T, ours.T)[0, 1]) < 0.9


def test_no_consistent_layer_is_plain_clip(load: Callable[..., ClipSurgery]) -> None:
    """Size and positions too: what transformers itself returns for a picture of another shape."""
    surgery = load(layers=0)
    pixels = torch.randn(2, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        new, original = dual_path(surgery.model.vision_model, pixels, 0)
        theirs = surgery.model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(new, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(original, theirs, atol=1e-5, rtol=1e-5)


def test_new_path_starts_where_it_branches_off(load: Callable[..., ClipSurgery]) -> None:
    """No layer before the branch is touched: one consistent layer differs from two by the second alone."""
    vision = load().model.vision_model
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        paths = [dual_path(vision, pixels, layers) for layers in (1, 2)]
    torch.testing.assert_close(paths[0][1], paths[1][1])
    assert (paths[0][0] - paths[1][0]).abs().max() > 0.1


# --- features ---------------------------------------------------------------------------------------------------


def test_phrase_feature_is_the_unit_mean_over_the_templates(load: Callable[..., ClipSurgery]) -> None:
    surgery = load()
    sentences = ["a photo of grey roof.", "grey roof from above."]
    rows = [
        surgery.model.get_text_features(**surgery.tokenizer(s, return_tensors="pt")).pooler_output for s in sentences
    ]
    mean = torch.cat([row / row.norm() for row in rows]).mean(dim=0)
    found = surgery.text_features([" grey roof ", "boat", "grey roof"])
    torch.testing.assert_close(found[0], mean / mean.norm(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0], found[2])
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_templates_are_distinct_sentences_with_one_place() -> None:
    assert len(set(OVERHEAD_TEMPLATES)) == len(OVERHEAD_TEMPLATES) >= 24
    assert all(template.count("{}") == 1 and template.endswith(".") for template in OVERHEAD_TEMPLATES)


def test_shared_features_cancel() -> None:
    """What is added to all phrases alike does not show, with and without a redundant text."""
    generator = torch.Generator().manual_seed(3)
    image, text, shared = (torch.randn(*s, generator=generator) for s in ((2, 5, 8), (3, 8), (1, 8)))
    torch.testing.assert_close(feature_surgery(image, text + shared, shared), image @ text.T)
    assert feature_surgery(image, text).sum(dim=-1).abs().max() < 1e-5
    assert feature_surgery(image, text[:1]).abs().max() == 0


def test_long_phrase_is_cut_with_a_warning(load: Callable[..., ClipSurgery], caplog: pytest.LogCaptureFixture) -> None:
    features = load().text_features(["roof " * 60])
    assert torch.isfinite(features).all()
    assert "cut to 77" in caplog.text


# --- pictures ---------------------------------------------------------------------------------------------------


def test_batches_sizes_and_order(load: Callable[..., ClipSurgery]) -> None:
    surgery = load()
    images = [_picture(4, 32, 32), _picture(5, 7, 90), _picture(6, 200, 3), _picture(7, 50, 1), _picture(8, 1, 1)]
    together = surgery.similarity(images, ["roof", "boat"], size=(40, 51), batch=2)
    assert together.shape == (5, 2, 5, 6)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    for image, found in zip(images, together, strict=True):
        alone = surgery.similarity([image], ["roof", "boat"], size=(40, 51))[0]
        np.testing.assert_allclose(found, alone, atol=1e-5)
    swapped = surgery.similarity(images[:1], ["boat", "roof"], size=(40, 51))
    np.testing.assert_allclose(swapped[0, ::-1], together[0], atol=1e-5)
    assert surgery.similarity([], ["roof"], size=(40, 51)).shape == (0, 1, 5, 6)


def test_maps_lie_as_the_picture_lies(load: Callable[..., ClipSurgery]) -> None:
    """The patch that changes most is the one whose pixels changed: rows and columns are not exchanged."""
    surgery = load(layers=1)
    image = _picture(9, 32, 64)
    changed = image.copy()
    changed[8:16, 40:48] = 255 - changed[8:16, 40:48]
    maps = surgery.similarity([image, changed], ["roof", "boat", "road"], size=(32, 64))
    difference = np.abs(maps[1] - maps[0]).sum(axis=0)
    assert difference.shape == (4, 8)
    assert np.unravel_index(difference.argmax(), difference.shape) == (1, 5)


def test_grid_holds_whole_patches(load: Callable[..., ClipSurgery]) -> None:
    surgery = load()
    assert surgery.grid() == (64, 64)
    assert surgery.grid((31, 3)) == (3, 1)


def test_bfloat16_stays_near_float32(load: Callable[..., ClipSurgery]) -> None:
    images, phrases = [_picture(10, 64, 64)], ["roof", "boat"]
    exact, short = (load(dtype=d).similarity(images, phrases, size=64) for d in (torch.float32, torch.bfloat16))
    assert short.dtype == np.float32
    assert np.corrcoef(exact.ravel(), short.ravel())[0, 1] > 0.99
    assert np.abs(exact - short).max() > 0  # it did run in half precision


def test_normalised_and_upsampled() -> None:
    maps = np.array([[[[1, 3], [2, 5]], [[4, 4], [4, 4]]]], np.float32)
    found = normalised(maps)
    np.testing.assert_allclose(found[0, 0], [[0, 0.5], [0.25, 1]])
    assert (found[0, 1] == 0).all()
    grown = upsampled(maps, (6, 4))
    assert grown.shape == (1, 2, 6, 4)
    np.testing.assert_allclose(grown[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]], [1, 3, 2, 5])


# --- SigLIP -----------------------------------------------------------------------------------------------------


def test_siglip_patch_alone_is_the_pooled_picture(siglip_folder: Path) -> None:
    """A picture of one patch: its own feature and the model's pooled one are the same thing."""
    surgery = ClipSurgery.load(siglip_folder, layers=0)
    features = surgery.image_features([_picture(11, 8, 8)], size=8)[0]
    torch.testing.assert_close(features[0], features[1], atol=1e-5, rtol=0)
    pixels = (torch.from_numpy(_picture(11, 8, 8)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    pooled = surgery.model.vision_model(pixels, interpolate_pos_encoding=True).pooler_output[0]
    torch.testing.assert_close(features[0], pooled / pooled.norm(), atol=1e-5, rtol=0)


def test_siglip_maps(siglip_folder: Path) -> None:
    plain, surgery = (ClipSurgery.load(siglip_folder, layers=n, templates=("{}.",)) for n in (0, 2))
    maps = surgery.similarity([_picture(12, 30, 50)], ["roof", "boat"], size=(32, 48))
    assert maps.shape == (1, 2, 4, 6)
    assert np.abs(maps - plain.similarity([_picture(12, 30, 50)], ["roof", "boat"], size=(32, 48))).max() > 1e-3
    tokens = surgery.tokenizer("roof.", padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    expected = surgery.model.get_text_features(input_ids=tokens).pooler_output[0]
    torch.testing.assert_close(surgery.text_features(["roof"])[0], expected / expected.norm(), atol=1e-5, rtol=0)


# --- checkpoints and bad input ----------------------------------------------------------------------------------


def test_colours_of_the_checkpoint(clip_folder: Path, tmp_path: Path) -> None:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    usual = ClipSurgery.load(tmp_path, layers=2).image_features([_picture(13)], size=32)
    colours = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(colours))
    own = ClipSurgery.load(tmp_path, layers=2).image_features([_picture(13)], size=32)
    assert (usual - own).abs().max() > 1e-3


def test_checkpoint_without_a_weight_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    state.pop("vision_model.encoder.layers.3.self_attn.v_proj.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks weights.*v_proj"):
        ClipSurgery.load(tmp_path, layers=2)


def test_checkpoint_without_tokenizer_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    with pytest.raises(CheckpointError, match="tokenizer"):
        ClipSurgery.load(tmp_path, layers=2)


@pytest.mark.parametrize("damage", ["no folder", "no config", "other model", "no weights", "truncated"])
def test_other_checkpoints_are_refused(clip_folder: Path, tmp_path: Path, damage: str) -> None:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    folder = tmp_path
    weights = tmp_path / "model.safetensors"
    if damage == "no folder":
        folder = tmp_path / "elsewhere"
    elif damage == "no config":
        (tmp_path / "config.json").unlink()
    elif damage == "other model":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    elif damage == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"Received: .*"):
        ClipSurgery.load(folder, layers=2)


def test_bad_options_and_pictures(load: Callable[..., ClipSurgery]) -> None:
    for options in (
        {"layers": 5},
        {"layers": -1},
        {"templates": ()},
        {"templates": ("a roof",)},
        {"dtype": torch.float16},
    ):
        with pytest.raises(ConfigError):
            load(**options)
    surgery, image = load(), _picture(14)
    for phrases in ([], [" "], ["roof", ""]):
        with pytest.raises(PromptError):
            surgery.similarity([image], phrases)
    with pytest.raises(PromptError, match="second phrase"):
        surgery.similarity([image], ["roof"], redundant=None)
    for options in ({"size": 0}, {"size": (8, 0)}, {"batch": 0}):
        with pytest.raises(ConfigError):
            surgery.similarity([image], ["roof"], **options)
    for wrong in (image[..., 0], image[..., :2], image.astype(np.float32), image[:0]):
        with pytest.raises(SceneError, match="uint8 RGB"):
            surgery.similarity([wrong], ["roof"])


def test_offline_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"could not be downloaded.*hf download nobody/clip --local-dir DIR"):
        ClipSurgery.load("nobody/clip")
    with pytest.raises(CheckpointError, match="no such folder"):
        ClipSurgery.load("./nowhere")
