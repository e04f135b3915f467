"""Points and boxes: every segmenter answers as its stock model does, and encodes an image once."""

from __future__ import annotations

import itertools
import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

import small_segmenters as small
from terraprompt.errors import EngineError, PromptError
from terraprompt.models.sam.sam_hq import HqMaskDecoder
from terraprompt.prompt import Prompt
from terraprompt.segmenters import PromptableSegmenter, load_segmenter

SAM, SAM2, TRACKER = "sam", "sam2", "sam3_tracker"
KINDS = (SAM, SAM2, TRACKER)
MAKERS = {SAM: small.sam_model, SAM2: small.sam2_model, TRACKER: small.sam3_tracker, "sam_hq": small.sam_hq_model}
SIZES = ((64, 64), (40, 90), (90, 40), (37, 1), (1, 200), (150, 170))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("segmenters")
    return {kind: small.saved(make(), root / kind) for kind, make in MAKERS.items()}


@pytest.fixture(scope="module")
def segmenters(folders):
    return {kind: load_segmenter(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def stock():
    """Models straight from transformers, with the same weights."""
    models = {kind: make() for kind, make in MAKERS.items()}
    # with the level that the tracker does not use gone, transformers' own code is right
    three = small.sam3_tracker(scales=small.ALL_LEVELS[:3])
    state = {k: v for k, v in models[TRACKER].state_dict().items() if "fpn_layers.3." not in k}
    three.load_state_dict(state, strict=True)
    return models | {TRACKER: three}


def prompts_for(height: int, width: int) -> list[Prompt]:
    """Points and boxes inside, on the border and in the corners."""
    corners = ((0.0, 0.0), (float(width), float(height)))
    box = (width * 0.2, height * 0.1, width * 0.9, height * 0.75)
    return [
        Prompt(points=((width / 2, height / 3),)),
        Prompt(points=corners, labels=(1, 0)),
        Prompt(boxes=(box,)),
        Prompt(boxes=((0, 0, width, height),)),
        Prompt(boxes=(box,), points=((width * 0.5, height * 0.5), (width * 0.6, height * 0.4))),
    ]


def on_stock(
    model: Any, kind: str, pixels: torch.Tensor, prompt: Prompt, size: tuple[int, int], multimask: bool
) -> Any:
    """``model.forward`` on the whole picture, and its masks at the picture's size by the stock processor's rule."""
    height, width = size
    side = pixels.shape[-1]
    scale = np.array([side / width, side / height])
    if kind in (SAM, "sam_hq"):
        longer = side / max(size)
        new = [max(1, int(height * longer + 0.5)), max(1, int(width * longer + 0.5))]
        scale = np.array([new[1] / width, new[0] / height])
    inputs = {}
    if prompt.points:
        points = torch.tensor(np.array(prompt.points) * scale - 0.5, dtype=torch.float32)
        inputs = {"input_points": points[None, None], "input_labels": torch.tensor(prompt.labels)[None, None]}
    if prompt.boxes:
        box = np.array(prompt.boxes[0]) * np.tile(scale, 2) - 0.5
        inputs["input_boxes"] = torch.tensor(box, dtype=torch.float32)[None, None]
    with torch.no_grad():
        out = model(pixel_values=pixels, multimask_output=multimask, **inputs)
    if kind in (SAM, "sam_hq"):
        masks = SamImageProcessorPil().post_process_masks(
            out.pred_masks, [list(size)], [new], binarize=False, pad_size={"height": side, "width": side}
        )[0]
    else:
        masks = F.interpolate(out.pred_masks[0], size, mode="bilinear", align_corners=False)
    best = int(out.iou_scores[0, 0].argmax())
    return masks[0, best].numpy(), float(out.iou_scores[0, 0, best]), out.get("object_score_logits")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_answers_are_those_of_the_stock_model(kind, size, segmenters, stock):
    segmenter = segmenters[kind]
    assert isinstance(segmenter, PromptableSegmenter)
    image = small.picture(*size)
    embedding = segmenter.embed([image])[0]
    assert embedding.size == size
    prompts = prompts_for(*size)
    pixels = segmenter.grid.pixels(image)[None]
    for prompt, answer in zip(prompts, segmenter.predict(embedding, prompts), strict=True):
        logits, score, seen = on_stock(stock[kind], kind, pixels, prompt, size, False)
        assert answer.logits.dtype == np.float32
        assert answer.logits.shape == size
        assert np.abs(answer.logits - logits).max() <= 1e-5 * max(1, np.abs(logits).max())
        assert answer.score == pytest.approx(score, abs=1e-5)
        if kind == SAM:
            assert answer.presence is None
        else:
            assert answer.presence == pytest.approx(float(seen.sigmoid()), abs=1e-5)
        assert answer.instances == ()


def test_prompts_matter(segmenters):
    for kind in (*KINDS, "sam_hq"):
        embedding = segmenters[kind].embed([small.picture(64, 64)])[0]
        answers = segmenters[kind].predict(embedding, prompts_for(64, 64))
        for first, second in itertools.pairwise(answers):
            assert np.abs(first.logits - second.logits).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_of_three_masks_the_best_is_kept(kind, folders, stock):
    segmenter = load_segmenter(folders[kind], multimask=True)
    image = small.picture(40, 90)
    prompt = Prompt(points=((30, 20),))
    answer = segmenter.predict(segmenter.embed([image])[0], [prompt])[0]
    logits, score, _ = on_stock(stock[kind], kind, segmenter.grid.pixels(image)[None], prompt, (40, 90), True)
    np.testing.assert_allclose(answer.logits, logits, rtol=1e-5, atol=1e-5)
    assert answer.score == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_ten_prompts_encode_once(kind, folders):
    segmenter = load_segmenter(folders[kind])
    encoder = segmenter.backbone if kind == TRACKER else segmenter.model.vision_encoder
    runs = []
    encoder.register_forward_hook(lambda *_: runs.append(1))
    embedding = segmenter.embed([small.picture(50, 60)])[0]
    for _ in range(2):
        assert len(segmenter.predict(embedding, prompts_for(50, 60))) == 5
    assert len(runs) == 1


@pytest.mark.parametrize("kind", MAKERS)
def test_many_prompts_together_are_each_alone(kind, segmenters, monkeypatch):
    segmenter = segmenters[kind]
    monkeypatch.setattr(segmenter, "together", 32)  # as on a GPU
    rng = np.random.default_rng(3)
    prompts = []
    for i in range(70):  # more than go through at once, shapes mixed
        points = tuple((float(x), float(y)) for x, y in rng.uniform(0, 48, (i % 3 + (i % 2 == 0), 2)))
        boxes = () if points and i % 4 else ((*rng.uniform(0, 20, 2), *rng.uniform(25, 48, 2)),)
        prompts.append(Prompt(points=points, boxes=boxes))
    embedding = segmenter.embed([small.picture(48, 48)])[0]
    together = segmenter.predict(embedding, prompts)
    for i in range(0, 70, 9):
        alone = segmenter.predict(embedding, [prompts[i]])[0]
        np.testing.assert_allclose(together[i].logits, alone.logits, rtol=1e-4, atol=1e-5)
        assert together[i].score == pytest.approx(alone.score, abs=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_many_images_together_are_each_alone(kind, segmenters):
    segmenter = segmenters[kind]
    images = [small.picture(30 + i, 50, seed=i) for i in range(6)]
    prompt = Prompt(points=((20, 20),))
    for image, embedding in zip(images, segmenter.embed(images), strict=True):
        together = segmenter.predict(embedding, [prompt])[0].logits
        alone = segmenter.predict(segmenter.embed([image])[0], [prompt])[0].logits
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert segmenter.embed([]) == []
    assert segmenter.predict(embedding, []) == []


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.08), ("fp16", 0.01)])
def test_half_precision_is_close(kind, precision, share, folders, segmenters):
    half = load_segmenter(folders[kind], precision=precision)
    assert half.info.settings["precision"] == precision
    image = small.picture(64, 80)
    prompts = prompts_for(64, 80)
    full = segmenters[kind].predict(segmenters[kind].embed([image])[0], prompts)
    for a, b in zip(full, half.predict(half.embed([image])[0], prompts), strict=True):
        difference = np.sqrt(((a.logits - b.logits) ** 2).mean())
        assert 0 < difference < share * a.logits.std()


# SAM-HQ, whose decoder in transformers is faulty


def test_sam_hq_without_its_own_branch_is_sam_with_one_more_token(segmenters):
    """Its tokens are SAM's and one more; as a prompt of stock SAM that one stands in the same place."""
    hq, sam = small.sam_hq_model(), small.sam_model()
    own = hq.mask_decoder.hq_mask_mlp.proj_out
    torch.nn.init.zeros_(own.weight)
    torch.nn.init.zeros_(own.bias)
    shared = {k: v for k, v in hq.state_dict().items() if k in sam.state_dict()}
    assert shared.keys() == sam.state_dict().keys()
    sam.load_state_dict(shared)

    pixels = segmenters["sam_hq"].grid.pixels(small.picture(64, 64))[None]
    with torch.no_grad():
        image, early = hq.get_image_embeddings(pixels)
        points, labels = torch.tensor([[[[20.0, 30.0]], [[5.0, 60.0]]]]), torch.ones(1, 2, 1, dtype=torch.int64)
        sparse, dense = hq.get_prompt_embeddings(points, labels)
        places = hq.get_image_wide_positional_embeddings()
        token = hq.mask_decoder.hq_token.weight.expand(1, 2, 1, -1)
        for multimask in (False, True):
            masks, scores = HqMaskDecoder(hq.mask_decoder)(image, places, sparse, dense, multimask, False, early)
            want = sam.mask_decoder(image, places, torch.cat([token, sparse], 2), dense, multimask)
            np.testing.assert_allclose(masks.numpy(), want[0].numpy(), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(scores.numpy(), want[1].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("only", [False, True])
def test_sam_hq_draws_as_stock_where_stock_sees_the_same_features(only, segmenters):
    """The stock decoder draws on the features that went in, transposed: let the transformer return just these."""
    hq = small.sam_hq_model()
    hq.mask_decoder.transformer = _Idle(hq.mask_decoder.transformer)
    ours = small.sam_hq_model()
    ours.mask_decoder = HqMaskDecoder(ours.mask_decoder)
    ours.mask_decoder.layers.transformer = hq.mask_decoder.transformer
    inputs = {
        "pixel_values": segmenters["sam_hq"].grid.pixels(small.picture(40, 64))[None],
        "input_points": torch.tensor([[[[20.0, 30.0]], [[5.0, 60.0]]]]),
        "input_boxes": torch.tensor([[[2.0, 3.0, 40.0, 50.0], [10.0, 3.0, 60.0, 30.0]]]),
        "multimask_output": False,
        "hq_token_only": only,
    }
    with torch.no_grad():
        got, want = ours(**inputs), hq(**inputs)
    np.testing.assert_allclose(got.pred_masks.numpy(), want.pred_masks.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.iou_scores.numpy(), want.iou_scores.numpy(), rtol=1e-5, atol=1e-5)


class _Idle(torch.nn.Module):
    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, image_embeddings: torch.Tensor, **rest: Any) -> Any:
        tokens, _ = self.transformer(image_embeddings=image_embeddings, **rest)
        return tokens, image_embeddings.transpose(2, 3).flatten(2).transpose(1, 2)[:, None]


# Preprocessing


@pytest.mark.parametrize("size", SIZES[:5])
def test_sam_sees_pixels_as_the_stock_processor_makes_them(size, segmenters):
    grid = segmenters[SAM].grid
    side = {"height": small.SIDE, "width": small.SIDE}
    processor = SamImageProcessorPil(size={"longest_edge": small.SIDE}, pad_size=side)
    image = small.picture(*size)
    if min(size) * small.SIDE / max(size) < 0.5:
        with pytest.raises(ValueError, match="height"):  # a picture this thin is too much for the stock one
            processor(image, input_data_format="channels_last")
        assert min(grid.frame(size).content) == 1
        return
    want = processor(image, return_tensors="pt", input_data_format="channels_last")
    np.testing.assert_allclose(grid.pixels(image).numpy(), want.pixel_values[0].numpy(), atol=1e-6)
    assert list(grid.frame(size).content) == want.reshaped_input_sizes[0].tolist()


def test_sam_counts_coordinates_as_the_stock_processor_does(segmenters):
    size = (41, 97)
    stub = SimpleNamespace(image_processor=SamImageProcessorPil())
    points = np.array([[0.0, 0.0], [97.0, 41.0], [30.25, 11.5]])
    want = SamProcessor._normalize_coordinates(stub, small.SIDE, points, size)
    np.testing.assert_allclose(segmenters[SAM].grid.frame(size).points(points), want, atol=1e-12)


@pytest.mark.parametrize(("kind", "mean", "std"), [
    (SAM2, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    (TRACKER, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
])  # fmt: skip
@pytest.mark.parametrize("size", SIZES)
def test_sam2_and_sam3_see_stretched_pixels(kind, mean, std, size, segmenters):
    """Their stock processors need torchvision, which resizes by this very call of torch; Pillow says it is sane."""
    grid = segmenters[kind].grid
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    bands = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    want = F.interpolate(bands, (grid.size, grid.size), mode="bilinear", antialias=True, align_corners=False)[0]
    got = grid.pixels(image) * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    np.testing.assert_allclose(got.numpy() * 255, want.numpy(), atol=1e-3)
    for band in range(3):
        exact = Image.fromarray(image[..., band].astype(np.float32)).resize((grid.size, grid.size), Image.BILINEAR)
        assert np.abs(got[band].numpy() * 255 - np.asarray(exact)).max() < 1.01
    frame = grid.frame(size)
    np.testing.assert_allclose(frame.points([[0, 0], [size[1], size[0]]]), [[0, 0], [grid.size, grid.size]])


def test_a_folder_may_state_its_own_normalisation(folders, tmp_path):
    folder = shutil.copytree(folders[SAM2], tmp_path / "own")
    stated = {"image_processor": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}}
    (folder / "processor_config.json").write_text(json.dumps(stated))
    grid = load_segmenter(folder).grid
    assert grid.normalisation.mean == (0.1, 0.2, 0.3)
    assert grid.normalisation.std == (0.4, 0.5, 0.6)


# What does not fit


@pytest.mark.parametrize(("prompt", "said"), [
    (Prompt(points=((10, 30.1),)), "outside the image"),
    (Prompt(points=((-0.1, 3),)), "outside the image"),
    (Prompt(boxes=((40, 0, 50, 10),)), "outside the image"),
    (Prompt(boxes=((1, 1, 5, 5), (6, 6, 9, 9))), "one target"),
    (Prompt("the lakes"), "does not read text"),
    (Prompt("the lakes", boxes=((1, 1, 5, 5),)), "does not read text"),
    (Prompt(points=((1, 1),), crs="EPSG:4326"), "pixel coordinates"),
])  # fmt: skip
@pytest.mark.parametrize("kind", MAKERS)
def test_prompts_that_do_not_fit_are_refused(kind, prompt, said, segmenters):
    embedding = segmenters[kind].embed([small.picture(30, 40)])[0]
    with pytest.raises(PromptError, match=said):
        segmenters[kind].predict(embedding, [Prompt(points=((1, 1),)), prompt])


@pytest.mark.parametrize("kind", MAKERS)
def test_a_box_is_cut_at_the_edge(kind, segmenters):
    embedding = segmenters[kind].embed([small.picture(30, 40)])[0]
    cut, out = segmenters[kind].predict(embedding, [Prompt(boxes=((5, 6, 40, 30),)), Prompt(boxes=((5, 6, 70, 99),))])
    np.testing.assert_array_equal(cut.logits, out.logits)


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3)),
                                   np.zeros((0, 5, 3), np.uint8)])  # fmt: skip
def test_images_that_do_not_fit_are_refused(image, segmenters):
    for segmenter in segmenters.values():
        with pytest.raises(EngineError, match="uint8"):
            segmenter.embed([image])
