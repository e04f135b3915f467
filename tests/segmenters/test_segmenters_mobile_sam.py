"""MobileSAM: released file, ONNX and converted folder are one model; which of its masks is kept."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch

import small_segmenters as small
from real_weights import real_file
from terraprompt.errors import CheckpointError
from terraprompt.models.sam.mobile_sam import MobileSam, MobileSamConfig
from terraprompt.models.sam.preprocess import IMAGENET, PixelGrid
from terraprompt.prompt import Prompt
from terraprompt.segmenters import SegmenterInfo, load_segmenter
from terraprompt.segmenters.mobile_sam import convert_mobile_sam, load_mobile_sam
from terraprompt.segmenters.sam import VisualSegmenter

CLICK = Prompt(points=((30.5, 20.5),))
CLICKS = Prompt(points=((30.5, 20.5), (50.0, 40.0)), labels=(1, 0))
BOX = Prompt(boxes=((10.0, 5.0, 60.0, 40.0),))
BOX_AND_CLICK = Prompt(points=((30.5, 20.5),), boxes=((10.0, 5.0, 60.0, 40.0),))


@pytest.fixture(scope="module")
def model():
    return small.mobile_sam_model()


@pytest.fixture
def released(model, tmp_path):
    path = tmp_path / "mobile_sam.pt"
    torch.save(small.released_mobile_sam(model), path)
    return path


def encode(model, seed=0):
    with torch.no_grad():
        return model.get_image_embeddings(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))


def test_the_released_layout_with_its_batch_norms_is_the_same_model(model, released):
    loaded = load_mobile_sam(released, small.mobile_sam_config())
    torch.testing.assert_close(encode(loaded), encode(model), rtol=1e-4, atol=1e-4)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_names_are_those_of_the_release(model):
    """A few of each part, as the public repository names them."""
    names = set(small.released_mobile_sam(model))
    assert names >= {
        "image_encoder.patch_embed.seq.0.c.weight",
        "image_encoder.patch_embed.seq.2.bn.running_var",
        "image_encoder.layers.0.blocks.0.conv2.bn.weight",
        "image_encoder.layers.0.downsample.conv3.c.weight",
        "image_encoder.layers.1.blocks.1.attn.attention_biases",
        "image_encoder.layers.1.blocks.0.attn.norm.weight",
        "image_encoder.layers.2.blocks.0.local_conv.bn.bias",
        "image_encoder.layers.3.blocks.0.mlp.fc2.bias",
        "image_encoder.neck.3.weight",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.point_embeddings.3.weight",
        "prompt_encoder.mask_downscaling.4.bias",
        "mask_decoder.transformer.layers.1.norm4.weight",
        "mask_decoder.transformer.norm_final_attn.bias",
        "mask_decoder.transformer.layers.0.cross_attn_token_to_image.out_proj.weight",
        "mask_decoder.output_upscaling.1.weight",
        "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias",
        "mask_decoder.iou_prediction_head.layers.1.weight",
    }


def spoiled(state, how):
    name = "image_encoder.layers.1.blocks.0.attn.attention_biases"
    if how == "missing":
        del state[name]
    elif how == "unknown":
        state["image_encoder.layers.9.extra"] = torch.zeros(1)
    elif how == "shape":
        state[name] = state[name][:, :-1]
    else:
        state[name] = torch.full_like(state[name], float("nan"))
    return state


@pytest.mark.parametrize(
    ("how", "said"),
    [("missing", "without vision_encoder.layers.1.blocks.0.attn.attention_biases"), ("unknown", "layers.9.extra"),
     ("shape", "another shape of"), ("nan", "not finite")],
)  # fmt: skip
def test_every_tensor_is_accounted_for(model, tmp_path, how, said):
    torch.save(spoiled(small.released_mobile_sam(model), how), tmp_path / "mobile_sam.pt")
    with pytest.raises(CheckpointError, match=said):
        load_mobile_sam(tmp_path, small.mobile_sam_config())


def test_a_checkpoint_of_another_size_is_refused_by_name_of_a_tensor(released):
    with pytest.raises(CheckpointError, match=r"mobile_sam.pt without vision_encoder"):
        load_segmenter(released)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"words"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "mobile_sam.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"read as tensors|damaged"):
        load_segmenter(tmp_path)


def test_a_file_with_code_is_not_run(tmp_path):
    torch.save({"a": MobileSamConfig}, tmp_path / "mobile_sam.pt")
    with pytest.raises(CheckpointError, match="holds code"):
        load_segmenter(tmp_path)


def test_files_that_are_not_onnx(tmp_path):
    for name in ("encoder.onnx", "sam.onnx"):
        (tmp_path / name).write_bytes(b"words")
    with pytest.raises(CheckpointError, match="cannot be read as ONNX"):
        load_segmenter(tmp_path)


def test_a_converted_folder_is_the_same_model(model, released, tmp_path):
    folder = tmp_path / "converted"
    convert_mobile_sam(released, folder, config=small.mobile_sam_config())
    segmenter = load_segmenter(folder)
    assert segmenter.reads == {"points", "boxes"}
    assert segmenter.info.settings["architecture"] == "mobile_sam"
    torch.testing.assert_close(encode(segmenter.model), encode(model), rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="target exists"):
        convert_mobile_sam(released, folder, config=small.mobile_sam_config())
    assert json.loads((folder / "config.json").read_text())["model_type"] == "mobile_sam"


def test_half_precision_changes_little(model):
    def answer(precision):
        twin = MobileSam(model.config)
        twin.load_state_dict(model.state_dict())
        grid, info = PixelGrid(64, True, IMAGENET), SegmenterInfo("m", "local", "")
        segmenter = VisualSegmenter(twin, grid, info, precision=precision, multimask=None)
        return segmenter.predict(segmenter.embed([small.picture(48, 72)])[0], [BOX])[0].logits

    exact = answer(torch.float32)
    assert np.abs(answer(torch.bfloat16) - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize(("prompt", "three"), [(CLICK, True), (BOX, True), (CLICKS, False), (BOX_AND_CLICK, False)])
def test_a_lone_click_or_box_keeps_the_best_of_three(model, prompt, three):
    grid, info = PixelGrid(64, True, IMAGENET), SegmenterInfo("m", "local", "")
    automatic, fixed = (VisualSegmenter(model, grid, info, multimask=how) for how in (None, three))
    [embedding] = automatic.embed([small.picture(48, 72)])
    [got], [wanted] = automatic.predict(embedding, [prompt]), fixed.predict(embedding, [prompt])
    np.testing.assert_array_equal(got.logits, wanted.logits)
    assert got.score == wanted.score


# ---- the real one ----


def onnx_mask(session, embedding, frame, prompt):
    """The decoder as it is: points and corners of boxes at SAM's 1024 pixels, a padding point where there is no box."""
    points, labels = [], []
    if prompt.points:
        points += list(frame.points([prompt.points])[0])
        labels += [float(label) for label in prompt.labels]
    if prompt.boxes:
        points += list(np.asarray(frame.boxes([prompt.boxes[0]])[0]).reshape(2, 2))
        labels += [2.0, 3.0]
    else:
        points.append(np.full(2, 0.5))
        labels.append(-1.0)
    masks, scores, _ = session.run(
        None,
        {
            "image_embeddings": embedding,
            "point_coords": np.array(points, np.float32)[None] - 0.5,
            "point_labels": np.array(labels, np.float32)[None],
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(frame.source, np.float32),
        },
    )
    return masks[0, 0], float(scores[0, 0])


def blobs(height, width):
    """Soft ellipses on a slope of colour: things that a segmenter takes for things."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = np.stack([60 + 60 * x / width, 110 + 0 * x, 80 + 40 * y / height], -1)
    for cx, cy, rx, ry, colour in [
        (0.3, 0.3, 0.12, 0.16, (200, 60, 50)), (0.7, 0.55, 0.2, 0.12, (230, 230, 210)),
        (0.3, 0.75, 0.1, 0.1, (30, 60, 160)),
    ]:  # fmt: skip
        inside = ((x / width - cx) / rx) ** 2 + ((y / height - cy) / ry) ** 2 < 1
        image[inside] = colour
    return image.astype(np.uint8)


@pytest.mark.real
def test_real_weights_give_the_embeddings_and_masks_of_their_onnx():
    paths = [real_file("encoder.onnx"), real_file("sam.onnx")]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    encoder, decoder = (onnxruntime.InferenceSession(str(path), options) for path in paths)
    segmenter = load_segmenter(paths[0].parent)
    assert segmenter.info.settings["multimask"] == "auto"
    image = blobs(420, 640)
    [embedding] = segmenter.embed([image])
    [stock] = encoder.run(None, {"input": segmenter.grid.pixels(image)[None].numpy()})
    np.testing.assert_allclose(embedding.data.parts[0].numpy(), stock, atol=1e-4)
    prompts = [
        Prompt(points=((192, 126),)),
        Prompt(points=((448, 231),)),
        Prompt(points=((192, 126), (320, 210)), labels=(1, 0)),
        Prompt(points=((30, 400),)),
        Prompt(boxes=((110, 55, 275, 195),)),
        Prompt(boxes=((300, 170, 600, 300),), points=((448, 231),)),
        Prompt(boxes=((120, 265, 265, 360),)),
    ]
    for prompt, answer in zip(prompts, segmenter.predict(embedding, prompts), strict=True):
        mask, score = onnx_mask(decoder, stock, embedding.data.frame, prompt)
        ours, theirs = answer.logits > 0, mask > 0
        assert answer.score == pytest.approx(score, abs=1e-4), prompt  # of another mask it would be another
        assert (ours & theirs).sum() / (ours | theirs).sum() >= 0.99, prompt
        np.testing.assert_allclose(answer.logits, mask, atol=5e-3)
