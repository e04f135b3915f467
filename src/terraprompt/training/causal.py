"""The trainer of members that read with a causal language model, on one process or many (accelerate)."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from torch import Tensor, nn

from terraprompt.engines.dialogue import DialogueWriter
from terraprompt.errors import CheckpointError, ConfigError, TerrapromptError
from terraprompt.models.unigeoseg import UniGeoSeg
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.models.unigeoseg.convert import save_converted
from terraprompt.models.unigeoseg.losses import mask_losses
from terraprompt.training.dialogues import DialogueBatch, TaskStream, steps
from terraprompt.training.lora import LoraConfig, add_lora, merged
from terraprompt.training.supervised import cosine

__all__ = ["CausalTrainConfig", "CausalTrainer"]

_CHECKPOINT = "step-"
_SPREAD = 1_000_003  # a prime, so that seeds of two trainings rarely meet

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CausalTrainConfig:
    """Budget and optimiser; the defaults are the paper's where it says (spec 10).

    Patterns are shell-like (``reader.language.*``) on the names of parameters.

    Attributes:
        steps: optimiser steps.
        batch: samples a step, over all processes and passes.
        micro_batch_size: samples in one pass of one process; passes are accumulated until ``batch`` is reached. The
            result depends on the batch and the micro batch, not on the number of processes.
        lr: peak learning rate; cosine to 1 % after ``warmup`` share of linear rise.
        lr_overrides: pattern and rate of parts that differ; the first match counts.
        frozen: patterns of parts that stay as they are.
        trained: patterns of exceptions from ``frozen``.
        lora: low-rank adaptation of linear layers, whose own weights are then frozen; None for none.
        weight_decay: of matrices.
        max_grad_norm: gradients are scaled down to it; 0 does not clip.
        ema: decay of averaged weights, which are then exported; 0 for none.
        points: sampled points a mask and prediction.
        bce, dice, language: loss weights.
        precision: "bf16" (autocast, weights stay fp32) or "fp32".
        checkpointing: recompute the language model's layers in the backward pass instead of keeping them.
        save_every: steps between checkpoints.
        keep: checkpoints that are kept.
        log_every: steps between lines of metrics.
        seed: of weights, samples, points and dropout.
    """

    steps: int = 2000
    batch: int = 16
    micro_batch_size: int = 2
    lr: float = 1e-4
    lr_overrides: tuple[tuple[str, float], ...] = ()
    frozen: tuple[str, ...] = ("vision.*",)
    trained: tuple[str, ...] = ()
    lora: LoraConfig | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema: float = 0.0
    warmup: float = 0.03
    points: int = 12544
    bce: float = 5.0
    dice: float = 5.0
    language: float = 1.0
    precision: str = "bf16"
    checkpointing: bool = False
    save_every: int = 500
    keep: int = 2
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            min(self.steps, self.batch, self.micro_batch_size, self.points, self.save_every, self.keep, self.log_every)
            < 1
        ):
            raise ConfigError("Steps, batches, points and intervals must be at least 1.", received=self)
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError("Unknown precision of training.", received=self.precision, hint="Known: bf16, fp32.")
        if not 0 <= self.ema < 1:
            raise ConfigError("The decay of averaged weights lies in [0, 1).", received=self.ema)

    def grad_accum_steps(self, processes: int) -> int:
        """Passes of each process in a step."""
        if self.batch % (self.micro_batch_size * processes):
            raise ConfigError(
                "The batch must be a multiple of the micro batch times the processes.",
                received=f"{self.batch}, not a multiple of {self.micro_batch_size} x {processes}",
                hint="Change batch or micro_batch_size.",
            )
        return self.batch // (self.micro_batch_size * processes)


class _Criterion(nn.Module):
    """Model and losses as one module, because wrappers of distributed training hook into one forward call."""

    def __init__(self, model: UniGeoSeg, config: CausalTrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: DialogueBatch, masks: float, words: float) -> dict[str, Tensor]:
        """Weighted terms of one pass; over all passes of all processes they add up to the loss of the step.

        Args:
            batch: of this pass.
            masks, words: number of masks and of learned tokens of the whole step.
        """
        # here and not by accelerate alone, whose precision is one for a whole process
        with torch.autocast(batch.target.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self._terms(batch, masks, words)

    def _terms(self, batch: DialogueBatch, masks: float, words: float) -> dict[str, Tensor]:
        model, dialogue = self.model, batch.dialogue
        features = model.encode_image(batch.images)
        states = model.read(dialogue, features[-1]).states
        query = model.predict_query(states, dialogue.refer, dialogue.task, features[-1], dialogue.image)
        drawn = model.predict_masks(query, model.decode_pixels(features), dialogue.image)
        # one generator a sample: its points do not depend on who shares the pass
        generators = [
            torch.Generator(device=batch.target.device).manual_seed(self.config.seed * _SPREAD + int(i))
            for i in batch.index
        ]
        bce, dice = mask_losses(
            drawn.logits,
            batch.target,
            known=batch.known,
            points=self.config.points,
            masks=masks,
            generator=generators,
        )
        terms = {"bce": self.config.bce * bce, "dice": self.config.dice * dice}
        if batch.words and self.config.language and model.reader is not None and dialogue.labels is not None:
            said = model.reader.answer_loss(states, dialogue.labels)
            terms["language"] = self.config.language * said * (batch.words / words)
        # A branch of TATE that no sample of this pass takes gets a gradient of zero and not none: processes that share
        # or shard gradients must all bring the same ones.
        idle = [] if model.tate is None else list(model.tate.parameters())
        if "language" not in terms and model.reader is not None and model.reader.lm_head is not None:
            idle += model.reader.lm_head.parameters()
        for parameter in idle:
            terms["dice"] = terms["dice"] + 0 * parameter.sum()
        return terms


class _Average:
    """An exponential moving average of trained parameters."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter]) -> None:
        for name, value in self.values.items():
            value.lerp_(parameters[name].detach(), 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return self.values

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(state[name])


class CausalTrainer:
    """Steps a model over dialogues; saves, resumes, logs.

    Args:
        model: a member with a causal reader and a head over its vocabulary; its parts are frozen and adapted here.
        writer: of dialogues.
        config: budget and optimiser.
        run: folder for ``metrics.jsonl``, ``config.json`` and checkpoints ``step-…``.
        device: "cpu", or None for what accelerate finds.

    Raises:
        ConfigError: a pattern matches nothing, nothing is left to train, or the batch does not divide.
    """

    def __init__(
        self,
        model: UniGeoSeg,
        writer: DialogueWriter,
        config: CausalTrainConfig,
        run: Path,
        *,
        device: str | None = None,
    ) -> None:
        if model.reader is None:
            raise ConfigError("This member reads with a sentence encoder.", received=model.config.name)
        self.config, self.run, self.writer = config, run, writer
        self.member = model.config
        cpu = device == "cpu"
        count = PartialState(cpu=cpu).num_processes
        self.grad_accum_steps = config.grad_accum_steps(count)
        self.accelerator: Any = Accelerator(
            cpu=cpu,
            gradient_accumulation_steps=self.grad_accum_steps,
        )
        if config.precision == "fp32" and self.accelerator.mixed_precision != "no":
            raise ConfigError(
                "accelerate was launched with another precision.",
                received=f"{self.accelerator.mixed_precision}, not fp32",
                hint="Use precision bf16, or launch with --mixed_precision no.",
            )
        if config.lora is not None:
            add_lora(model, config.lora)
        _freeze(model, config)
        if config.checkpointing:
            language = model.reader.language
            # renamed within transformers 5
            enable = (
                getattr(language, "activation_checkpointing_enable", None) or language.gradient_checkpointing_enable
            )
            enable({"use_reentrant": False})
        criterion = _Criterion(model, config)
        groups = _groups(model, config)
        self._peaks = [group["lr"] for group in groups]
        self._still = [part for part in model.children() if not any(p.requires_grad for p in part.parameters())]
        plugin = self.accelerator.state.deepspeed_plugin
        if plugin is not None:
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.micro_batch_size
            plugin.deepspeed_config["gradient_accumulation_steps"] = self.grad_accum_steps
        self.model, self.optimiser = self.accelerator.prepare(criterion, torch.optim.AdamW(groups, betas=(0.9, 0.999)))
        self.average: _Average | None = None
        if config.ema:
            if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
                raise ConfigError("Averaged weights are not kept in shards.", received=f"ema {config.ema}")
            self.average = _Average(self._trained(), config.ema)
            self.accelerator.register_for_checkpointing(self.average)
        self.step = 0
        if self.accelerator.is_main_process:
            run.mkdir(parents=True, exist_ok=True)
            (run / "config.json").write_text(json.dumps(self._settings(), indent=1) + "\n")
        self.accelerator.wait_for_everyone()

    @property
    def bare(self) -> UniGeoSeg:
        """The model itself."""
        model: UniGeoSeg = self.accelerator.unwrap_model(self.model).model
        return model

    def train_step(self, passes: Sequence[DialogueBatch]) -> dict[str, float]:
        """One optimiser step over this process's passes; the terms of the whole step, on every process.

        Raises:
            TerrapromptError: the loss or the gradient is not finite; the weights are as before the step.
        """
        self.model.train()
        for part in self._still:
            part.eval()
        device, processes = self.accelerator.device, self.accelerator.num_processes
        factor = cosine(self.step, self.config.steps, self.config.warmup)
        for group, peak in zip(self.optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        tasks = [sum(int((b.dialogue.task == t).sum()) for b in passes) for t in TASK_INDEX.values()]
        counts = torch.tensor([sum(len(b.index) for b in passes), sum(b.words for b in passes), *tasks], device=device)
        masks, words, *asked = self.accelerator.reduce(counts, "sum").tolist()
        sums: dict[str, Tensor] = {}
        norm: Any = None
        for batch in passes:
            # by sample, so that dropout is the same after a resumption and on another number of processes
            torch.manual_seed(self.config.seed * _SPREAD + int(batch.index[0]))
            with self.accelerator.accumulate(self.model):
                terms = self.model(batch.to(device), float(masks), float(words))
                total = torch.stack(list(terms.values())).sum()
                for name, value in terms.items():
                    sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
                # accelerate divides by the passes, and averages over the processes
                self.accelerator.backward(total * (self.grad_accum_steps * processes))
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(
                        self.model.parameters(), self.config.max_grad_norm or math.inf
                    )
        names = ("bce", "dice", "language")
        values = torch.stack([sums.get(n, torch.zeros((), device=device)).float() for n in names])
        reduced = dict(zip(names, self.accelerator.reduce(values, "sum").tolist(), strict=True))
        out = {**reduced, "loss": sum(reduced.values())}
        if norm is not None:
            out["norm"] = float(norm)
        if not all(map(math.isfinite, out.values())):
            self.optimiser.zero_grad()
            raise TerrapromptError(
                "The loss or its gradient is not finite.",
                received=out,
                hint=f"Resume from the last checkpoint with a lower rate; step {self.step}.",
            )
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        if self.average is not None:
            self.average.update(self._trained())
        shares = {task.value: n / masks for task, n in zip(TASK_INDEX, asked, strict=True)}
        return {**out, "lr": self.config.lr * factor, **shares}

    def fit(self, samples: TaskStream, *, workers: int = 0, stop: Callable[[], bool] | None = None) -> None:
        """Train until the budget ends, or ``stop()`` says so on all processes alike; saves either way."""
        if len(samples) != self.config.steps * self.config.batch:
            raise ConfigError(
                "The stream is not as long as the training.",
                received=f"{len(samples)} samples for {self.config.steps} steps of {self.config.batch}",
            )
        started = time.monotonic()
        main = self.accelerator.is_main_process
        metrics = self.run / "metrics.jsonl"
        if main:
            _cut(metrics, self.step)
        stream = steps(
            samples,
            self.writer,
            batch=self.config.batch,
            micro_batch_size=self.config.micro_batch_size,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            start=self.step,
            workers=workers,
        )
        for passes in stream:
            if stop and stop():
                break
            line = self.train_step(passes)
            if main and (self.step % self.config.log_every == 0 or self.step == self.config.steps):
                line = {"step": self.step, "seconds": round(time.monotonic() - started, 1), **line}
                with metrics.open("a") as file:
                    file.write(json.dumps({k: v if k == "lr" else round(v, 6) for k, v in line.items()}) + "\n")
                log.info("%s", line)
            if self.step % self.config.save_every == 0:
                self.save()
        self.save()

    def save(self) -> None:
        """Write ``step-…``: weights, optimiser, averages, state of chance; the folder appears whole or not at all."""
        target = self.run / f"{_CHECKPOINT}{self.step:08d}"
        part = target.with_name(f"{target.name}.part")
        accelerator = self.accelerator
        done = target.is_dir()
        accelerator.wait_for_everyone()  # all have looked before the first writes
        if done:
            return
        if accelerator.is_main_process:
            for left in self.run.glob(f"{_CHECKPOINT}*.part"):
                shutil.rmtree(left)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(part))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (part / "trainer.json").write_text(json.dumps({"step": self.step, **self._settings()}) + "\n")
            part.rename(target)
            for old in self._checkpoints()[: -self.config.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go on from the last checkpoint; the configuration must be the same, the number of processes need not.

        Raises:
            CheckpointError: there is none, it is damaged, or it is of another configuration or model.
        """
        found = self._checkpoints()
        if not found:
            raise CheckpointError("There is nothing to resume.", received=self.run, hint="Start without --resume.")
        try:
            facts = json.loads((found[-1] / "trainer.json").read_text())
            step = int(facts.pop("step"))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError("The checkpoint cannot be read.", received=f"{found[-1]}: {error}") from error
        if facts != self._settings():
            raise CheckpointError(
                "The checkpoint was written with another configuration or model.",
                received=found[-1],
                hint="Use the same options.",
            )
        try:
            self.accelerator.load_state(str(found[-1]))
        except (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError("The checkpoint cannot be read.", received=f"{found[-1]}: {error}") from error
        self.step = step

    def weights(self) -> dict[str, Tensor]:
        """The trained model's state dict: averaged if averages are kept, LoRA merged; all processes must call."""
        state = {n.removeprefix("model."): v for n, v in self.accelerator.get_state_dict(self.model).items()}
        if self.average is not None:
            state |= self.average.values
        return merged(state, self.config.lora) if self.config.lora is not None else state

    def export(self, folder: Path) -> None:
        """Write the weights where ``load_engine("unigeoseg", weights=folder)`` finds all it needs."""
        state = self.weights()
        if self.accelerator.is_main_process:
            facts = {"train": self._settings()["train"], "steps_done": self.step}
            cpu = {name: value.detach().cpu() for name, value in state.items()}
            save_converted(folder, self.member, cpu, source=f"trained, {self.step} steps", facts=facts)
            self.writer.tokenizer.save_pretrained(str(folder))
        self.accelerator.wait_for_everyone()

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.bare.named_parameters() if p.requires_grad}

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads(
            json.dumps({"train": asdict(self.config), "model": self.member.to_dict()})
        )
        return settings

    def _checkpoints(self) -> list[Path]:
        return sorted(p for p in self.run.glob(f"{_CHECKPOINT}*") if p.suffix != ".part")


def _freeze(model: nn.Module, config: CausalTrainConfig) -> None:
    """Switch gradients off by name; adapters of LoRA always learn, the weights under them never."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in (*config.frozen, *config.trained, *(pattern for pattern, _ in config.lr_overrides)):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError("A pattern matches no parameter.", received=pattern, hint=f"Names look like {names[0]}.")
    adapted = {name.removesuffix("lora_a") for name in names if name.endswith(".lora_a")}
    for name, parameter in model.named_parameters():
        frozen = _matches(name, config.frozen) and not _matches(name, config.trained)
        if name.endswith((".lora_a", ".lora_b")):
            frozen = False
        elif name.rpartition(".")[0] + "." in adapted:
            frozen = True
        parameter.requires_grad_(not frozen)


def _groups(model: nn.Module, config: CausalTrainConfig) -> list[dict[str, Any]]:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((r for pattern, r in config.lr_overrides if fnmatchcase(name, pattern)), config.lr)
            decay = config.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise ConfigError("Everything is frozen.", received=config.frozen)
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _cut(metrics: Path, step: int) -> None:
    """Drop lines of steps that will be done again."""
    if metrics.is_file():
        kept = []
        for line in metrics.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:  # a line that was being written when the process was killed
                break
        metrics.write_text("".join(kept))
