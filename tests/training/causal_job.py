"""A very small training of a causal member: for the tests, and as a program that can be killed or started twice."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from training_grounds import rendered, street, town

from terraprompt.engines.dialogue import DialogueWriter
from terraprompt.models.unigeoseg import UniGeoSeg, UniGeoSegConfig, preset
from terraprompt.training.causal import CausalTrainConfig, CausalTrainer
from terraprompt.training.crops import CropRecipe
from terraprompt.training.dialogues import CropSource, TaskStream, byte_tokenizer
from terraprompt.training.schedule import TaskSchedule

CONFIG = CausalTrainConfig(
    steps=4, batch=4, micro=2, rate=2e-3, points=64, precision="fp32", save_every=100, log_every=1, warmup=0.25
)
SCHEDULE = TaskSchedule((0.4, 0.3, 0.3))


def member() -> UniGeoSegConfig:
    config = preset("tiny")
    return replace(config, vision=replace(config.vision, size=64))


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
    words = writer(run.parent / f"words-{torch.initial_seed()}-{run.name}")
    return CausalTrainer(UniGeoSeg(model or member()), words, config, run, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=CONFIG.steps)
    parser.add_argument("--micro", type=int, default=CONFIG.micro)
    parser.add_argument("--save-every", type=int, default=CONFIG.save_every)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(CONFIG, steps=options.steps, micro=options.micro, save_every=options.save_every, ema=0.9)
    job = trainer(options.run, config)
    if options.resume:
        job.resume()
    job.fit(samples(config))
    state = job.weights()
    if job.accelerator.is_main_process:
        torch.save(state, options.run / "weights.pt")


if __name__ == "__main__":
    main()
