"""What a training of a causal member will take, before it is started: steps, samples, tokens, memory of each rank.

Parameters are counted on the member itself, tokens on drawn questions, and activations by running its forward pass on
tensors without memory (PyTorch's fake tensors) and adding up what autograd keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from terraprompt.engines.dialogue import DialogueWriter
from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg import Dialogue, UniGeoSeg, UniGeoSegConfig
from terraprompt.prompt import Task
from terraprompt.training.causal_step import CausalTrainConfig, freeze, recompute_layers
from terraprompt.training.dialogues import reply_ids
from terraprompt.training.question_sets import Questions
from terraprompt.training.questions import question_words
from terraprompt.training.train_causal import MemberPlan

__all__ = ["PUBLISHED", "DryRun", "Launch", "dry_run", "rank_memory"]

#: Samples and mean words of an instruction of data sets that may be planned for without a copy (UniGeoSeg, Table 10).
PUBLISHED: Mapping[str, tuple[int, float]] = {"geoseg-1m": (1_148_504, 12.18)}
_SHARDING = Path(__file__).with_name("sharding")
_DRAWN = 128
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Launch:
    """How ``accelerate launch`` spreads a training.

    Attributes:
        processes: ranks.
        kind: "ddp" (each rank holds all), "zero2" (gradients and optimiser in parts), "zero3" or "fsdp" (weights too).
    """

    processes: int = 1
    kind: str = "ddp"

    @classmethod
    def read(cls, config: str | Path | None) -> Launch:
        """From a config file of accelerate, a packaged one by name ("zero2", "fsdp", "zero3"), or this process's own.

        Raises:
            ConfigError: there is no such config.
        """
        if config is None:
            kind = "fsdp" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else "ddp"
            if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
                kind = f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
            return cls(int(os.environ.get("WORLD_SIZE", "1")), kind)
        packaged = _SHARDING / f"{config}.yaml"
        path = packaged if packaged.is_file() else Path(config)
        try:
            read = load_config_from_file(str(path))
            kind = {"DEEPSPEED": "zero", "FSDP": "fsdp"}.get(str(read.distributed_type).rpartition(".")[2], "ddp")
            kind += str(read.deepspeed_config.get("zero_stage", 2)) if kind == "zero" else ""
            return cls(int(read.num_processes), kind)
        except (OSError, ValueError, TypeError, AttributeError, FileNotFoundError) as error:
            known = ", ".join(sorted(p.stem for p in _SHARDING.glob("*.yaml")))
            raise ConfigError(
                "This is no config of accelerate launch.", received=f"{config}: {error}", hint=f"Packaged: {known}."
            ) from None


@dataclass(frozen=True, slots=True)
class DryRun:
    """The numbers.

    Attributes:
        samples: questions of the data.
        steps, batch: of the training.
        epochs: passes over the data that these steps are.
        parameters: of the parts of the member, (all, those that learn).
        tokens: of a sample, by part; "instruction and answer" is the mean.
        memory: bytes of a rank, by use; "activations" is an upper bound.
        launch: ranks and sharding.
        passes: of each rank in a step, and samples in one.
        notes: what was not measured.
    """

    samples: int
    steps: int
    batch: int
    epochs: float
    parameters: Mapping[str, tuple[int, int]]
    tokens: Mapping[str, float]
    memory: Mapping[str, int]
    launch: Launch
    passes: tuple[int, int]
    notes: tuple[str, ...] = field(default=())

    @property
    def tokens_in_all(self) -> float:
        """Of the whole training."""
        return sum(self.tokens.values()) * self.steps * self.batch

    def lines(self) -> list[str]:
        """For people."""
        whole, learns = (sum(counts[i] for counts in self.parameters.values()) for i in (0, 1))
        parts = ", ".join(f"{name} {_millions(n)}{'' if k else ' frozen'}" for name, (n, k) in self.parameters.items())
        tokens = " + ".join(f"{n:.4g} {name}" for name, n in self.tokens.items())
        each, (size, accumulated) = sum(self.tokens.values()), self.passes
        out = [
            f"samples     {self.samples:,}",
            f"steps       {self.steps:,} of {self.batch} = {self.epochs:.3g} epochs; {self.launch.processes} ranks x "
            f"{size} samples x {accumulated} passes",
            f"tokens      {tokens} = {each:.4g} a sample, {self.tokens_in_all / 1e6:,.0f} M in all",
            f"parameters  {_millions(whole)}, {_millions(learns)} learn: {parts}",
            f"memory      {sum(self.memory.values()) / _GIB:.2f} GiB a rank ({self.launch.kind}): "
            + ", ".join(f"{name} {n / _GIB:.2f}" for name, n in self.memory.items()),
        ]
        return out + [f"note        {note}" for note in self.notes]


def dry_run(
    plan: MemberPlan,
    config: CausalTrainConfig,
    launch: Launch,
    *,
    questions: Questions | None = None,
    published: str | None = None,
    images: int = 0,
) -> DryRun:
    """Reckon a training.

    Args:
        plan: what is trained.
        config: budget; ``steps`` as they will be done.
        launch: ranks and sharding.
        questions: the data.
        published: name of a data set in :data:`PUBLISHED`, in place of ``questions``.
        images: labelled images, beside or instead of questions; each counts as a sample.

    Raises:
        ConfigError: the batch cannot be dealt out to the ranks.
    """
    size, accumulated = config.per_process(launch.processes)
    notes = []
    if questions is not None:
        samples, (words, longest) = len(questions) + images, _measured(plan, questions, config.seed)
    else:
        samples, mean = PUBLISHED[published] if published else (images, 8.0)
        told = f"{published}: counts as published, there is no copy here" if published else "labelled images"
        notes.append(f"{told}; tokens of instructions are estimated at 1.3 a word")
        words = 1.3 * mean + len(reply_ids(plan.writer, "the marked area"))
        longest = round(2 * words)
    model, kept = _fake(plan.member, config, plan.writer, size, longest)
    dialogue = {
        "prefix": float(len(plan.writer.prefix)),
        "image": float(model.reader.connector.tokens if model.reader else 0),
        "template": float(len(plan.writer.template)),
        "instruction and answer": words,
    }
    parameters = {}
    for name, part in model.named_children():
        counts = [(p.numel(), p.requires_grad) for p in part.parameters()]
        if counts:
            parameters[name] = sum(n for n, _ in counts), sum(n for n, learns in counts if learns)
    whole, learns = (sum(counts[i] for counts in parameters.values()) for i in (0, 1))
    memory = rank_memory(launch, whole, learns, half=config.precision == "bf16") | {"activations at most": kept}
    epochs = config.steps * config.batch / max(samples, 1)
    notes.append("memory is without the context of CUDA and buffers of the communication, about 2 GiB")
    return DryRun(
        samples, config.steps, config.batch, epochs, parameters, dialogue, memory, launch, (size, accumulated),
        tuple(notes),
    )  # fmt: skip


def rank_memory(launch: Launch, whole: int, learns: int, *, half: bool) -> dict[str, int]:
    """Bytes of a rank: weights, gradients, AdamW's two moments and, for ZeRO, its float32 copy of the weights."""
    parts = launch.processes
    if launch.kind.startswith("zero"):  # DeepSpeed holds the module in bf16
        narrow = 2 if half else 4
        shared = 1 if launch.kind == "zero2" else parts
        return {
            "weights": narrow * whole // shared,
            "gradients": narrow * learns // parts,
            "optimiser": (12 if half else 8) * learns // parts,
        }
    shared = parts if launch.kind == "fsdp" else 1
    sizes = {"weights": 4 * whole // shared, "gradients": 4 * learns // shared, "optimiser": 8 * learns // shared}
    if launch.kind == "ddp" and parts > 1:
        sizes["buckets"] = 4 * learns
    if half:
        sizes["bf16 copies"] = 2 * whole // shared
    return sizes


def _measured(plan: MemberPlan, questions: Questions, seed: int) -> tuple[float, int]:
    """Tokens of instruction and answer: the mean and the most of drawn questions."""
    rng = np.random.default_rng(seed)
    counts = []
    shares = np.array(questions.natural)
    for _ in range(_DRAWN):
        task = list(Task)[int(rng.choice(3, p=shares / shares.sum()))]
        text, answer = question_words(questions.draw(task, rng), rng)
        counts.append(len(plan.writer.instruction(text)) + len(reply_ids(plan.writer, answer)))
    return float(np.mean(counts)), max(counts)


def _fake(
    member: UniGeoSegConfig, config: CausalTrainConfig, writer: DialogueWriter, batch: int, tokens: int
) -> tuple[UniGeoSeg, int]:
    """The member without memory, frozen as the training freezes it, and the bytes that autograd keeps of one pass."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        model = UniGeoSeg(member).train()
        freeze(model, config)
        # which branch of TATE runs depends on values, which fake tensors lack; it holds a thousandth of the activations
        timed = UniGeoSeg(replace(member, tate=None)).train() if member.tate else model
        freeze(timed, _without_tate(config))
        reader = timed.reader
        assert reader is not None
        if config.precision == "bf16":
            for part in (timed.vision, reader):
                _halve(part)
        if config.checkpointing:
            recompute_layers(reader.language)
        side, parameters = member.vision.size, {p.untyped_storage()._cdata for p in timed.parameters()}
        ones = torch.ones(batch, tokens, dtype=torch.int64)
        prefix, template = (torch.ones(len(words), dtype=torch.int64) for words in (writer.prefix, writer.template))
        dialogue = Dialogue(
            prefix, template, ones, ones > 0, torch.ones(batch, dtype=torch.int64), torch.zeros(batch, 3, 4),
            torch.arange(batch),
        )  # fmt: skip
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            timed(torch.zeros(batch, 3, side, side), dialogue)
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in kept}
    return model, sum(size for storage, size in sizes.items() if storage not in parameters)


def _without_tate(config: CausalTrainConfig) -> CausalTrainConfig:
    def kept(patterns: Iterable[str]) -> tuple[str, ...]:
        return tuple(pattern for pattern in patterns if not pattern.startswith("tate"))

    rates = tuple((pattern, lr) for pattern, lr in config.lr_overrides if not pattern.startswith("tate"))
    return replace(config, frozen=kept(config.frozen), trained=kept(config.trained), lr_overrides=rates)


def _halve(part: nn.Module) -> None:
    """Parameters in bf16; ``Module.to`` does not work on fake tensors."""
    for module in part.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                module._parameters[name] = nn.Parameter(
                    value.detach().to(torch.bfloat16), requires_grad=value.requires_grad
                )


def _millions(count: float) -> str:
    return f"{count / 1e9:.3f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
