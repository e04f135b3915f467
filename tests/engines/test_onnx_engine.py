"""nano on ONNX Runtime: the answers of torch, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from terraprompt.engines.base import Engine
from terraprompt.engines.onnx import OnnxEngine, build_onnx
from terraprompt.engines.unigeoseg import UniGeoSegEngine, nano
from terraprompt.engines.weights import load_weights, packaged, save_weights
from terraprompt.errors import CheckpointError, ConfigError, EngineError
from terraprompt.flow.session import segment
from terraprompt.models.sentence import packaged_sentence_encoder
from terraprompt.models.sentence_numpy import packaged_numpy_encoder
from terraprompt.prompt import Prompt
from terraprompt_synthetic import render

PROMPTS = [
    Prompt(text="the buildings"),
    Prompt(text="where a truck could drive"),
    Prompt(points=((60, 50),)),
    Prompt(points=((60, 50), (20, 100), (10, 10)), labels=(1, 0, 1)),
    Prompt(boxes=((20, 30, 90, 110),)),
    Prompt(text="the lake", boxes=((20, 30, 90, 110),)),
]


@pytest.fixture(scope="module")
def onnx() -> OnnxEngine:
    engine = nano(runtime="onnx")
    assert isinstance(engine, OnnxEngine)
    return engine


@pytest.fixture(scope="module")
def torch_engine() -> UniGeoSegEngine:
    engine = nano()
    assert isinstance(engine, UniGeoSegEngine)
    return engine


@pytest.mark.parametrize("size", [(128, 160), (97, 131), (300, 200)])
def test_answers_equal_those_of_torch(onnx: OnnxEngine, torch_engine: UniGeoSegEngine, size: tuple[int, int]) -> None:
    image = render(3, width=size[1], height=size[0], gsd_m=0.4, style="suburb").rgb
    (a,), (b,) = onnx.encode([image]), torch_engine.encode([image])
    for prompt in PROMPTS:
        (got,), (want,) = onnx.predict([a], [prompt]), torch_engine.predict([b], [prompt])
        assert got.logits.shape == size
        assert got.logits.dtype == np.float32
        np.testing.assert_allclose(got.logits, want.logits, rtol=1e-4, atol=1e-4)
        assert got.presence == pytest.approx(want.presence, abs=1e-5)


def test_a_scene_has_the_same_objects(tmp_path: Path, onnx: OnnxEngine, torch_engine: UniGeoSegEngine) -> None:
    scene = render(5, width=700, height=400, gsd_m=0.4, style="suburb")
    scene.write(tmp_path / "town.tif")
    answers = [segment(tmp_path / "town.tif", "the buildings", engine=e) for e in (onnx, torch_engine)]
    assert len(answers[0].objects) == len(answers[1].objects) > 3
    assert np.array_equal(answers[0].mask(), answers[1].mask())
    assert answers[0].status == answers[1].status


def test_sentences_are_read_as_torch_reads_them() -> None:
    read, reference = packaged_numpy_encoder(), packaged_sentence_encoder()
    for text in (
        "the buildings",
        "Where might one find a jetty, a boathouse and a stretch of reeds?",
        "x",
        "é 日本",
        "a " * 90,
    ):
        states, mask = reference([text])
        got = read(text)
        assert got.shape == states[0].shape
        assert mask.all()
        np.testing.assert_allclose(got, states[0].numpy(), atol=2e-5)


def test_it_is_an_engine_that_says_how_it_runs(onnx: OnnxEngine, torch_engine: UniGeoSegEngine) -> None:
    assert isinstance(onnx, Engine)
    assert onnx.info.settings["runtime"] == "onnx"
    assert onnx.info.checksum == torch_engine.info.checksum
    assert onnx.vocabulary == torch_engine.vocabulary
    assert onnx.is_word("roof")
    assert not onnx.is_word("qwertz")


def test_embeddings_survive_the_disk(onnx: OnnxEngine) -> None:
    image = render(3, width=90, height=70, gsd_m=0.4, style="suburb").rgb
    (made,) = onnx.encode([image])
    again = onnx.unpack(made.size, onnx.pack(made))
    assert again.nbytes == made.nbytes
    (a,), (b,) = onnx.predict([made], PROMPTS[:1]), onnx.predict([again], PROMPTS[:1])
    assert np.array_equal(a.logits, b.logits)


def test_torch_is_not_loaded() -> None:
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from terraprompt.engines.onnx import build_onnx\n"
        "from terraprompt.engines.weights import packaged\n"
        "from terraprompt.prompt import Prompt\n"
        "engine = build_onnx(packaged('nano'), name='nano')\n"
        "engine.predict(engine.encode([np.zeros((64, 64, 3), np.uint8)]), [Prompt(text='the roads')])\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bad_input_is_refused(onnx: OnnxEngine) -> None:
    with pytest.raises(EngineError, match="uint8"):
        onnx.encode([np.zeros((4, 4), np.uint8)])
    (seen,) = onnx.encode([np.zeros((40, 40, 3), np.uint8)])
    with pytest.raises(EngineError, match="one target"):
        onnx.predict([seen], [Prompt(boxes=((1, 1, 5, 5), (6, 6, 9, 9)))])
    with pytest.raises(EngineError, match="needs an embedding"):
        onnx.predict([seen], [])
    with pytest.raises(ConfigError, match="Unknown runtime"):
        nano(runtime="tpu")
    with pytest.raises(ConfigError, match="on the CPU alone"):
        nano(runtime="onnx", device="cuda")


def test_other_weights_of_the_architecture_run_and_others_are_refused(tmp_path: Path, onnx: OnnxEngine) -> None:
    state, card = load_weights(packaged("nano"))
    card = {"model": card["model"], "revision": "mine"}
    save_weights(tmp_path / "mine.safetensors", state | {"presence.bias": state["presence.bias"] + 3}, card)
    mine = build_onnx(tmp_path / "mine.safetensors", name="nano")
    image = render(3, width=64, height=64, gsd_m=0.4, style="suburb").rgb
    (a,), (b,) = (e.predict(e.encode([image]), PROMPTS[:1]) for e in (mine, onnx))
    assert a.presence is not None
    assert b.presence is not None
    odds = [np.log(p / (1 - p)) for p in (a.presence, b.presence)]
    assert odds[0] - odds[1] == pytest.approx(3, abs=0.01)

    card["model"] = card["model"] | {"pixel_decoder": card["model"]["pixel_decoder"] | {"layers": 3}}
    save_weights(tmp_path / "deep.safetensors", state, card)
    with pytest.raises(CheckpointError, match="models export"):
        build_onnx(tmp_path / "deep.safetensors", name="nano")
    del state["presence.bias"]
    save_weights(tmp_path / "less.safetensors", state, {"model": load_weights(packaged("nano"))[1]["model"]})
    with pytest.raises(CheckpointError, match="another architecture"):
        build_onnx(tmp_path / "less.safetensors", name="nano")


@pytest.mark.parametrize("harm", ["missing", "damaged", "no list"])
def test_damaged_graphs_are_named(tmp_path: Path, harm: str) -> None:
    import terraprompt.weights

    folder = shutil.copytree(Path(terraprompt.weights.__file__).parent / "graphs", tmp_path / "graphs")
    if harm == "missing":
        (folder / "masks.onnx").unlink()
    elif harm == "damaged":
        (folder / "masks.onnx").write_bytes(b"not a graph")
    else:
        facts = json.loads((folder / "graphs.json").read_text())
        (folder / "graphs.json").write_text(json.dumps({"model": facts["model"]}))
    with pytest.raises(CheckpointError, match="graph"):
        build_onnx(packaged("nano"), name="nano", graphs=folder)


@pytest.mark.full
def test_graphs_are_those_that_the_code_writes(tmp_path: Path, torch_engine: UniGeoSegEngine) -> None:
    """Every graph is compared with torch while it is written; the packaged ones must give the same answers."""
    from terraprompt.models.unigeoseg.graphs import export_graphs

    differences = export_graphs(torch_engine.model, tmp_path)
    assert max(differences.values()) < 1e-5
    fresh, shipped = build_onnx(packaged("nano"), name="nano", graphs=tmp_path), nano(runtime="onnx")
    image = render(4, width=96, height=128, gsd_m=0.4, style="suburb").rgb
    for prompt in PROMPTS:
        (a,), (b,) = (e.predict(e.encode([image]), [prompt]) for e in (fresh, shipped))
        np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)
