"""A very small training of a causal member: for the tests, and in a process that can be killed or started twice."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from labeled_images import rendered, street, town

from terraprompt.engines.dialogue import DialogueWriter
from terraprompt.models.unigeoseg import UniGeoSeg, UniGeoSegConfig, preset
from terraprompt.training.causal_step import CausalTrainConfig, CausalTrainer
from terraprompt.training.crops import CropRecipe
from terraprompt.training.dialogues import CropSource, TaskStream, byte_tokenizer
from terraprompt.training.schedule import TaskSchedule

CONFIG = CausalTrainConfig(
    steps=4, batch=4, micro_batch_size=2, lr=2e-3, points=64, precision="fp32", save_every=100, log_every=1, warmup=0.25
)
#: Of :func:`run_job`.
JOB = replace(CONFIG, steps=8, save_every=2, ema=0.9)
SCHEDULE = TaskSchedule((0.4, 0.3, 0.3))


def member() -> UniGeoSegConfig:
    config = preset("tiny")
    return replace(config, vision=replace(config.vision, size=64))


@cache
def source() -> CropSource:
    shares = {"town": 0.5, "rendered": 0.3, "street": 0.2}
    return CropSource([town(), rendered(), street()], shares, CropRecipe(size=64))


def samples(config: CausalTrainConfig = CONFIG) -> TaskStream:
    return TaskStream(source(), SCHEDULE, config.seed, config.steps * config.batch)


def writer(folder: Path) -> DialogueWriter:
    byte_tokenizer().save_pretrained(str(folder))
    return DialogueWriter.load(folder, 512, system="Look.")


def trainer(run: Path, config: CausalTrainConfig = CONFIG, model: UniGeoSegConfig | None = None) -> CausalTrainer:
    torch.manual_seed(config.seed)
    words = writer(run.parent / f"words-{run.name}-{os.getpid()}")
    return CausalTrainer(UniGeoSeg(model or member()), words, config, run, device="cpu")


def run_job(run: Path, pace: float, environment: dict[str, str]) -> None:
    """The whole training in a process of its own; ``pace``: seconds to rest before each step."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    job = trainer(run, JOB)
    job.fit(samples(JOB), stop=lambda: time.sleep(pace) is not None)
    state = job.weights()
    if job.accelerator.is_main_process:
        torch.save(state, run / "weights.pt")
