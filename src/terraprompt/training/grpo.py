"""GRPO: a reasoner learns from masks alone to point a frozen segmenter at what is asked (Think2Seg-RS).

The loop is that of TRL's ``GRPOTrainer``: for each prompt a group of completions is drawn; a completion's advantage is
``(r - mean) / (std + 1e-4)`` of its group's rewards; the clipped objective is taken once, with the k3 estimate of the
KL divergence from the frozen start. Ours are the tensors (:mod:`terraprompt.training.grpo_processor`), the rewards
(:mod:`terraprompt.training.grpo_rewards`), the log and the export.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terraprompt.datasets.sample import Sample
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.io.interruption import saves_first
from terraprompt.segmenters.base import PromptableSegmenter
from terraprompt.training.grpo_processor import ReasonerProcessor
from terraprompt.training.grpo_rewards import THINK2SEG, GroupDraw, rewards_of
from terraprompt.training.reasoner import (
    MetricsLog,
    ReasonerConfig,
    SavesInTime,
    WholeCheckpoints,
    export,
    last_checkpoint,
    lora_config,
    require,
    start_reasoner,
)
from terraprompt.training.sft_examples import WORDINGS, asked_wordings, instances_of
from terraprompt.vlm.local import LocalReasoner

__all__ = ["CURVES", "GrpoBudget", "GrpoConfig", "GrpoRun", "train_grpo"]

log = logging.getLogger(__name__)

#: What the picture of the curves shows.
CURVES = ("reward", "held_out_reward", "target", "format", "tags", "length", "kl", "entropy")
_NAMES = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "rewards/target_reward/mean": "target",
    "rewards/no_target_reward/mean": "no_target",
    "rewards/format_reward/mean": "format",
    "rewards/tag_reward/mean": "tags",
    "rewards/matching_reward/mean": "matching",
    "rewards/non_repetition_reward/mean": "non_repetition",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clipped",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
    "eval_reward": "held_out_reward",
    "eval_rewards/target_reward/mean": "held_out_target",
    "eval_rewards/format_reward/mean": "held_out_format",
    "eval_completions/mean_length": "held_out_length",
}


@dataclass(frozen=True, slots=True)
class GrpoConfig(ReasonerConfig):
    """Budget, objective and sampling; the defaults are those of Think2Seg-RS with Qwen2.5-VL 3B.

    Attributes:
        generations: completions a group.
        prompts: groups a step, over all processes.
        micro_batch_size: completions in one pass of one process.
        epochs: passes over the data; ``steps`` overrides it where given.
        steps: optimiser steps.
        lr: of AdamW, falling linearly to 0.
        epsilon: clip range of the probability ratio.
        beta: weight of the KL divergence.
        temperature, top_k, max_tokens: of the completions.
        terms: of the reward, see :data:`terraprompt.training.grpo_rewards.TERMS`.
        wordings: "each": every wording of a sample is a prompt of its own (Think2Seg-RS); "one": one of them, drawn by
            the seed.
        vllm: "off", "colocate" (generates on the training GPUs) or "server".
        vllm_memory: share of a GPU that vLLM takes when colocated.
        vllm_server: address, for "server".
        evaluate_every, evaluate_generations: held-out prompts: steps between evaluations, 0 = never; completions each.
        save_every, save_seconds, keep: steps, or seconds (0 = steps alone), between checkpoints, and how many stay.
        seed: of the order and the draws.
    """

    generations: int = 16
    prompts: int = 4
    micro_batch_size: int = 2
    epochs: float = 5.0
    steps: int | None = None
    lr: float = 1e-6
    epsilon: float = 0.2
    beta: float = 0.001
    temperature: float = 1.0
    top_k: int = 50
    max_tokens: int = 1024
    terms: tuple[str, ...] = THINK2SEG
    wordings: str = "each"
    vllm: str = "off"
    vllm_memory: float = 0.3
    vllm_server: str | None = None
    evaluate_every: int = 0
    evaluate_generations: int = 2
    save_every: int = 100
    save_seconds: float = 600.0
    keep: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.generations < 2:
            raise ConfigError("A group needs at least two completions.", received=self.generations)
        counts = self.prompts, self.micro_batch_size, self.max_tokens, self.save_every, self.keep
        if min(*counts, self.evaluate_generations) < 1:
            raise ConfigError("Counts must be at least 1.", received=self)
        if not 0 <= self.save_seconds < math.inf:
            raise ConfigError("save_seconds must be a number that is not negative.", received=self.save_seconds)
        if self.lr <= 0 or self.temperature <= 0 or not 0 < self.epsilon < 1 or min(self.beta, self.top_k) < 0:
            raise ConfigError("lr, temperature, epsilon, beta or top_k is out of range.", received=self)
        if (self.steps is not None and self.steps < 1) or self.epochs <= 0 or self.lora_rank < 0:
            raise ConfigError("Steps, epochs or the rank of LoRA is out of range.", received=self)
        if self.wordings not in WORDINGS:
            raise ConfigError(
                "Unknown choice of wordings.", received=self.wordings, hint=f"Known: {', '.join(WORDINGS)}."
            )
        _ = self.rules
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError("Unknown precision.", received=self.precision, hint="Known: bf16, fp32.")
        if self.vllm not in ("off", "colocate", "server"):
            raise ConfigError("Unknown way of vLLM.", received=self.vllm, hint="Known: off, colocate, server.")

    def budget(self, samples: Sequence[Sample], processes: int = 1) -> GrpoBudget:
        """What a training on ``samples`` takes; a rest of prompts that fills no step is left to another epoch's order.

        Raises:
            ConfigError: the completions of a step cannot be dealt out evenly, or there are too few prompts for a step.
        """
        prompts = len(asked_wordings(samples, self.wordings))
        each = prompts // self.prompts
        if not each:
            raise ConfigError("A step has more prompts than there are.", received=f"{self.prompts} of {prompts}")
        steps = self.steps or math.ceil(self.epochs * each)
        return GrpoBudget(
            len(samples), prompts, self.prompts, self.generations, self.grad_accum_steps(processes), steps
        )

    def grad_accum_steps(self, processes: int) -> int:
        """Passes that add up to one step.

        Raises:
            ConfigError: the completions of a step cannot be dealt out evenly.
        """
        count, rest = divmod(self.prompts * self.generations, self.micro_batch_size * processes)
        if rest or not count:
            raise ConfigError(
                "The completions of a step must be a multiple of those of one pass of all processes.",
                received=f"{self.prompts} x {self.generations} and {self.micro_batch_size} x {processes}",
                hint="Choose another micro_batch_size.",
            )
        return count


@dataclass(frozen=True, slots=True)
class GrpoBudget:
    """Numbers of a training.

    Attributes:
        samples, prompts: of the data; a sample has a prompt a wording, or one.
        prompts_per_step, generations: groups of a step and completions of a group.
        passes: of each process in a step.
        steps: in all.
    """

    samples: int
    prompts: int
    prompts_per_step: int
    generations: int
    passes: int
    steps: int

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.samples} samples, {self.prompts} prompts; {self.steps} steps of {self.prompts_per_step} prompts x "
            f"{self.generations} answers = {self.prompts_per_step * self.generations} completions, "
            f"{self.passes} passes a process; {self.steps * self.prompts_per_step / self.prompts:.3g} epochs"
        )


@dataclass(frozen=True, slots=True, eq=False)
class GrpoRun:
    """A finished training.

    Attributes:
        trainer: of TRL.
        reasoner: with the trained model; answers in this process.
        draw: the frozen segmenter with its count of encoded images.
        weights: the folder that serves.
    """

    trainer: Any
    reasoner: LocalReasoner
    draw: GroupDraw
    weights: Path


def train_grpo(
    samples: Sequence[Sample],
    start: str | Path,
    segmenter: PromptableSegmenter | None,
    run: Path,
    config: GrpoConfig | None = None,
    *,
    held_out: Sequence[Sample] = (),
    device: str = "cpu",
    resume: bool = False,
    progress: bool = False,
) -> GrpoRun:
    """Train to the end of the budget and export.

    Writes to ``run``: ``metrics.jsonl``, ``config.json``, ``checkpoint-*`` and ``weights`` (with LoRA also
    ``adapter``). A run that was stopped goes on with ``resume``, and goes the way it would have gone.

    Args:
        samples: what is asked, with masks; ``config.wordings`` says which wordings of a sample are prompts.
        start: folder or hub name of a local reasoner's checkpoint; also the frozen reference.
        segmenter: frozen; draws what the completions point at.
        run: a folder without another training.
        config: None = the defaults.
        held_out: of the evaluations, see ``config.evaluate_every``; each is asked in one of its wordings.
        device: "cpu" or "cuda"; many processes are those that ``accelerate launch`` started.
        resume: go on from the last checkpoint.
        progress: show a bar on stderr.

    Raises:
        DatasetError: there is nothing to train on, or a sample has no wording.
        ConfigError: no segmenter, a setting that makes no sense here (vLLM without a GPU), or missing packages.
        CheckpointError: the start cannot be loaded, or there is nothing to resume.
    """
    config = config or GrpoConfig()
    if segmenter is None:
        raise ConfigError(
            "GRPO needs a frozen segmenter to reward what is pointed at.", hint='Name one, e.g. "sam2-small" or "nano".'
        )
    if not samples:
        raise DatasetError("There is nothing to train on.", received="no samples", hint="Check the data and the split.")
    everything = [*samples, *held_out]
    if mute := next((sample.id for sample in everything if not sample.instructions), None):
        raise DatasetError("A sample asks nothing.", received=mute)
    _check_vllm(config, device)
    require("trl", "GRPO")
    checkpoint = last_checkpoint(run, resume=resume)
    reasoner = start_reasoner(start, config, max_tokens=config.max_tokens)
    log.info("%s", config.budget(samples, int(os.environ.get("WORLD_SIZE", "1"))).line())
    draw = GroupDraw(segmenter, reasoner.convention, everything, keep=config.prompts + 1)
    trainer = _trainer(everything, len(samples), reasoner, draw, run, config, device=device, progress=progress)
    if trainer.accelerator.is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        written = {"start": str(start), "segmenter": asdict(segmenter.info), "samples": len(samples), **asdict(config)}
        (run / "config.json").write_text(json.dumps(written, indent=1, default=str))
        after = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        trainer.add_callback(MetricsLog(run / "metrics.jsonl", _NAMES, after))
    if config.evaluate_every and held_out and checkpoint is None:
        trainer.evaluate()
    with saves_first("Saving after this step", log) as came:
        trainer.add_callback(SavesInTime(trainer.accelerator, config.save_seconds, came))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return GrpoRun(trainer, reasoner, draw, export(trainer, reasoner, run / "weights"))


def _trainer(
    samples: Sequence[Sample],
    train: int,
    reasoner: LocalReasoner,
    draw: GroupDraw,
    run: Path,
    config: GrpoConfig,
    *,
    device: str,
    progress: bool,
) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    class Trainer(WholeCheckpoints, GRPOTrainer):  # type: ignore[misc]
        def _send_telemetry(self) -> None:
            """Nobody is told that a training runs."""

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Checkpoints are no releases."""

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    evaluates = bool(config.evaluate_every) and len(samples) > train
    group = config.evaluate_generations
    settings = GRPOConfig(
        output_dir=str(run),
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.grad_accum_steps(processes),
        num_generations=config.generations,
        num_generations_eval=group,
        per_device_eval_batch_size=group * max(1, 64 // group),
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        learning_rate=config.lr,
        lr_scheduler_type="linear",
        warmup_steps=0,
        epsilon=config.epsilon,
        beta=config.beta,
        num_iterations=1,
        loss_type="grpo",
        scale_rewards="group",
        temperature=config.temperature,
        top_k=config.top_k,
        max_completion_length=config.max_tokens,
        bf16=config.precision == "bf16",
        gradient_checkpointing=config.checkpointing,
        use_cpu=device == "cpu",
        use_vllm=config.vllm != "off",
        vllm_mode="colocate" if config.vllm == "off" else config.vllm,
        vllm_gpu_memory_utilization=config.vllm_memory,
        vllm_server_base_url=config.vllm_server,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.evaluate_every or None,
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=config.keep,
        report_to="none",
        disable_tqdm=not progress,
        seed=config.seed,
        dataloader_pin_memory=device != "cpu",
    )
    held_out = range(train, len(samples))
    trainer = Trainer(
        model=reasoner.model,
        reward_funcs=rewards_of(config.terms, draw, rules=reasoner.rules),
        args=settings,
        train_dataset=_rows(samples, range(train), reasoner, config),
        eval_dataset=_rows(samples, held_out, reasoner, config, one_wording=True) if evaluates else None,
        processing_class=ReasonerProcessor(reasoner, Path(reasoner.info.where)),
        peft_config=lora_config(config),
    )
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # the log is the file
    return trainer


def _rows(
    samples: Sequence[Sample],
    indices: range,
    reasoner: LocalReasoner,
    config: GrpoConfig,
    *,
    one_wording: bool = False,
) -> Any:
    """The columns that TRL and the rewards take; pictures are read when they are asked for."""
    from datasets import Dataset
    from PIL import Image

    matched = "matching" in config.terms

    def row(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"sample": batch["sample"], "prompt": [], "image": []}
        for index, wording in zip(batch["sample"], batch["wording"], strict=True):
            sample = samples[index]
            image = sample.load_image()
            size = (image.shape[0], image.shape[1])
            words = reasoner.words(sample.instructions[wording], size)
            out["prompt"].append([{"role": "user", "content": words}])
            out["image"].append(Image.fromarray(reasoner.convention.view.shown(image)))
            if matched:
                boxes, points = _truths(sample.load_mask(), reasoner)
                out.setdefault("truth_boxes", []).append(boxes)
                out.setdefault("truth_points", []).append(points)
        return out

    asked = [(indices[i], w) for i, w in asked_wordings([samples[i] for i in indices], config.wordings, config.seed)]
    if one_wording:
        asked = [(i, i % len(samples[i].instructions)) for i in indices]
    columns = {"sample": [i for i, _ in asked], "wording": [w for _, w in asked]}
    return Dataset.from_dict(columns).with_transform(row)


def _truths(mask: NDArray[np.uint8], reasoner: LocalReasoner) -> tuple[list[Any], list[Any]]:
    found = reasoner.convention.from_source(instances_of(mask, points=1), (mask.shape[0], mask.shape[1]))
    return [v.box for v in found], [v.points[0] for v in found]


def _check_vllm(config: GrpoConfig, device: str) -> None:
    if config.vllm == "off":
        return
    if device == "cpu" or not torch.cuda.is_available():
        raise ConfigError(
            "vLLM needs a GPU.", received=f"vllm = {config.vllm} on {device}", hint='Leave it out, or set vllm = "off".'
        )
    require("vllm", "Generation with vLLM")
