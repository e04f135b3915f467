"""Training of members that read with a causal language model: settings, losses, one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terraprompt.engines.convert import save_converted
from terraprompt.engines.dialogue import DialogueWriter
from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg import UniGeoSeg
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.models.unigeoseg.losses import mask_losses
from terraprompt.training.dialogues import DialogueBatch, collate
from terraprompt.training.loop import TrainLoop
from terraprompt.training.lora import LoraConfig, add_lora, merged
from terraprompt.training.step import SEED_STRIDE, LoopConfig, TrainStep, group_parameters

__all__ = ["CausalStep", "CausalTrainConfig", "CausalTrainer", "freeze", "recompute_layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalTrainConfig(LoopConfig):
    """Budget, optimiser and losses; the defaults are the paper's where it says (spec 10).

    See :class:`~terraprompt.training.step.LoopConfig` for what is common. Patterns are shell-like
    (``reader.language.*``) on the names of parameters.

    Attributes:
        lr_overrides: pattern and learning rate of parts that differ; the first match counts.
        frozen: patterns of parts that stay as they are.
        trained: patterns of exceptions from ``frozen``.
        lora: low-rank adaptation of linear layers, whose own weights are then frozen; None for none.
        points: sampled points a mask and prediction.
        bce, dice, language: loss weights.
        checkpointing: recompute the language model's layers in the backward pass instead of keeping them.
    """

    micro_batch_size: int | None = 2
    lr_overrides: tuple[tuple[str, float], ...] = ()
    frozen: tuple[str, ...] = ("vision.*",)
    trained: tuple[str, ...] = ()
    lora: LoraConfig | None = None
    points: int = 12544
    bce: float = 5.0
    dice: float = 5.0
    language: float = 1.0
    checkpointing: bool = False


class CausalStep(TrainStep):
    """Losses of a member that reads with a causal language model.

    Args:
        model: a member with a head over its vocabulary; its parts are frozen and adapted here.
        writer: of dialogues.
        config: what learns, and weights of the losses.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to train.
    """

    def __init__(self, model: UniGeoSeg, writer: DialogueWriter, config: CausalTrainConfig) -> None:
        super().__init__(model)
        self.model: UniGeoSeg = model
        if model.reader is None:
            raise ConfigError("This member reads with a sentence encoder.", received=model.config.name)
        self.config, self.collate = config, partial(collate, writer)
        if config.lora is not None:
            add_lora(model, config.lora)
        freeze(model, config)
        self._still = [part for part in model.children() if not any(p.requires_grad for p in part.parameters())]
        if config.checkpointing:
            recompute_layers(model.reader.language)

    def train(self, mode: bool = True) -> CausalStep:
        """Frozen parts stay in eval mode."""
        super().train(mode)
        for part in self._still:
            part.eval()
        return self

    def forward(self, batch: DialogueBatch, totals: Sequence[float], step: int) -> dict[str, Tensor]:
        """See :class:`~terraprompt.training.step.TrainStep`."""
        # here and not by accelerate alone, whose precision is one for a whole process
        with torch.autocast(batch.target.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self._terms(batch, totals[0], totals[1])

    def _terms(self, batch: DialogueBatch, masks: float, words: float) -> dict[str, Tensor]:
        model, dialogue = self.model, batch.dialogue
        features = model.encode_image(batch.images)
        states = model.read(dialogue, features[-1]).states
        query = model.predict_query(states, dialogue.refer, dialogue.task, features[-1], dialogue.image)
        drawn = model.predict_masks(query, model.decode_pixels(features), dialogue.image)
        # one generator a sample: its points do not depend on who shares the pass
        generators = [
            torch.Generator(device=batch.target.device).manual_seed(self.config.seed * SEED_STRIDE + int(i))
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
            loss = model.reader.answer_loss(states, dialogue.labels)
            terms["language"] = self.config.language * loss * (batch.words / words)
        # A branch of TATE that no sample of this pass takes gets a gradient of zero and not none: processes that share
        # or shard gradients must all bring the same ones.
        idle = [] if model.tate is None else list(model.tate.parameters())
        if "language" not in terms and model.reader is not None and model.reader.lm_head is not None:
            idle += model.reader.lm_head.parameters()
        for parameter in idle:
            terms["dice"] = terms["dice"] + 0 * parameter.sum()
        return terms

    def counts(self, batch: DialogueBatch) -> Sequence[float]:
        """Masks, learned tokens, and samples of each task."""
        return [len(batch.index), batch.words, *(int((batch.dialogue.task == t).sum()) for t in TASK_INDEX.values())]

    def seed(self, batch: DialogueBatch, step: int) -> int:
        """The first sample: dropout is the same on another number of processes."""
        return int(batch.index[0])

    def metrics(self, totals: Sequence[float]) -> dict[str, float]:
        """Share of each task in the step."""
        return {task.value: n / totals[0] for task, n in zip(TASK_INDEX, totals[2:], strict=True)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parts may have learning rates of their own."""

        def lr(name: str) -> float:
            return next((r for p, r in self.config.lr_overrides if fnmatchcase(name, p)), self.config.lr)

        return group_parameters(self.model.named_parameters(), lr, self.config.weight_decay)

    def settings(self) -> dict[str, Any]:
        """The member's configuration."""
        return self.model.config.to_dict()


class CausalTrainer(TrainLoop):
    """Trains a member that reads with a causal language model.

    Args:
        model: the member, with a head over its vocabulary.
        writer: of dialogues.
        config: budget, optimiser and losses.
        run: folder for metrics, configuration and checkpoints.
        device: "cpu", or None for what accelerate finds.
    """

    def __init__(
        self, model: UniGeoSeg, writer: DialogueWriter, config: CausalTrainConfig, run: Path, device: str | None = None
    ) -> None:
        self.writer, self.member, self.lora = writer, model.config, config.lora
        super().__init__(CausalStep(model, writer, config), config, run, device=device)

    def weights(self) -> dict[str, Tensor]:
        """As of the loop, LoRA merged."""
        state = super().weights()
        return state if self.lora is None else merged(state, self.lora)

    def export(self, folder: Path) -> None:
        """Write the weights where ``load_engine("unigeoseg", weights=folder)`` finds all it needs."""
        state = self.weights()
        if self.accelerator.is_main_process:
            facts = {"train": self.settings()["train"], "steps_done": self.step}
            cpu = {name: value.detach().cpu() for name, value in state.items()}
            save_converted(folder, self.member, cpu, source=f"trained, {self.step} steps", facts=facts)
            self.writer.tokenizer.save_pretrained(str(folder))
        self.accelerator.wait_for_everyone()


def recompute_layers(language: Any) -> None:
    """Let a language model of transformers recompute its layers in the backward pass instead of keeping them."""
    # renamed within transformers 5
    enable = getattr(language, "activation_checkpointing_enable", None) or language.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def freeze(model: nn.Module, config: CausalTrainConfig) -> None:
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


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
