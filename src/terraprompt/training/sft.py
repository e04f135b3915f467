"""Format warm-up: a reasoner copies answers composed from labels until it writes in the form that GRPO rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from terraprompt.errors import ConfigError, DatasetError
from terraprompt.io.progress import Progress
from terraprompt.training.grpo_processor import ReasonerProcessor
from terraprompt.training.loop import TrainLoop, check_run
from terraprompt.training.reasoner import ReasonerConfig, export, lora_config, start_reasoner
from terraprompt.training.sft_examples import SftExample
from terraprompt.training.step import LoopConfig, TrainStep, group_parameters
from terraprompt.vlm.local import LocalReasoner

__all__ = ["SftConfig", "train_sft"]

_IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig(LoopConfig, ReasonerConfig):
    """Budget and optimiser of a warm-up, beside what all trainings set and what those of a reasoner do.

    Attributes:
        steps: optimiser steps; 0 = as many as ``epochs`` make.
        epochs: passes over the examples.
    """

    steps: int = 0
    micro_batch_size: int | None = 2
    epochs: float = 1.0
    lr: float = 1e-5
    vision: bool = False
    save_every: int = 200
    keep: int = 1

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        if self.epochs <= 0 or self.lora_rank < 0:
            raise ConfigError("Epochs or the rank of LoRA is out of range.", received=self)
        _ = self.rules


class _Examples(Dataset[tuple[int, dict[str, Tensor]]]):
    """Tensors of example after example, ``total`` in all; each epoch has an order of its own."""

    def __init__(self, examples: Sequence[SftExample], reasoner: LocalReasoner, seed: int, total: int) -> None:
        self.examples, self.reasoner, self.seed, self.total = examples, reasoner, seed, total
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))  # of an epoch

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> tuple[int, dict[str, Tensor]]:
        epoch, place = divmod(index, len(self.examples))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))
        example = self.examples[int(self._order[1][place])]
        inputs = self.reasoner.inputs(example.image, example.instruction)
        tokenizer = self.reasoner.tokenizer
        ids = tokenizer(example.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        answer = torch.tensor([ids])
        question = inputs["input_ids"]
        inputs["labels"] = torch.cat([torch.full_like(question, _IGNORED), answer], 1)
        inputs["input_ids"] = torch.cat([question, answer], 1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.full_like(answer, value, dtype=inputs[name].dtype)], 1)
        return index, inputs


@dataclass(frozen=True, slots=True)
class _Batch:
    """Inputs of the model, the labels (B, L), and the place of the first example in the training."""

    inputs: dict[str, Tensor]
    labels: Tensor
    index: int

    def to(self, device: torch.device | str) -> _Batch:
        moved = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        return _Batch(moved, self.labels.to(device, non_blocking=True), self.index)


def _collate(pad: int, samples: Sequence[tuple[int, dict[str, Tensor]]]) -> _Batch:
    fills = {"input_ids": pad, "labels": _IGNORED, "attention_mask": 0, "mm_token_type_ids": 0}
    rows = [row for _, row in samples]
    length = max(row["input_ids"].shape[1] for row in rows)
    batch = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if name in fills:
            parts = [F.pad(p, (0, length - p.shape[1]), value=fills[name]) for p in parts]
        batch[name] = torch.cat(parts)
    return _Batch(batch, batch.pop("labels"), samples[0][0])


class _SftStep(TrainStep):
    """Cross-entropy of the tokens of the answers."""

    def __init__(self, reasoner: LocalReasoner, config: SftConfig, facts: dict[str, Any]) -> None:
        model = reasoner.model
        if settings := lora_config(config):
            from peft import get_peft_model

            model = get_peft_model(model, settings)
        if config.checkpointing:
            # renamed within transformers 5
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
            if settings:
                model.enable_input_require_grads()
        super().__init__(model)
        self.config, self.facts = config, facts
        self.collate = partial(_collate, int(reasoner.tokenizer.pad_token_id or 0))

    def forward(self, batch: _Batch, totals: Sequence[float], step: int) -> dict[str, Tensor]:
        wanted = batch.labels[:, 1:]
        learned = wanted != _IGNORED
        with torch.autocast(wanted.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits = self.model(**batch.inputs, use_cache=False).logits[:, :-1][learned]
        return {"language": F.cross_entropy(logits.float(), wanted[learned], reduction="sum") / totals[0]}

    def counts(self, batch: _Batch) -> Sequence[float]:
        return [int((batch.labels[:, 1:] != _IGNORED).sum())]

    def seed(self, batch: _Batch, step: int) -> int:
        return batch.index

    def parameter_groups(self) -> list[dict[str, Any]]:
        return group_parameters(self.model.named_parameters(), lambda _: self.config.lr, self.config.weight_decay)

    def settings(self) -> dict[str, Any]:
        return self.facts


class _SftTrainer(TrainLoop):
    """The loop with what :func:`~terraprompt.training.reasoner.export` asks of a trainer."""

    processing_class: ReasonerProcessor

    def save_model(self, folder: str) -> None:
        state = self.weights()
        if self.accelerator.is_main_process:
            self.bare.save_pretrained(folder, state_dict=state)
            self.processing_class.save_pretrained(folder)


def train_sft(
    examples: Sequence[SftExample],
    start: str | Path,
    run: Path,
    config: SftConfig | None = None,
    *,
    device: str | None = "cpu",
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train to the end of the budget; returns the folder ``<run>/weights``, which serves and which GRPO starts from.

    Args:
        examples: see :func:`terraprompt.training.sft_examples.sft_examples`; their coordinates must be those of
            ``config.units`` and ``config.side``.
        start: folder or hub name of a local reasoner's checkpoint.
        run: a folder without another training.
        config: None = the defaults.
        device: "cpu", or None for what accelerate finds; many processes are those that ``accelerate launch`` started.
        resume: go on from the last checkpoint.
        progress: told steps done and to do.

    Raises:
        DatasetError: there are no examples.
        ConfigError: a setting makes no sense, or the run folder holds a training already.
        CheckpointError: the start cannot be loaded, or there is nothing to resume.
    """
    config = config or SftConfig()
    if not examples:
        raise DatasetError(
            "There is nothing to train on.", received="no examples", hint="Check the data and the split."
        )
    if not config.steps:
        config = replace(config, steps=max(1, math.ceil(config.epochs * len(examples) / config.batch)))
    check_run(run, resume=resume)
    reasoner = start_reasoner(start, config)
    facts = {"start": str(start), "examples": len(examples)}
    trainer = _SftTrainer(_SftStep(reasoner, config, facts), config, run, device=device)
    trainer.processing_class = ReasonerProcessor(reasoner, Path(reasoner.info.where))
    if resume:
        trainer.resume()
    trainer.fit(_Examples(examples, reasoner, config.seed, config.steps * config.batch), progress=progress)
    return export(trainer, reasoner, run / "weights")
