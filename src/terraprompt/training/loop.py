"""The training loop of segmenters and of the reasoner's warm-up, on one process or many (accelerate)."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, gather_object
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from terraprompt.errors import CheckpointError, ConfigError, TerrapromptError
from terraprompt.io.interruption import saves_first
from terraprompt.io.progress import Progress
from terraprompt.training.step import SEED_STRIDE, LoopConfig, Movable, TrainStep, cosine

__all__ = ["TrainLoop", "agreed", "check_run", "cut_metrics", "step_batches"]

_CHECKPOINT = "step-"
_OF_SAVING = ("save_every", "save_seconds", "keep", "log_every")
#: What trainings write into their run folder, beside checkpoints.
_WRITTEN = ("config.json", "metrics.jsonl", "curves.png", "nano.safetensors", "nano.json", "weights", "adapter")

log = logging.getLogger(__name__)


class _Average:
    """Exponential moving average of the parameters that learn.

    The decay of update ``n`` is at most ``n / (n + 10)``: the average spans a tenth of a short training instead of
    holding its start, and reaches ``decay`` in a long one.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, value in self.values.items():
            value.lerp_(parameters[name].detach(), 1 - min(self.decay, self.updates / (self.updates + 10)))
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        for name, value in self.values.items():
            value.copy_(state["values"][name])


class TrainLoop:
    """Optimises a :class:`TrainStep`: schedule, accumulation, clipping, averages, checkpoints, resumption, metrics.

    Args:
        task: model and losses.
        config: budget and optimiser.
        run: folder for ``metrics.jsonl``, ``config.json`` and checkpoints ``step-…``.
        device: "cpu", one GPU such as "cuda:1", or None for what accelerate finds.

    Raises:
        ConfigError: the batch does not divide, or a setting does not go with how accelerate was launched.
    """

    def __init__(self, task: TrainStep, config: LoopConfig, run: Path, *, device: str | None = None) -> None:
        self.task, self.config, self.run, self.step = task, config, run, 0
        cpu = device == "cpu"
        if device is not None and ":" in device:
            os.environ["ACCELERATE_TORCH_DEVICE"] = device
        self.micro_batch_size, self.grad_accum_steps = config.per_process(PartialState(cpu=cpu).num_processes)
        self.accelerator: Any = Accelerator(cpu=cpu, gradient_accumulation_steps=self.grad_accum_steps)
        if config.precision == "fp32" and self.accelerator.mixed_precision != "no":
            raise ConfigError(
                "accelerate was launched with another precision.",
                received=f"{self.accelerator.mixed_precision}, not fp32",
                hint="Use precision bf16, or launch with --mixed_precision no.",
            )
        groups = task.parameter_groups()
        self._peaks = [group["lr"] for group in groups]
        plugin = self.accelerator.state.deepspeed_plugin
        if plugin is not None:
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.micro_batch_size
            plugin.deepspeed_config["gradient_accumulation_steps"] = self.grad_accum_steps
        self.model, self.optimiser = self.accelerator.prepare(task, torch.optim.AdamW(groups, betas=task.betas))
        self.average: _Average | None = None
        if config.ema:
            if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
                raise ConfigError("Averaged weights are not kept in shards.", received=f"ema {config.ema}")
            self.average = _Average(self._trained(), config.ema)
            self.accelerator.register_for_checkpointing(self.average)
        if self.accelerator.is_main_process:
            run.mkdir(parents=True, exist_ok=True)
            (run / "config.json").write_text(json.dumps(self.settings(), indent=1) + "\n")
        self.accelerator.wait_for_everyone()

    @property
    def bare(self) -> Any:
        """The network itself."""
        return self.accelerator.unwrap_model(self.model).model

    def settings(self) -> dict[str, Any]:
        """What must be the same when the training is resumed."""
        out: dict[str, Any] = json.loads(
            json.dumps({"train": asdict(self.config), "model": self.task.settings()}, default=str)
        )
        return out

    def train_step(self, passes: Sequence[Movable]) -> dict[str, float]:
        """One optimiser step over this process's passes; the terms of the whole step, on every process.

        Raises:
            TerrapromptError: the loss or the gradient is not finite; the weights are as before the step.
        """
        self.model.train()
        accelerator, device = self.accelerator, self.accelerator.device
        factor = cosine(self.step, self.config.steps, self.config.warmup)
        for group, peak in zip(self.optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        counts = torch.tensor([self.task.counts(batch) for batch in passes], dtype=torch.float64).sum(0)
        totals = accelerator.reduce(counts.float().to(device), "sum").tolist()
        sums: dict[str, Tensor] = {}
        norm: Any = None
        for batch in passes:
            torch.manual_seed(self.config.seed * SEED_STRIDE + self.task.seed(batch, self.step))
            with accelerator.accumulate(self.model):
                terms = self.model(batch.to(device), totals, self.step)
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0) + value.detach().float()
                # accelerate divides by the passes, and averages over the processes
                total = torch.stack(list(terms.values())).sum()
                accelerator.backward(total * (self.grad_accum_steps * accelerator.num_processes))
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm or math.inf)
        out = self._reduced(sums)
        if norm is not None:
            out["grad_norm"] = float(norm)
        if not all(map(math.isfinite, out.values())):
            self.optimiser.zero_grad()
            raise TerrapromptError(
                "The loss or its gradient is not finite.",
                received=out,
                hint=f"Resume from the last checkpoint with a lower lr; step {self.step}.",
            )
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        if self.average is not None:
            self.average.update(self._trained())
        return {**out, "lr": self.config.lr * factor, **self.task.metrics(totals)}

    def _reduced(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Terms of all processes, of which each may have others, and their sum."""
        shared = gather_object([{name: float(value) for name, value in sums.items()}])
        names = dict.fromkeys(name for one in shared for name in one)
        out = {name: sum(one.get(name, 0.0) for one in shared) for name in names}
        return {**out, "loss": sum(out.values())}

    def fit(
        self,
        samples: Dataset[Any],
        *,
        workers: int = 0,
        stop: Callable[[], bool] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Train until the budget ends; saves then, at the intervals, and when stopped or interrupted (Ctrl-C, SIGTERM).

        Args:
            samples: sample ``i`` of the training at index ``i``, ``steps * batch`` in all.
            workers: processes that make samples.
            stop: asked before each step; True ends the training, on all processes alike.
            progress: told steps done and to do.

        Raises:
            KeyboardInterrupt: after the step in hand was finished and saved. (A SIGTERM that nobody handles ends the
                process then.)
        """
        config = self.config
        if len(samples) != config.steps * config.batch:  # type: ignore[arg-type]
            raise ConfigError(
                "The stream is not as long as the training.",
                received=f"{len(samples)} samples for {config.steps} steps of {config.batch}",  # type: ignore[arg-type]
            )
        started = saved = time.monotonic()
        main, metrics = self.accelerator.is_main_process, self.run / "metrics.jsonl"
        if main:
            cut_metrics(metrics, self.step)
        stream = step_batches(
            samples, self.task.collate, batch=config.batch, micro_batch_size=self.micro_batch_size,
            rank=self.accelerator.process_index, ranks=self.accelerator.num_processes, start=self.step, workers=workers,
        )  # fmt: skip
        with saves_first("Saving after this step", log) as interrupted:
            for passes in stream:
                due = config.save_seconds and time.monotonic() - saved >= config.save_seconds
                ends, due = agreed(self.accelerator, bool(interrupted), bool(due))
                if due and self.step:
                    self.save()
                    saved = time.monotonic()
                if ends or (stop and stop()):
                    break
                line = self.train_step(passes)
                if main and (self.step % config.log_every == 0 or self.step in (1, config.steps)):
                    line = {"step": self.step, "seconds": round(time.monotonic() - started, 1), **line}
                    with metrics.open("a") as file:
                        file.write(json.dumps({k: v if k == "lr" else round(v, 6) for k, v in line.items()}) + "\n")
                    log.info("%s", line)
                if progress is not None and main:
                    progress(self.step, config.steps)
                if self.step % config.save_every == 0:
                    self.save()
                    saved = time.monotonic()
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
            (part / "trainer.json").write_text(json.dumps({"step": self.step, **self.settings()}) + "\n")
            part.rename(target)
            for old in _checkpoints(self.run)[: -self.config.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go on from the last checkpoint; the configuration must be the same, the number of processes need not.

        Raises:
            CheckpointError: there is none, it is damaged, or it is of another configuration or model.
        """
        found = _checkpoints(self.run)
        if not found:
            raise CheckpointError("There is nothing to resume.", received=self.run, hint="Start without --resume.")
        try:
            facts = json.loads((found[-1] / "trainer.json").read_text())
            step = int(facts.pop("step"))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError("The checkpoint cannot be read.", received=f"{found[-1]}: {error}") from error
        if _identity(facts) != _identity(self.settings()):
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
        """The trained network's state dict, averaged if averages are kept; all processes must call."""
        state = {n.removeprefix("model."): v for n, v in self.accelerator.get_state_dict(self.model).items()}
        return state if self.average is None else state | self.average.values

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.bare.named_parameters() if p.requires_grad}


def agreed(accelerator: Any, *flags: bool) -> tuple[bool, ...]:
    """Each flag as any process has it, so that all do the same; all processes must call."""
    if accelerator.num_processes == 1:
        return flags
    found = torch.tensor([int(flag) for flag in flags], device=accelerator.device)
    return tuple(map(bool, accelerator.reduce(found, "sum").tolist()))


def step_batches(
    samples: Dataset[Any],
    collate: Callable[[Sequence[Any]], Any],
    *,
    batch: int,
    micro_batch_size: int,
    rank: int = 0,
    ranks: int = 1,
    start: int = 0,
    workers: int = 0,
) -> Iterator[list[Any]]:
    """What process ``rank`` of ``ranks`` does at each optimiser step from ``start`` on.

    Step ``s`` takes samples ``s * batch`` to ``(s + 1) * batch``, in passes of ``micro_batch_size``; the passes go
    round the processes. So the samples of a step, and which share a pass, are the same on any number of processes.
    """
    passes = range(rank * micro_batch_size, batch, micro_batch_size * ranks)
    indexes = [
        list(range(first + k, first + k + micro_batch_size))
        for first in range(start * batch, len(samples) - batch + 1, batch)  # type: ignore[arg-type]
        for k in passes
    ]
    loader = DataLoader(
        samples, batch_sampler=indexes, collate_fn=collate, num_workers=workers, prefetch_factor=4 if workers else None
    )
    held: list[Any] = []
    for one in loader:
        held.append(one)
        if len(held) == len(passes):
            yield held
            held = []


def check_run(run: Path, *, resume: bool) -> None:
    """Refuse to write over a training, or over files of somebody else.

    Raises:
        ConfigError: the folder holds a training and ``resume`` is not set, or files that a training would replace.
    """
    if not resume and any(path for kind in ("step-*", "checkpoint-*", "last.pt") for path in run.glob(kind)):
        raise ConfigError(
            "The run folder holds a training already.", received=run, hint="Add --resume, or choose another --run."
        )

    try:
        mine = "train" in (begun := json.loads((run / "config.json").read_text())) or "segmenter" in begun
    except (OSError, ValueError, TypeError):
        mine = False
    clash = [name for name in _WRITTEN if (run / name).exists()]
    if clash and not (mine or resume):
        raise ConfigError(
            "The run folder holds files that the training would replace.",
            received=f"{run}: {', '.join(clash)}",
            hint="Choose another --run.",
        )


def cut_metrics(metrics: Path, step: int) -> None:
    """Drop lines of steps after ``step``, which will be done again."""
    if metrics.is_file():
        kept = []
        for line in metrics.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:  # a line that was being written when the process was killed
                break
        metrics.write_text("".join(kept))


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that change nothing in the result."""
    train = {name: value for name, value in settings.get("train", {}).items() if name not in _OF_SAVING}
    return {**settings, "train": train}


def _checkpoints(run: Path) -> list[Path]:
    return sorted(p for p in run.glob(f"{_CHECKPOINT}*") if p.suffix != ".part")
