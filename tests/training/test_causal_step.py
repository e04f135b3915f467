"""Training of the causal members: killed and resumed, on two processes, frozen, adapted, stopped by nonsense."""

from __future__ import annotations

import json
import multiprocessing
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from causal_job import CONFIG, JOB, member, run_job, samples, source, trainer
from fixed_source import FixedSource
from torch import Tensor

from terraprompt.engines.causal import unigeoseg
from terraprompt.errors import CheckpointError, ConfigError, TerrapromptError
from terraprompt.models.unigeoseg import UniGeoSeg, preset
from terraprompt.training import causal_step
from terraprompt.training.ablations import TABLES, ablation, ablation_names
from terraprompt.training.causal_step import CausalTrainConfig, CausalTrainer
from terraprompt.training.curves import draw_curves
from terraprompt.training.dialogues import DialogueBatch, TaskStream
from terraprompt.training.loop import step_batches
from terraprompt.training.lora import LoraConfig
from terraprompt.training.schedule import TaskSchedule

SHARDING = Path(causal_step.__file__).with_name("sharding")


#: What the processes import is imported once, by the server that they are forked from.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([causal_step.__name__, "transformers.models.phi.modeling_phi"])


def start(run: Path, *, processes: int = 1, pace: float = 0.0) -> list[ForkServerProcess]:
    """The training of ``causal_job`` in processes of its own, with what ``accelerate launch`` tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if processes > 1:
            environment |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        started.append(PROCESSES.Process(target=run_job, args=(run, pace, environment), daemon=True))
        started[-1].start()
    return started


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the program has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Weights and metrics of the program's training, done here in one go."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("unbroken") / "run"
    job = trainer(run, JOB)
    job.fit(samples(JOB))
    torch.set_num_threads(threads)
    return job.weights(), metrics_of(run)


def metrics_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def passes(config: CausalTrainConfig = CONFIG, job: CausalTrainer | None = None) -> list[DialogueBatch]:
    assert job is not None
    size = config.micro_batch_size or config.batch
    return next(step_batches(samples(config), job.task.collate, batch=config.batch, micro_batch_size=size))


def state_of(job: CausalTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in job.bare.state_dict().items()}


@pytest.mark.usefixtures("one_thread")
def test_killed_and_resumed_is_bit_identical(
    tmp_path: Path, unbroken: tuple[dict[str, Tensor], list[dict[str, float]]]
) -> None:
    """SIGKILL in the middle of a training; what follows from the last checkpoint ends in the same bits."""
    run = tmp_path / "run"
    (program,) = start(run, pace=0.3)  # time enough to be killed, on a busy machine too
    deadline = time.monotonic() + 100
    while not list(run.glob("step-00000004")) and program.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    program.kill()
    program.join()
    assert program.exitcode == -signal.SIGKILL
    assert not (run / "weights.pt").exists()
    job = trainer(run, JOB)
    job.resume()
    assert 4 <= job.step < 8
    job.fit(samples(JOB))
    weights, metrics = unbroken
    ours = job.weights()
    assert ours.keys() == weights.keys()
    assert all(torch.equal(ours[name], weights[name]) for name in weights)
    assert metrics_of(run) == metrics
    assert [line["step"] for line in metrics] == list(range(1, 9))
    assert sorted(p.name for p in run.glob("step-*")) == ["step-00000006", "step-00000008"]


def test_two_processes_equal_one(tmp_path: Path, unbroken: tuple[dict[str, Tensor], list[dict[str, float]]]) -> None:
    run = tmp_path / "run"
    for program in start(run, processes=2):
        program.join(180)
        assert program.exitcode == 0
    weights, metrics = unbroken
    ours = torch.load(run / "weights.pt", weights_only=True)
    assert ours.keys() == weights.keys()
    for name in weights:
        torch.testing.assert_close(ours[name], weights[name], atol=1e-6, rtol=1e-5)
    for two, one in zip(metrics_of(run), metrics, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_the_micro_batch_is_a_matter_of_memory(tmp_path: Path) -> None:
    """Passes of 1 or 4 give the gradient of the same batch, where no dropout is drawn."""
    config = member()
    assert config.tate is not None
    still = replace(config, tate=replace(config.tate, dropout=0.0))
    found = []
    for micro in (1, 4):
        job = trainer(tmp_path / str(micro), replace(CONFIG, micro_batch_size=micro), still)
        found.append(job.train_step(passes(job.config, job)))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_what_is_frozen_stays_and_the_rest_moves(tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        frozen=("vision.*", "reader.language.*"),
        trained=("reader.language.layers.1.*",),
        lr_overrides=(("mask_decoder.*", 1e-9),),
        warmup=0.0,
    )
    job = trainer(tmp_path / "run", config)
    before = state_of(job)
    job.train_step(passes(config, job))
    change = {name: float((value - before[name]).abs().max()) for name, value in state_of(job).items()}
    moved = {name for name, by in change.items() if by > 0}
    assert not any(n.startswith(("vision.", "reader.language.layers.0.", "reader.language.embed")) for n in moved)
    for part in ("reader.language.layers.1.", "reader.connector.", "pixel_decoder.", "query_head.", "tate.", "pool."):
        assert any(n.startswith(part) for n in moved), part
    assert max(by for n, by in change.items() if n.startswith("mask_decoder.")) < 1e-7
    assert max(by for n, by in change.items() if n.startswith("pixel_decoder.")) > 1e-4
    assert not job.bare.vision.training
    with pytest.raises(ConfigError, match=r"matches no parameter. Received: visoin"):
        trainer(tmp_path / "typo", replace(CONFIG, frozen=("visoin.*",)))
    with pytest.raises(ConfigError, match="Everything is frozen"):
        trainer(tmp_path / "all", replace(CONFIG, frozen=("*",)))


def test_lora_learns_beside_frozen_weights_and_merges(tmp_path: Path) -> None:
    lora = LoraConfig(rank=4, targets=("reader.language.layers.*.self_attn.q_proj",))
    config = replace(CONFIG, lora=lora, frozen=("vision.*", "reader.language.*"), checkpointing=True, warmup=0.0)
    job = trainer(tmp_path / "run", config)
    before = state_of(job)
    for _ in range(2):  # B starts at zero, so A learns from the second step on
        job.train_step(passes(config, job))
    after = state_of(job)
    language = {n for n in after if n.startswith("reader.language.") and not torch.equal(after[n], before[n])}
    assert language == {
        f"reader.language.layers.{i}.self_attn.q_proj.lora_{m}" for i in (0, 1) for m in ("a", "b")
    }  # fmt: skip
    plain = UniGeoSeg(member()).eval()
    plain.load_state_dict(job.weights())
    dialogue = passes(config, job)[0].dialogue
    images = passes(config, job)[0].images
    job.bare.eval()
    with torch.no_grad():
        for ours, theirs in zip(plain(images, dialogue).logits, job.bare(images, dialogue).logits, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="matches no linear layer"):
        trainer(tmp_path / "typo", replace(config, lora=LoraConfig(targets=("nowhere",))))


def test_recomputed_layers_give_the_same_gradient(tmp_path: Path) -> None:
    norms = []
    for checkpointing in (False, True):
        job = trainer(tmp_path / str(checkpointing), replace(CONFIG, checkpointing=checkpointing))
        norms.append(job.train_step(passes(job.config, job))["grad_norm"])
        layers = job.bare.reader.language.layers  # type: ignore[union-attr]
        assert all(layer.gradient_checkpointing == checkpointing for layer in layers)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_half_precision_is_near_and_weights_stay_whole(tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        job = trainer(tmp_path / precision, replace(CONFIG, precision=precision))
        losses.append(job.train_step(passes(job.config, job))["loss"])
        assert {p.dtype for p in job.bare.parameters()} == {torch.float32}
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    job = trainer(tmp_path / "run")
    job.train_step(passes(CONFIG, job))
    job.save()
    with torch.no_grad():
        job.bare.query_head.join.bias.fill_(float("nan"))
    before = state_of(job)
    with pytest.raises(TerrapromptError, match=r"not finite.*Resume from the last checkpoint.*step 1"):
        job.train_step(passes(CONFIG, job))
    assert job.step == 1
    assert all(torch.equal(v, before[n]) for n, v in state_of(job).items() if n != "query_head.join.bias")
    job.resume()
    job.train_step(passes(CONFIG, job))
    assert job.step == 2


def test_checkpoints_that_cannot_be_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = trainer(run)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        job.resume()
    (run / "step-00000009.part").mkdir()  # left behind by a kill
    job.save()
    assert not list(run.glob("*.part"))
    with pytest.raises(CheckpointError, match="another configuration"):
        trainer(run, replace(CONFIG, lr=1.0)).resume()
    with pytest.raises(CheckpointError, match="another configuration or model"):
        trainer(run, CONFIG, replace(member(), memory=None)).resume()
    weights = run / "step-00000000" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        job.resume()


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"multiple of the micro batch.*4, not a multiple of 3 x 1"):
        trainer(tmp_path / "run", replace(CONFIG, micro_batch_size=3))
    with pytest.raises(ConfigError, match="precision"):
        CausalTrainConfig(precision="fp8")
    with pytest.raises(ConfigError, match="Unknown ablation"):
        ablation("everything")
    job = trainer(tmp_path / "short")
    with pytest.raises(ConfigError, match="not as long as the training"):
        job.fit(samples(replace(CONFIG, steps=2)))


def test_it_learns_and_what_it_learned_is_an_engine(tmp_path: Path) -> None:
    """The loss of a fixed batch falls; the exported folder answers as the trained model does."""
    config = replace(CONFIG, steps=16, batch=2, points=256)
    job = trainer(tmp_path / "run", config)
    fixed = FixedSource([samples()[i][1] for i in (0, 1)])
    job.fit(TaskStream(fixed, TaskSchedule(fixed.natural), 0, config.steps * config.batch))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-4:]) < 0.75 * sum(losses[:4])
    job.export(tmp_path / "weights")
    engine = unigeoseg(weights=tmp_path / "weights")
    assert engine.tile.size == 64
    loaded, trained = engine.model.state_dict(), job.weights()
    assert all(torch.equal(value, trained[name]) for name, value in loaded.items())
    pytest.importorskip("matplotlib")
    draw_curves(tmp_path / "run" / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ablation_names())
def test_every_ablation_changes_what_it_names(name: str) -> None:
    row = ablation(name)
    base = preset("tiny")
    changed = row.model(base)
    schedule = row.schedule(TaskSchedule((0.5, 0.3, 0.2)))
    same_as_base = {"both", "slots-4", "queries-4", "pts", "tate-official", "memory-pooled"}
    assert (changed == base and (schedule.floor, schedule.by) == (0.7, "multipliers")) == (name in same_as_base)
    assert (changed.tate is None) == (name in ("none", "memory"))
    assert (changed.memory is None) == (name in ("none", "tate"))
    UniGeoSeg(replace(changed, vision=replace(changed.vision, size=64)))


def test_rows_join_and_contradictions_are_said() -> None:
    cell = ablation("slots-8+lambda-0.1").model(preset("tiny"))
    assert cell.memory is not None
    assert (cell.memory.slots, cell.memory.lambda_) == (8, (0.1, 0.1, 0.1))
    bare = ablation("none+average")
    assert bare.model(preset("tiny")).tate is None
    assert bare.schedule(TaskSchedule((1, 1, 1))).floor == 1.0
    with pytest.raises(ConfigError, match=r"change the same.*slots: 4 and 8"):
        ablation("slots-4+slots-8")
    with pytest.raises(ConfigError, match=r"Unknown ablation.*slots-9"):
        ablation("lambda-0.1+slots-9")
    assert len(TABLES[8]) == 8


@pytest.mark.parametrize(
    "name", [*dict.fromkeys(row for rows in TABLES.values() for row in rows), "memory-tokens", "tate-paper", "llama"]
)
def test_ablations_train(tmp_path: Path, name: str) -> None:
    job = trainer(tmp_path / "run", CONFIG, ablation(name).model(member()))
    assert job.train_step(passes(CONFIG, job))["loss"] > 0


@pytest.mark.parametrize("name", ["fsdp", "zero2"])
def test_configurations_of_sharded_training_are_read(name: str) -> None:
    read = load_config_from_file(str(SHARDING / f"{name}.yaml"))
    assert read.distributed_type == {"fsdp": "FSDP", "zero2": "DEEPSPEED"}[name]
    assert read.mixed_precision == "bf16"
    assert read.num_processes == 8


def test_the_rate_follows_its_curve(tmp_path: Path) -> None:
    job = trainer(tmp_path / "run", replace(CONFIG, warmup=0.5))
    rates = []
    for _ in range(4):
        rates.append(job.train_step(passes(job.config, job))["lr"])
    assert rates[:2] == [1e-3, 2e-3]
    assert all(a >= b for a, b in pairwise(rates[1:]))
    assert source().recipe.size == 64
