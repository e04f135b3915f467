"""Segmenters by name, folder, hub and engine; what cannot be loaded says why."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import small_segmenters as small
from terraprompt.engines.base import ModelInfo
from terraprompt.engines.registry import load_engine
from terraprompt.errors import CheckpointError, ConfigError, EngineError, PromptError
from terraprompt.prompt import Prompt, Task
from terraprompt.segmenters import (
    PromptableSegmenter,
    UniGeoSegSegmenter,
    load_segmenter,
    segmenter_names,
)


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    return small.saved(small.sam2_model(), tmp_path_factory.mktemp("load") / "sam2")


@pytest.fixture
def folder(sam2, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(sam2, tmp_path / "copy")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no way out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_folder_says_what_it_is(sam2):
    segmenter = load_segmenter(sam2)
    assert isinstance(segmenter, PromptableSegmenter)
    assert segmenter.reads == {"points", "boxes"}
    info = segmenter.info
    assert (info.name, info.revision, info.settings["architecture"]) == (str(sam2), "local", "sam2")
    assert info.checksum == hashlib.sha256((sam2 / "model.safetensors").read_bytes()).hexdigest()


def test_a_video_release_holds_the_image_model(tmp_path):
    """facebook/sam2.1-* are releases of the video model."""
    video = small.sam2_video_model()
    segmenter = load_segmenter(small.saved(video, tmp_path))
    assert segmenter.info.settings["architecture"] == "sam2_video"
    for name, tensor in segmenter.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), video.state_dict()[name].numpy())


def test_a_short_name_is_found_in_the_hubs_cache(cache, sam2):
    home = cache / "models--facebook--sam2.1-hiera-small"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(sam2, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    for name in ("sam2-small", "facebook/sam2.1-hiera-small"):
        assert (load_segmenter(name).info.name, load_segmenter(name).info.revision) == (name, commit)


@pytest.mark.parametrize("name", segmenter_names())
def test_a_name_that_is_not_here_says_how_to_get_it(cache, name):
    with pytest.raises(CheckpointError, match=r"hf download \S+/\S+ --local-dir"):
        load_segmenter(name)


def test_weights_behind_a_licence_say_where_to_accept_it(tmp_path, monkeypatch):
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 (the server's own names)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(CheckpointError, match=r"huggingface.co/facebook/sam3\b.*hf auth login"):
            load_segmenter("sam3")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("name", "said"), [("sam2-smal", 'Did you mean "sam2-small"'), ("zebra", "nano")])
def test_unknown_names_are_told_the_known_ones(name, said):
    with pytest.raises(EngineError, match=said):
        load_segmenter(name)


@pytest.mark.parametrize("name", ["./missing", "/missing/folder", "a/b/c"])
def test_folders_that_are_not_there(name):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_segmenter(name)


def test_another_architecture_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=r"another architecture.*bert.*sam2"):
        load_segmenter(folder)


@pytest.mark.parametrize("kind", ["sam", "sam_hq", "sam3_tracker"])
def test_a_config_of_another_model_than_the_weights_is_refused(folder, kind):
    config = json.loads((folder / "config.json").read_text())
    other = {"sam": small.sam_model, "sam_hq": small.sam_hq_model, "sam3_tracker": small.sam3_tracker}[kind]()
    (folder / "config.json").write_text(json.dumps(other.config.to_dict()))
    assert config["model_type"] == "sam2"
    with pytest.raises(CheckpointError, match=r"another architecture|cannot be read"):
        load_segmenter(folder)


def test_missing_tensors_are_not_made_up(folder):
    state = load_file(folder / "model.safetensors")
    del state["no_memory_embedding"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"incomplete.*no_memory_embedding"):
        load_segmenter(folder)


def test_tensors_of_other_shapes_are_refused(folder):
    state = load_file(folder / "model.safetensors")
    state["no_memory_embedding"] = state["no_memory_embedding"][..., :5].contiguous()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no_memory_embedding|cannot be read"):
        load_segmenter(folder)


def test_damaged_files_are_refused(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_segmenter(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(weights)
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_segmenter(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_segmenter(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="damaged"):
        load_segmenter(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="save_pretrained"):
        load_segmenter(folder)


@pytest.mark.parametrize(("options", "said"), [
    ({"precision": "int3"}, "bf16"),
    ({"device": "abacus"}, "device is not here"),
])  # fmt: skip
def test_options_that_make_no_sense(sam2, options, said):
    with pytest.raises(ConfigError, match=said):
        load_segmenter(sam2, **options)


# Our own models


@pytest.fixture(scope="module")
def nano():
    return load_segmenter("nano")


def test_nano_segments_offline(nano):
    assert isinstance(nano, UniGeoSegSegmenter)
    assert isinstance(nano, PromptableSegmenter)
    assert nano.reads == {"points", "boxes", "text"}
    assert len(nano.info.checksum) == 64
    image = np.full((70, 101, 3), 90, np.uint8)
    image[20:50, 30:70] = (200, 190, 180)  # a roof on a lawn
    image[:, :, 1] += 20
    embedding = nano.embed([image])[0]
    assert embedding.size == (70, 101)
    assert embedding.nbytes > 0
    prompts = [
        Prompt(boxes=((30, 20, 70, 50),)),
        Prompt(points=((50, 35),)),
        Prompt("the buildings"),
        Prompt("the buildings", boxes=((30, 20, 70, 50),), points=((50, 35), (5, 5)), labels=(1, 0)),
        Prompt(points=((0, 0), (101, 70)), labels=(1, 0)),
    ]
    answers = nano.predict(embedding, prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.logits.shape == (70, 101)
        assert answer.logits.dtype == np.float32
        alone = nano.predict(nano.embed([image])[0], [prompt])[0]
        np.testing.assert_allclose(answer.logits, alone.logits, atol=1e-4)
        inside = answer.logits > 0
        sure = float((1 / (1 + np.exp(-answer.logits[inside]))).mean()) if inside.any() else 0.0
        assert answer.score == pytest.approx(sure, abs=1e-5)
    roof = np.zeros((70, 101), bool)
    roof[20:50, 30:70] = True
    drawn = answers[0].logits > 0
    assert (drawn & roof).sum() / (drawn | roof).sum() > 0.7


def test_nano_looks_once(nano):
    runs = []
    hook = nano.engine.model.vision.register_forward_hook(lambda *_: runs.append(1))
    try:
        embedding = nano.embed([small.picture(64, 64)])[0]
        nano.predict(embedding, [Prompt(points=((float(i), 9.0),)) for i in range(10)])
    finally:
        hook.remove()
    assert len(runs) == 1


def test_nano_is_asked_properly(nano):
    embedding = nano.embed([small.picture(30, 40)])[0]
    with pytest.raises(PromptError, match="outside the image"):
        nano.predict(embedding, [Prompt(points=((50, 5),))])
    with pytest.raises(EngineError, match="uint8"):
        nano.embed([np.zeros((5, 5), np.uint8)])
    with pytest.raises(ConfigError, match="precision"):
        load_segmenter("nano", precision="bf16")


def test_an_engine_of_words_alone_is_no_segmenter():
    class Words:
        info = ModelInfo("words", "1")
        tasks = frozenset({Task.REFERRING})

    with pytest.raises(EngineError, match="no points and boxes"):
        UniGeoSegSegmenter(Words())


def test_an_engine_of_points_alone_reads_no_text():
    engine = load_engine("nano")

    class Pointer:
        info = engine.info
        tasks = frozenset({Task.INTERACTIVE})
        encode = staticmethod(engine.encode)
        predict = staticmethod(engine.predict)

    segmenter = UniGeoSegSegmenter(Pointer())
    embedding = segmenter.embed([small.picture(64, 64)])[0]
    with pytest.raises(PromptError, match="does not read text"):
        segmenter.predict(embedding, [Prompt("the lakes")])
    assert len(segmenter.predict(embedding, [Prompt(points=((5, 5),))])) == 1
