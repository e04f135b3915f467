"""The engine of UniGeoSeg at full size, on the preset ``tiny``."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from released import released_state, tiny_model, write_released, write_tokenizer
from terraprompt.engines.base import Engine
from terraprompt.engines.causal import CausalEngine, unigeoseg
from terraprompt.engines.convert import convert
from terraprompt.engines.dialogue import DialogueWriter, coordinate_rows
from terraprompt.errors import CheckpointError, ConfigError, EngineError
from terraprompt.flow.embedding_cache import EmbeddingCache
from terraprompt.models.unigeoseg import UniGeoSeg, preset
from terraprompt.models.unigeoseg.config import MemoryConfig, TateConfig
from terraprompt.prompt import Prompt, Task

PROMPTS = (
    Prompt("the two bridges over the river"),
    Prompt("where could a helicopter land?"),
    Prompt(boxes=((10.0, 20.0, 60.0, 70.0),)),
    Prompt(points=((30.0, 40.0), (50.0, 12.0))),
    Prompt("the pond"),
    Prompt("the roof", points=((5.0, 5.0),)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``terraprompt models convert`` leaves it."""
    root = tmp_path_factory.mktemp("weights")
    write_released(root / "src", released_state(tiny_model()))
    write_tokenizer(root / "src")
    return convert(root / "src", root / "dst", base=preset("tiny")).folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> CausalEngine:
    return unigeoseg(weights=folder)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(small.repeat(8, 0).repeat(8, 1)[:height, :width])


def test_it_is_an_engine_that_says_what_it_runs(engine: CausalEngine) -> None:
    assert isinstance(engine, Engine)
    assert engine.tasks == frozenset(Task)
    assert engine.tile.size == 128
    assert engine.info.name == "tiny"
    assert len(engine.info.checksum) == 64
    assert engine.info.settings["precision"] == "fp32"


def test_answers_have_the_size_of_the_image(engine: CausalEngine) -> None:
    pictures = [picture(128, 128), picture(90, 200), picture(300, 70)]
    embeddings = engine.encode(pictures)
    answers = engine.predict(embeddings, [Prompt("the pond")] * 3)
    for image, embedding, answer in zip(pictures, embeddings, answers, strict=True):
        assert embedding.size == answer.logits.shape == image.shape[:2]
        assert answer.logits.dtype == np.float32
        assert np.isfinite(answer.logits).all()
        assert answer.logits.std() > 0
    assert engine.encode([]) == []


def test_a_mixed_batch_equals_one_by_one(engine: CausalEngine) -> None:
    """Three tasks, two images of other shapes, other lengths, whatever was asked before."""
    pictures = [picture(128, 128, 1), picture(96, 160, 2)]
    views = engine.encode(pictures)
    embeddings = [views[i % 2] for i in range(len(PROMPTS))]
    together = engine.predict(embeddings, PROMPTS)
    for i, (prompt, answer) in enumerate(zip(PROMPTS, together, strict=True)):
        fresh = engine.encode([pictures[i % 2]])
        (alone,) = engine.predict(fresh, [prompt])
        (again,) = engine.predict(fresh, [prompt])
        np.testing.assert_allclose(alone.logits, answer.logits, atol=2e-4)
        np.testing.assert_allclose(again.logits, answer.logits, atol=2e-4)
    masks = {(answer.logits[:96, :96] > 0).tobytes() for answer in together}
    assert len(masks) > 1


def test_batches_are_cut_and_stay_in_order(engine: CausalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    views = engine.encode([picture(128, 128)]) * len(PROMPTS)
    whole = engine.predict(views, PROMPTS)
    monkeypatch.setattr(engine, "batch", 2)
    for one, other in zip(engine.predict(views, PROMPTS), whole, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=2e-4)


def test_the_second_instruction_reads_its_own_words_alone(
    engine: CausalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (view,) = engine.encode([picture(128, 128)])
    assert engine.model.reader is not None
    read: list[int] = []
    language = engine.model.reader.language
    inner = language.forward

    def counted(**given: Any) -> Any:
        read.append(given["inputs_embeds"].shape[1])
        return inner(**given)

    def unseen(*_: Any) -> Any:
        raise AssertionError("the image was looked at again")

    monkeypatch.setattr(language, "forward", counted)
    monkeypatch.setattr(engine.model, "encode_image", unseen)
    monkeypatch.setattr(engine.model, "decode_pixels", unseen)
    asked = [Prompt("the pond"), Prompt("the weir"), Prompt("what holds water?"), Prompt("what is wet?")]
    template = len(engine.writer.template)
    for prompt, opening in zip(asked, (engine.image_tokens + template, 0, template, 0), strict=True):
        engine.predict([view], [prompt])
        assert read.pop() == opening + len(engine.writer.instruction(prompt.text or ""))
    engine.predict([view] * 4, asked)
    assert read == [max(len(engine.writer.instruction(prompt.text or "")) for prompt in asked)]


def test_new_and_known_images_go_together(engine: CausalEngine) -> None:
    pictures = [picture(128, 128), picture(96, 128)]
    known, new = engine.encode(pictures)
    engine.predict([known], PROMPTS[:1])
    mixed = engine.predict([known, new, new], [PROMPTS[0], PROMPTS[0], PROMPTS[1]])
    single = [engine.predict(engine.encode([pictures[i]]), [PROMPTS[j]])[0] for i, j in ((0, 0), (1, 0), (1, 1))]
    for one, other in zip(mixed, single, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=2e-4)


def test_compiled_parts_answer_the_same(folder: Path) -> None:
    plain, compiled = (unigeoseg(weights=folder) for _ in range(2))
    compiled.compile(backend="eager")  # the graph is traced, without a compiler on the machine
    one, other = (e.predict(e.encode([picture(128, 128)]), PROMPTS[:1])[0] for e in (plain, compiled))
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)


def test_embeddings_survive_the_disk(engine: CausalEngine, tmp_path: Path) -> None:
    (seen,) = engine.encode([picture(100, 128)])
    cache = EmbeddingCache(0, folder=tmp_path, engine=engine)
    cache.put("a", seen)
    back = cache.get("a")
    assert back is not None
    assert (back.size, back.nbytes) == (seen.size, seen.nbytes)
    for one, other in zip(engine.predict([seen], PROMPTS[:1]), engine.predict([back], PROMPTS[:1]), strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
    np.savez(tmp_path / "a.npz", _size=np.array([100, 128]), res5=np.zeros(3))  # of another version
    assert cache.get("a") is None


def test_embeddings_say_what_they_hold(engine: CausalEngine) -> None:
    (embedding,) = engine.encode([picture(128, 128)])
    engine.predict([embedding] * 2, PROMPTS[:2])
    view = embedding.data
    tensors = [view.res5, view.pixels.mask, *view.pixels.scales]
    held = sum(t.numel() * t.element_size() for t in tensors) + view.context.nbytes
    held += sum(opening.nbytes for opening in view.openings.values())
    assert embedding.nbytes == pytest.approx(held, rel=0.01)
    assert len(view.openings) == 2
    # nothing keeps a larger tensor alive
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in tensors)


def test_coordinates_reach_the_model_as_data(engine: CausalEngine) -> None:
    views = engine.encode([picture(128, 128)]) * 2
    prompts = [Prompt("this one", boxes=(box,)) for box in ((8.0, 8.0, 40.0, 40.0), (80.0, 70.0, 120.0, 110.0))]
    one, other = engine.predict(views, prompts)
    assert np.abs(one.logits - other.logits).max() > 1e-3


def test_rows_of_coordinates() -> None:
    size = (50, 200)
    box = coordinate_rows(Prompt(boxes=((20, 10, 100, 25),)), size)
    torch.testing.assert_close(box, torch.tensor([[0.1, 0.2, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]]))
    points = Prompt(points=((0, 0), (100, 25), (1, 1), (200, 50), (20, 10)), labels=(1, 1, 0, 1, 1))
    rows = coordinate_rows(points, size)
    torch.testing.assert_close(rows[1:], torch.tensor([[0.5, 0.5, 0, 0], [1, 1, 0, 0]]))
    assert (rows[0, :2] > 0).all()
    assert not coordinate_rows(Prompt("the pond"), size).any()
    told = replace(points, text="it", task_override=Task.REFERRING)
    assert not coordinate_rows(told, size).any()


def test_what_is_left_out_is_said(engine: CausalEngine) -> None:
    (view,) = engine.encode([picture(128, 128)])
    many = Prompt(points=tuple((float(i), 9.0) for i in range(5)), labels=(1, 1, 1, 1, 0))
    beside = Prompt(points=((20.0, 20.0),), boxes=((5.0, 5.0, 50.0, 50.0),))
    answers = engine.predict([view] * 3, [many, beside, Prompt("the pond")])
    assert [answer.notes for answer in answers] == [{"points_left_out": 2}, {"points_left_out": 1}, {}]
    assert [[remark.split(":")[0] for remark in answer.remarks] for answer in answers] == [
        ["2 points left out"],
        ["1 point left out"],
        [],
    ]


def test_the_dialogue_is_the_published_sentence(engine: CausalEngine) -> None:
    writer = engine.writer
    decode = writer.tokenizer.decode
    assert decode(writer.prefix).startswith("[INST] <<SYS>>\n")
    assert decode(writer.prefix).endswith("\n<</SYS>>\n\nThis is an image ")
    assert decode(writer.template) == (
        ", Please doing Reasoning Segmentation according to the following instruction:\n"
    )
    assert decode(writer.instruction("the pond")) == " the pond[SEG]"
    written = writer.write(PROMPTS[:4], [(100, 100)] * 4, torch.zeros(4, dtype=torch.int64))
    said = [decode(ids[mask]) for ids, mask in zip(written.tokens, written.refer, strict=True)]
    assert said[2].endswith("the box x0,y0=[0.1,0.2], x1,y1=[0.6,0.7].[SEG]")
    assert said[3].endswith("the points [0.3,0.4], [0.5,0.12].[SEG]")
    assert written.task.tolist() == [1, 2, 0, 0]


def test_bad_input(engine: CausalEngine) -> None:
    (view,) = engine.encode([picture(64, 64)])
    with pytest.raises(EngineError, match="uint8"):
        engine.encode([picture(64, 64).astype(np.float32)])
    with pytest.raises(EngineError, match="needs an embedding"):
        engine.predict([view], PROMPTS)
    with pytest.raises(EngineError, match="pixel coordinates"):
        engine.predict([view], [Prompt(points=((1.0, 2.0),), crs="EPSG:4326")])
    with pytest.raises(EngineError, match="one target"):
        engine.predict([view], [Prompt(boxes=((1.0, 1.0, 5.0, 5.0), (9.0, 9.0, 12.0, 12.0)))])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_draws_nearly_the_same(folder: Path, engine: CausalEngine, precision: str) -> None:
    half = unigeoseg(weights=folder, precision=precision, verify=False)
    image = picture(128, 128)
    for prompt in PROMPTS[:3]:
        wanted, found = (e.predict(e.encode([image]), [prompt])[0].logits > 0 for e in (engine, half))
        assert np.count_nonzero(wanted & found) > 0.9 * np.count_nonzero(wanted | found)


@pytest.mark.parametrize(
    "change",
    [
        {"tate": TateConfig(form="paper", scope="instruction"), "memory": MemoryConfig(scope="tokens")},
        {"tate": None, "memory": None, "pool": "mean"},
    ],
)
def test_other_members_read_the_same_way(engine: CausalEngine, change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = UniGeoSeg(replace(preset("tiny"), **change))
    other = CausalEngine(model, engine.writer, engine.info)
    views = other.encode([picture(128, 128)]) * 3
    together = other.predict(views, PROMPTS[:3])
    assert list(views[0].data.openings) == [-1]
    for prompt, answer in zip(PROMPTS, together, strict=False):
        (alone,) = other.predict(other.encode([picture(128, 128)]), [prompt])
        np.testing.assert_allclose(alone.logits, answer.logits, atol=2e-4)


# loading


def test_without_weights_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("TERRAPROMPT_UNIGEOSEG", raising=False)
    with pytest.raises(CheckpointError, match="terraprompt models convert SRC DST"):
        unigeoseg()
    monkeypatch.setenv("TERRAPROMPT_UNIGEOSEG", str(folder))
    assert unigeoseg(verify=False).info.name == "tiny"


@pytest.mark.parametrize("options", [{"precision": "int4"}, {"batch": 0}])
def test_options_out_of_range(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        unigeoseg(weights=folder, **options)


def test_a_tokenizer_is_needed_and_must_fit(tmp_path: Path, folder: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("token*", "special*", "added*"))
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        unigeoseg(weights=bare, verify=False)
    write_tokenizer(bare, seg=False)
    with pytest.raises(CheckpointError, match="not that of these weights"):
        unigeoseg(weights=bare, verify=False)
    with pytest.raises(CheckpointError, match="not that of these weights"):
        DialogueWriter.load(folder, 200)
