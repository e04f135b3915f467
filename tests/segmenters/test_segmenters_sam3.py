"""SAM3: texts and example boxes by the detector, points and boxes by the tracker, over one encoder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers.models.sam3 import modeling_sam3

import small_segmenters as small
from roi_align_definition import one_by_one
from terraprompt.errors import CheckpointError, ConfigError, PromptError
from terraprompt.prompt import Prompt
from terraprompt.segmenters import load_segmenter

SIZE = (50, 90)
BOX = (10.0, 5.0, 60.0, 40.0)
THRESHOLD = 0.1  # random weights are not sure of anything


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sam3")
    return {
        "detector": small.saved(small.sam3_detector(), root / "detector"),
        "tracker": small.saved(small.sam3_tracker(), root / "tracker"),
        "both": small.released(small.sam3_both(), root / "both"),
    }


@pytest.fixture(scope="module")
def detector(folders):
    return load_segmenter(folders["detector"], threshold=THRESHOLD)


@pytest.fixture(scope="module")
def tracker(folders):
    return load_segmenter(folders["tracker"])


@pytest.fixture(scope="module")
def both(folders):
    return load_segmenter(folders["both"], threshold=THRESHOLD)


def torchvision_roi_align(features: torch.Tensor, boxes: Any, size: int) -> torch.Tensor:
    """What the stock model calls: (B, C, H, W) and a tensor of boxes for each picture."""
    pooled = [one_by_one(f.numpy(), b.numpy(), size) for f, b in zip(features, boxes, strict=True)]
    return torch.from_numpy(np.concatenate(pooled)).float()


def on_stock(model: Any, pixels: torch.Tensor, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``model.forward`` on the whole picture, tokens and boxes as the stock processor lays them out."""
    read = small.tokenizer()(prompt.text, return_tensors="pt", padding="max_length", max_length=16)
    inputs = {}
    if prompt.boxes:
        ops = SimpleNamespace(roi_align=torchvision_roi_align)
        monkeypatch.setattr(modeling_sam3, "torchvision", SimpleNamespace(ops=ops), raising=False)
        x0, y0, x1, y1 = torch.tensor(prompt.boxes[0]) / torch.tensor([SIZE[1], SIZE[0]] * 2)
        inputs["input_boxes"] = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])[None, None]
        inputs["input_boxes_labels"] = torch.ones(1, 1, dtype=torch.int64)
    with torch.no_grad():
        return model(pixel_values=pixels, input_ids=read.input_ids, attention_mask=read.attention_mask, **inputs)


def check(answer: Any, out: Any, size: tuple[int, int]) -> None:
    """Against the rule of the stock processor's post_process_instance_segmentation."""
    scores = (out.pred_logits.sigmoid() * out.presence_logits.sigmoid())[0].numpy()
    assert answer.score == pytest.approx(scores.max(), abs=1e-5)
    assert answer.presence == pytest.approx(float(out.presence_logits.sigmoid()), abs=1e-5)
    order = [i for i in np.argsort(-scores) if scores[i] > THRESHOLD]
    assert len(answer.instances) == len(order) >= 2
    shares = F.interpolate(out.pred_masks.sigmoid(), size, mode="bilinear", align_corners=False)[0].numpy()
    for instance, i in zip(answer.instances, order, strict=True):
        assert instance.score == pytest.approx(scores[i], abs=1e-5)
        sure = np.abs(shares[i] - 0.5) > 1e-4
        np.testing.assert_array_equal(instance.mask[sure], (shares[i] > 0.5)[sure])
        np.testing.assert_allclose(instance.box, out.pred_boxes[0, i].numpy() * np.tile(size[::-1], 2), atol=1e-3)
    union = shares[order].max(0)
    got = 1 / (1 + np.exp(-answer.logits.astype(np.float64)))
    assert answer.logits.dtype == np.float32
    np.testing.assert_allclose(got, union, atol=1e-5)


@pytest.mark.parametrize("prompt", [Prompt("lakes"), Prompt("lakes", boxes=(BOX,)), Prompt("visual", boxes=(BOX,))])
@pytest.mark.parametrize("kind", ["detector", "both"])
def test_concepts_are_found_as_by_the_stock_model(kind, prompt, detector, both, monkeypatch):
    segmenter = {"detector": detector, "both": both}[kind]
    stock = small.sam3_detector() if kind == "detector" else small.sam3_both().detector_model
    image = small.picture(*SIZE)
    pixels = segmenter.grid.pixels(image)[None]
    answer = segmenter.predict(segmenter.embed([image])[0], [prompt])[0]
    check(answer, on_stock(stock, pixels, prompt, monkeypatch), SIZE)


def test_the_text_and_the_example_matter(detector):
    embedding = detector.embed([small.picture(*SIZE)])[0]
    prompts = [Prompt("lakes"), Prompt("boats"), Prompt("lakes", boxes=(BOX,)), Prompt("lakes", boxes=((0, 0, 9, 9),))]
    found = [np.array([i.score for i in a.instances]) for a in detector.predict(embedding, prompts)]
    for i, a in enumerate(found):
        for b in found[:i]:
            assert a.shape != b.shape or np.abs(a - b).max() > 1e-5


def test_nothing_found_says_so(folders):
    picky = load_segmenter(folders["detector"], threshold=1.0)
    answer = picky.predict(picky.embed([small.picture(*SIZE)])[0], [Prompt("lakes")])[0]
    assert answer.instances == ()
    assert 0 < answer.score < 1
    assert (answer.logits < -13).all()


def test_points_and_boxes_go_to_the_tracker(both):
    """The stock tracker on the detector's backbone and the tracker's neck, as in the release."""
    model = small.sam3_both()
    stock = small.sam3_tracker(scales=small.ALL_LEVELS[:3])
    own = {k: v for k, v in model.tracker_model.state_dict().items() if k in stock.state_dict()}
    backbone = {
        f"vision_encoder.backbone.{k}": v for k, v in model.detector_model.vision_encoder.backbone.state_dict().items()
    }
    neck = {f"vision_encoder.neck.{k}": v for k, v in model.tracker_neck.state_dict().items() if "layers.3." not in k}
    stock.load_state_dict({**own, **backbone, **neck}, strict=True)
    image = small.picture(*SIZE)
    points, box = ((20.0, 30.0), (90.0, 0.0)), torch.tensor(BOX)
    scale = torch.tensor([small.SIDE3 / SIZE[1], small.SIDE3 / SIZE[0]])
    with torch.no_grad():
        out = stock(
            pixel_values=both.grid.pixels(image)[None],
            input_points=(torch.tensor(points) * scale - 0.5)[None, None],
            input_labels=torch.tensor([[[1, 0]]]),
            input_boxes=(box * scale.repeat(2) - 0.5)[None, None],
            multimask_output=False,
        )
    want = F.interpolate(out.pred_masks[0], SIZE, mode="bilinear", align_corners=False)[0, 0].numpy()
    prompt = Prompt(points=points, labels=(1, 0), boxes=(BOX,))
    answers = both.predict(both.embed([image])[0], [Prompt("lakes"), prompt, Prompt("boats")])
    np.testing.assert_allclose(answers[1].logits, want, atol=1e-5 * np.abs(want).max())
    assert answers[1].score == pytest.approx(float(out.iou_scores[0, 0, 0]), abs=1e-5)
    assert answers[0].instances
    assert answers[2].instances


def test_all_kinds_of_prompts_share_one_encoding(folders):
    segmenter = load_segmenter(folders["both"])
    runs = []
    segmenter.backbone.register_forward_hook(lambda *_: runs.append(1))
    embedding = segmenter.embed([small.picture(*SIZE)])[0]
    prompts = [Prompt("lakes"), Prompt("boats"), Prompt("lakes", boxes=(BOX,)), Prompt(boxes=(BOX,))]
    segmenter.predict(embedding, prompts + [Prompt(points=((float(i), 20.0),)) for i in range(6)])
    assert len(runs) == 1
    assert not any("backbone" in name for name, _ in segmenter.detector.named_parameters())
    assert not any("backbone" in name for name, _ in segmenter.tracker.named_parameters())


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.03), ("fp16", 0.004)])
def test_half_precision_is_close(precision, share, folders, both):
    half = load_segmenter(folders["both"], precision=precision, threshold=THRESHOLD)
    image = small.picture(*SIZE)
    prompts = [Prompt("lakes"), Prompt("lakes", boxes=(BOX,)), Prompt(boxes=(BOX,))]
    embedding = half.embed([image])[0]
    assert embedding.nbytes * 2 == both.embed([image])[0].nbytes
    for a, b in zip(both.predict(both.embed([image])[0], prompts), half.predict(embedding, prompts), strict=True):
        p, q = 1 / (1 + np.exp(-a.logits)), 1 / (1 + np.exp(-b.logits))
        assert 0 < np.abs(p - q).mean() < share
        assert abs(a.score - b.score) < share


@pytest.mark.parametrize(("kind", "prompt", "said"), [
    ("both", Prompt("lakes", points=((3, 3),)), "not both"),
    ("detector", Prompt(boxes=(BOX,)), 'add the text "visual"'),
    ("detector", Prompt(points=((3, 3),)), "does not read points"),
    ("tracker", Prompt("lakes"), "does not read text"),
    ("both", Prompt("a sentence that goes on for far too long"), "at most 16 tokens"),
])  # fmt: skip
def test_prompts_that_do_not_fit_are_refused(kind, prompt, said, detector, tracker, both):
    segmenter = {"detector": detector, "tracker": tracker, "both": both}[kind]
    embedding = segmenter.embed([small.picture(*SIZE)])[0]
    with pytest.raises(PromptError, match=said):
        segmenter.predict(embedding, [prompt])


def test_weights_without_a_tokenizer_are_refused(tmp_path):
    small.sam3_detector().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_segmenter(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        load_segmenter(tmp_path)


def test_a_threshold_is_a_probability(folders):
    with pytest.raises(ConfigError, match="threshold"):
        load_segmenter(folders["detector"], threshold=1.5)
