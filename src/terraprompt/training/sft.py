"""Format warm-up: a reasoner copies answers composed from labels until it writes in the form that GRPO rewards."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from terraprompt.errors import ConfigError, DatasetError
from terraprompt.training.grpo_processor import ReasonerProcessor
from terraprompt.training.lessons import SftExample
from terraprompt.training.reasoner_run import (
    LANGUAGE_LINEAR,
    MetricsLog,
    WholeCheckpoints,
    export,
    last_checkpoint,
    lora_config,
    start_reasoner,
    train_vision,
)
from terraprompt.vlm.local import LocalReasoner
from terraprompt.vlm.wording import DEFAULT_TEMPLATE

__all__ = ["SftConfig", "train_sft"]

_IGNORED = -100
_NAMES = {"loss": "loss", "grad_norm": "grad_norm", "learning_rate": "lr"}


@dataclass(frozen=True, slots=True)
class SftConfig:
    """Budget and optimiser of a warm-up.

    Attributes:
        batch: lessons a step, over all processes.
        micro_batch_size: lessons in one pass of one process.
        epochs, steps: passes over the lessons, or optimiser steps where given.
        lr: of AdamW, rising over ``warmup`` of the steps and falling along a cosine.
        warmup: share of the steps.
        precision, checkpointing, vision, lora_rank, lora_alpha, lora_targets, units, side, template: see
            :class:`terraprompt.training.grpo.GrpoConfig`.
        save_every, keep: steps between checkpoints, and how many stay.
        log_every: steps that one line of the log is the mean of.
        seed: of the order.
    """

    batch: int = 16
    micro_batch_size: int = 2
    epochs: float = 1.0
    steps: int | None = None
    lr: float = 1e-5
    warmup: float = 0.03
    precision: str = "bf16"
    checkpointing: bool = True
    vision: bool = False
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_targets: str = LANGUAGE_LINEAR
    units: str | None = None
    side: int | None = None
    template: str = DEFAULT_TEMPLATE
    save_every: int = 200
    keep: int = 1
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.batch, self.micro_batch_size, self.save_every, self.keep, self.log_every) < 1 or self.lr <= 0:
            raise ConfigError("Counts must be at least 1 and the rate above 0.", received=self)
        if (self.steps is not None and self.steps < 1) or self.epochs <= 0 or not 0 <= self.warmup < 1:
            raise ConfigError("Steps, epochs or the warm-up is out of range.", received=self)
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError("Unknown precision.", received=self.precision, hint="Known: bf16, fp32.")


class _Lessons(Dataset[dict[str, Tensor]]):
    def __init__(self, lessons: Sequence[SftExample], reasoner: LocalReasoner) -> None:
        self.lessons, self.reasoner = lessons, reasoner

    def __len__(self) -> int:
        return len(self.lessons)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        lesson = self.lessons[index]
        inputs = self.reasoner.inputs(lesson.image, lesson.instruction)
        tokenizer = self.reasoner.tokenizer
        said = tokenizer(lesson.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        answer = torch.tensor([said])
        question = inputs["input_ids"]
        inputs["labels"] = torch.cat([torch.full_like(question, _IGNORED), answer], 1)
        inputs["input_ids"] = torch.cat([question, answer], 1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.full_like(answer, value, dtype=inputs[name].dtype)], 1)
        return inputs


def _collated(rows: Sequence[dict[str, Tensor]], pad: int) -> dict[str, Tensor]:
    fills = {"input_ids": pad, "labels": _IGNORED, "attention_mask": 0, "mm_token_type_ids": 0}
    length = max(row["input_ids"].shape[1] for row in rows)
    batch = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if name in fills:
            parts = [torch.nn.functional.pad(p, (0, length - p.shape[1]), value=fills[name]) for p in parts]
        batch[name] = torch.cat(parts)
    return batch


def train_sft(
    lessons: Sequence[SftExample],
    start: str | Path,
    run: Path,
    config: SftConfig | None = None,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: bool = False,
) -> Path:
    """Train to the end of the budget; returns the folder ``<run>/weights``, which serves and which GRPO starts from.

    Args:
        lessons: see :func:`terraprompt.training.lessons.lessons_of`; their coordinates must be those of
            ``config.units`` and ``config.side``.
        start: folder or hub name of a local reasoner's checkpoint.
        run: a folder without another training.
        config: None = the defaults.
        device: "cpu" or "cuda"; many processes are those that ``accelerate launch`` started.
        resume: go on from the last checkpoint.
        progress: show a bar on stderr.

    Raises:
        DatasetError: there are no lessons.
        ConfigError: a setting makes no sense, or the run folder holds a training already.
        CheckpointError: the start cannot be loaded, or there is nothing to resume.
    """
    config = config or SftConfig()
    if not lessons:
        raise DatasetError("There is nothing to train on.", received="no lessons", hint="Check the data and the split.")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    passes, rest = divmod(config.batch, config.micro_batch_size * processes)
    if rest or not passes:
        raise ConfigError(
            "The batch must be a multiple of the micro batch of all processes.",
            received=f"{config.batch} and {config.micro_batch_size} x {processes}",
        )
    checkpoint = last_checkpoint(run, resume=resume)
    reasoner = start_reasoner(
        start, precision=config.precision, units=config.units, side=config.side, template=config.template
    )
    train_vision(reasoner.model, config.vision)
    trainer = _trainer(lessons, reasoner, run, config, passes=passes, device=device, progress=progress)
    if trainer.accelerator.is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        said = {"start": str(start), "lessons": len(lessons), **asdict(config)}
        (run / "config.json").write_text(json.dumps(said, indent=1, default=str))
        after = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        trainer.add_callback(MetricsLog(run / "metrics.jsonl", _NAMES, after))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return export(trainer, reasoner, run / "weights")


def _trainer(
    lessons: Sequence[SftExample],
    reasoner: LocalReasoner,
    run: Path,
    config: SftConfig,
    *,
    passes: int,
    device: str,
    progress: bool,
) -> Any:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    model = reasoner.model
    if config.lora_rank:
        settings = lora_config(config.lora_rank, config.lora_alpha, config.lora_targets)
        from peft import get_peft_model

        model = get_peft_model(model, settings)
        if config.checkpointing:
            model.enable_input_require_grads()
    arguments = TrainingArguments(
        output_dir=str(run),
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=passes,
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        bf16=config.precision == "bf16",
        gradient_checkpointing=config.checkpointing,
        use_cpu=device == "cpu",
        logging_first_step=True,
        logging_steps=config.log_every,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=config.keep,
        report_to="none",
        disable_tqdm=not progress,
        seed=config.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=device != "cpu",
    )

    class Copyist(WholeCheckpoints, Trainer):  # type: ignore[misc]
        pass

    pad = int(reasoner.tokenizer.pad_token_id or 0)
    trainer = Copyist(
        model=model,
        args=arguments,
        train_dataset=_Lessons(lessons, reasoner),
        data_collator=lambda rows: _collated(rows, pad),
        processing_class=ReasonerProcessor(reasoner, Path(reasoner.info.where)),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
