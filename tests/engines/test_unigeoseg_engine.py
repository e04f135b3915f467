"""The packaged engine: shapes, prompts, errors, and what it finds in real pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from terraprompt.datasets import find_pack, read_pack
from terraprompt.engines.base import Engine
from terraprompt.engines.registry import load_engine
from terraprompt.engines.unigeoseg import UniGeoSegEngine, build, nano
from terraprompt.engines.weights import load_weights, packaged, save_weights
from terraprompt.errors import CheckpointError, ConfigError, EngineError
from terraprompt.flow.embedding_cache import EmbeddingCache
from terraprompt.models.sentence import packaged_sentence_encoder
from terraprompt.prompt import Prompt, Task
from terraprompt_synthetic import RenderedScene, render

BUILDINGS = Prompt(text="the buildings")


@pytest.fixture(scope="module")
def engine() -> UniGeoSegEngine:
    return nano()


@pytest.fixture(scope="module")
def scene() -> RenderedScene:
    return render(3, width=160, height=128, gsd_m=0.4, style="suburb")


def ask(engine: Engine, image: NDArray[np.uint8], prompt: Prompt) -> NDArray[np.float32]:
    (answer,) = engine.predict(engine.encode([image]), [prompt])
    return answer.logits


def some_building(scene: RenderedScene) -> NDArray[np.bool_]:
    """The mask of the largest building."""
    ids = scene.labels("building")
    return ids == np.bincount(ids.ravel())[1:].argmax() + 1


def some_box(scene: RenderedScene) -> tuple[float, float, float, float]:
    """The box of the largest building."""
    rows, cols = np.nonzero(some_building(scene))
    return float(cols.min()), float(rows.min()), float(cols.max() + 1), float(rows.max() + 1)


def test_it_is_an_engine_that_says_what_it_is(engine: UniGeoSegEngine) -> None:
    assert isinstance(engine, Engine)
    assert engine.name == engine.info.name == "nano"
    assert engine.info.checksum == load_weights(packaged("nano"))[1]["sha256"]
    assert engine.tasks == frozenset(Task)
    assert not engine.model.training


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 64), (97, 40), (5, 160)])
@pytest.mark.parametrize(
    "prompt",
    [
        BUILDINGS, Prompt(text="where can I park?"), Prompt(points=((0.5, 0.5),)), Prompt(boxes=((0, 0, 1, 1),)),
        Prompt(text="the car", points=((0.2, 0.3), (0.9, 0.9)), labels=(1, 0), boxes=((0.1, 0.1, 0.8, 0.9),)),
    ],
    ids=lambda p: p.describe(),
)  # fmt: skip
def test_answers_have_the_size_of_the_image(engine: UniGeoSegEngine, size: tuple[int, int], prompt: Prompt) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    (embedding,) = engine.encode([image])
    assert embedding.size == size
    (answer,) = engine.predict([embedding], [prompt])
    assert answer.logits.shape == size
    assert answer.logits.dtype == np.float32
    assert np.isfinite(answer.logits).all()
    assert answer.presence is not None
    assert 0 <= answer.presence <= 1


def test_padding_repeats_the_border(engine: UniGeoSegEngine, scene: RenderedScene) -> None:
    """An image that is padded inside answers as one that was padded like that before."""
    image = scene.rgb[:100, :130]
    padded = np.pad(image, ((0, 28), (0, 30), (0, 0)), mode="edge")
    np.testing.assert_allclose(
        ask(engine, image, BUILDINGS), ask(engine, padded, BUILDINGS)[:100, :130], atol=1e-4, rtol=1e-4
    )


def test_embeddings_can_be_asked_again(engine: UniGeoSegEngine, scene: RenderedScene) -> None:
    prompts = [
        BUILDINGS, Prompt(points=((30, 40),)), Prompt(boxes=(some_box(scene),)), Prompt(text="roads"),
        Prompt(text="where do people live?"),
    ]  # fmt: skip
    (kept,) = engine.encode([scene.rgb])
    together = engine.predict([kept] * len(prompts), prompts)
    for prompt, first, again in zip(prompts, together, engine.predict([kept] * len(prompts), prompts), strict=True):
        assert np.array_equal(first.logits, again.logits)
        assert first.presence == again.presence
        assert np.array_equal(first.logits, ask(engine, scene.rgb, prompt))
    assert kept.nbytes > sum(f.nbytes for f in kept.data.features)


def test_embeddings_come_back_from_the_disk(engine: UniGeoSegEngine, scene: RenderedScene, tmp_path: Path) -> None:
    seen = engine.encode([scene.rgb[:96, :130]])[0]
    EmbeddingCache(0, folder=tmp_path, engine=engine).put("a", seen)
    again = EmbeddingCache(0, folder=tmp_path, engine=engine).get("a")
    assert again is not None
    assert (again.size, again.nbytes) == (seen.size, seen.nbytes)
    prompt = Prompt("the buildings")
    fresh, kept = (engine.predict([e], [prompt])[0].logits for e in (seen, again))
    np.testing.assert_allclose(kept, fresh, atol=1e-4)  # the memory layout, and so the order of sums, may differ


def test_a_batch_is_its_images_one_by_one(engine: UniGeoSegEngine, scene: RenderedScene) -> None:
    images = [scene.rgb, scene.rgb[:96, :96], scene.rgb[::-1].copy(), scene.rgb[:, ::-1].copy()]
    for prompt in (BUILDINGS, Prompt(points=((20.5, 30.0),))):
        answers = engine.predict(engine.encode(images), [prompt] * 4)
        for image, answer in zip(images, answers, strict=True):
            np.testing.assert_allclose(answer.logits, ask(engine, image, prompt), atol=1e-4, rtol=1e-5)


def test_the_words_decide(engine: UniGeoSegEngine, scene: RenderedScene) -> None:
    roofs, trees = scene.labels("building") > 0, scene.labels("tree") > 0
    found = ask(engine, scene.rgb, BUILDINGS)
    assert found[roofs].mean() > found[~roofs].mean() + 2
    other = ask(engine, scene.rgb, Prompt(text="the trees"))
    assert other[trees].mean() - other[roofs].mean() > found[trees].mean() - found[roofs].mean() + 2


def test_a_box_finds_its_building(engine: UniGeoSegEngine, scene: RenderedScene) -> None:
    x0, y0, x1, y1 = box = some_box(scene)
    truth = some_building(scene)
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    for prompt in (Prompt(boxes=(box,)), Prompt(boxes=(box,), points=(middle,)), Prompt(points=(middle,))):
        found = ask(engine, scene.rgb, prompt) > 0
        assert np.count_nonzero(found & truth) > 0.5 * np.count_nonzero(found | truth)


def test_more_points_than_in_training(engine: UniGeoSegEngine, scene: RenderedScene) -> None:
    points = tuple((10.0 * i + 5, 64.0) for i in range(9))
    many = ask(engine, scene.rgb, Prompt(points=points, labels=(1,) * 8 + (0,)))
    fewer = ask(engine, scene.rgb, Prompt(points=points[:8]))
    assert not np.array_equal(many, fewer)


def test_the_order_of_answers_is_the_order_of_prompts(engine: UniGeoSegEngine, scene: RenderedScene) -> None:
    a, b = engine.encode([scene.rgb, 255 - scene.rgb])
    straight = engine.predict([a, b], [BUILDINGS, BUILDINGS])
    turned = engine.predict([b, a], [BUILDINGS, BUILDINGS])
    assert np.array_equal(straight[0].logits, turned[1].logits)
    assert np.array_equal(straight[1].logits, turned[0].logits)
    assert engine.encode([]) == []
    assert engine.predict([], []) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 32, 3), np.float32), np.zeros((32, 32, 3), np.uint16), np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8), np.zeros((3, 32, 32), np.uint8), np.zeros((0, 32, 3), np.uint8),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)  # fmt: skip
def test_images_of_another_kind_are_refused(engine: UniGeoSegEngine, image: Any) -> None:
    with pytest.raises(EngineError, match="uint8"):
        engine.encode([image])


def test_prompts_that_are_not_one_target_in_pixels(engine: UniGeoSegEngine) -> None:
    embeddings = engine.encode([np.zeros((32, 32, 3), np.uint8)])
    with pytest.raises(EngineError, match=r"2 boxes.*Prompt\.objects"):
        engine.predict(embeddings, [Prompt(boxes=((0, 0, 8, 8), (9, 9, 20, 20)))])
    with pytest.raises(EngineError, match="EPSG:4326"):
        engine.predict(embeddings, [Prompt(points=((1, 1),), crs="EPSG:4326")])
    with pytest.raises(EngineError, match="needs an embedding"):
        engine.predict(embeddings, [BUILDINGS, BUILDINGS])


def test_options_and_weights_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="colour"):
        load_engine("nano", colour="blue")
    with pytest.raises(CheckpointError, match="missing"):
        load_engine("nano", weights=tmp_path / "none.safetensors")
    state, card = load_weights(packaged("nano"))
    path = tmp_path / "other.safetensors"
    save_weights(path, state, {"model": {**card["model"], "dense_prompt": None}})
    with pytest.raises(CheckpointError, match="another architecture"):
        build(path, name="x")
    save_weights(path, state, {"model": {**card["model"], "colour": 1}})
    with pytest.raises(CheckpointError, match="does not describe"):
        build(path, name="x")
    save_weights(path, state, {})
    with pytest.raises(CheckpointError, match="does not describe"):
        build(path, name="x")


def test_saving_again_gives_the_same_answers(engine: UniGeoSegEngine, scene: RenderedScene, tmp_path: Path) -> None:
    state, card = load_weights(packaged("nano"))
    path = tmp_path / "copy.safetensors"
    save_weights(path, state, {"model": card["model"]})
    copy = build(path, name="copy", encoder=packaged_sentence_encoder())
    assert copy.name == copy.info.name == "copy"
    assert np.array_equal(ask(copy, scene.rgb, BUILDINGS), ask(engine, scene.rgb, BUILDINGS))


def test_a_tile_keeps_what_its_multiple_says(engine: UniGeoSegEngine, scene: RenderedScene) -> None:
    other = UniGeoSegEngine(engine.model, engine.encoder, engine.info, tile=replace(engine.tile, multiple=64))
    (embedding,) = other.encode([scene.rgb[:70, :70]])
    assert embedding.data.features[0].shape[-2:] == (32, 32)
    assert all(torch.isfinite(f).all() for f in embedding.data.features)


@pytest.mark.data
def test_real_pictures(engine: UniGeoSegEngine) -> None:
    """A floor, not a measurement: held-out pictures of towns, and of tundra without any building."""
    root = find_pack()
    if root is None:
        pytest.skip("no imagery pack: set TERRAPROMPT_DATA or put it at ../shared/data")
    towns = [r for r in read_pack(root, "val", sources=["fair_oam"]) if "building" in r.present][:3]
    ious = []
    for record in towns:
        found, truth = ask(engine, record.load_image(), BUILDINGS) > 0, record.load_mask("building") > 0
        ious.append(np.count_nonzero(found & truth) / np.count_nonzero(found | truth))
    assert np.mean(ious) > 0.5, ious
    tundra = read_pack(root, "val", sources=["arctic_lakes"])[:6]
    seen = engine.encode([r.load_image() for r in tundra])
    answers = engine.predict(seen, [BUILDINGS] * len(tundra))
    assert sum(a.presence is not None and a.presence < 0.5 for a in answers) >= 4, [a.presence for a in answers]
    lakes = [e for e, r in zip(seen, tundra, strict=True) if "lake" in r.present]
    there = engine.predict(lakes, [Prompt(text="the lakes")] * len(lakes))
    assert sum(a.presence is not None and a.presence >= 0.5 for a in there) > len(lakes) / 2
