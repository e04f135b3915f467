"""What the two trainings of a reasoner share: LoRA, the log of metrics, resuming, the folder that serves."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.io.interruption import Interruption
from terraprompt.training.grpo_processor import copy_processor_files
from terraprompt.training.loop import TrainLoop, agreed, check_run, cut_metrics
from terraprompt.vlm.answer_parser import AnswerRules
from terraprompt.vlm.conventions import Convention
from terraprompt.vlm.families import family_of
from terraprompt.vlm.local import LocalReasoner, load_local, local_folder
from terraprompt.vlm.open import chosen_convention
from terraprompt.vlm.wording import DEFAULT_TEMPLATE

__all__ = [
    "LANGUAGE_LINEAR",
    "MetricsLog",
    "ReasonerConfig",
    "SavesInTime",
    "WholeCheckpoints",
    "export",
    "last_checkpoint",
    "lora_config",
    "require",
    "start_reasoner",
    "taught_convention",
]

log = logging.getLogger(__name__)

#: Every linear layer of the language model, by the names that the families share.
LANGUAGE_LINEAR = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
_VISION = ("visual.", "vision_tower.", "vision_model.")


def require(package: str, what: str) -> None:
    """Stop with a hint where an optional package is missing.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs the package {package}.", hint="Run: pip install 'terraprompt[rl]'")


@dataclass(frozen=True, kw_only=True)
class ReasonerConfig:
    """What the trainings of a reasoner set alike.

    Attributes:
        precision: "bf16" or "fp32".
        checkpointing: recompute layers instead of keeping them.
        vision: the vision encoder learns too.
        lora_rank: 0 = full fine-tuning.
        lora_alpha, lora_targets: of the adapters; the targets are a pattern of module names.
        units, side: of the reasoner's coordinates and the square that it is shown; None = the default of its family.
        template: the question, see :mod:`terraprompt.vlm.wording`.
        points, negatives, boxes: what an item of an answer holds, see
            :class:`~terraprompt.vlm.answer_parser.AnswerRules`.
    """

    precision: str = "bf16"
    checkpointing: bool = True
    vision: bool = True
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_targets: str = LANGUAGE_LINEAR
    units: str | None = None
    side: int | None = None
    template: str = DEFAULT_TEMPLATE
    points: int = 2
    negatives: int = 0
    boxes: bool = True

    @property
    def rules(self) -> AnswerRules:
        """What an item of an answer holds."""
        return AnswerRules(self.points, self.negatives, self.boxes)


def start_reasoner(start: str | Path, config: ReasonerConfig, *, max_tokens: int = 1024) -> LocalReasoner:
    """The reasoner to train, asked and read in the convention that its training fixes; what shall not learn is frozen.

    Raises:
        ConfigError: the units are "auto".
        CheckpointError: it cannot be loaded.
    """
    # on the CPU: the trainer of each process puts it where it belongs
    made = load_local(
        start,
        device="cpu",
        precision=config.precision,
        template=config.template,
        rules=config.rules,
        max_tokens=max_tokens,
    )
    for name, weight in made.model.named_parameters():
        if not config.vision and any(part in name for part in _VISION):
            weight.requires_grad_(False)
    return made.with_convention(_teachable(chosen_convention(made.convention, config.units, config.side)))


def taught_convention(start: str | Path, units: str | None, side: int | None) -> Convention:
    """In which coordinates a checkpoint will be taught, without loading its weights.

    Raises:
        CheckpointError: it cannot be read, or is of a family that does not run here.
        ConfigError: the units are "auto".
    """
    from transformers import AutoConfig, AutoImageProcessor

    folder = local_folder(str(start), None)
    try:
        family = family_of(
            AutoConfig.from_pretrained(folder), folder, lambda: AutoImageProcessor.from_pretrained(folder)
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError("The reasoner cannot be read.", received=f"{start}: {error}") from error
    return _teachable(chosen_convention(family.convention, units, side))


def _teachable(convention: Convention) -> Convention:
    convention.frame((1, 1))  # refuses units that must be found out: here they are taught
    return convention


def lora_config(config: ReasonerConfig) -> Any | None:
    """Settings of peft: adapters on the layers that the pattern matches; None without LoRA.

    Raises:
        ConfigError: peft is not installed.
    """
    if not config.lora_rank:
        return None
    require("peft", "LoRA")
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=config.lora_targets, task_type="CAUSAL_LM"
    )


class MetricsLog(TrainerCallback):  # type: ignore[misc]
    """Writes a JSON line a step to ``metrics.jsonl``.

    Args:
        path: the file; what is in it stays up to the step that is gone on from.
        names: the trainer's names of what is written to ours; others are left out.
        after: the step of the checkpoint that is gone on from, 0 for a fresh run.
    """

    def __init__(self, path: Path, names: Mapping[str, str], after: int) -> None:
        self.path, self.names = path, dict(names)
        self._started = time.monotonic()
        if not after:
            path.unlink(missing_ok=True)
        cut_metrics(path, after)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Called by the trainer."""
        found = {ours: logs[theirs] for theirs, ours in self.names.items() if theirs in (logs or {})} if logs else {}
        if not found or not state.is_world_process_zero:
            return
        row = {"step": state.global_step, **found, "seconds": round(time.monotonic() - self._started, 1)}
        tidy = {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
        with self.path.open("a") as stream:
            stream.write(json.dumps(tidy) + "\n")


class SavesInTime(TrainerCallback):  # type: ignore[misc]
    """Saves after so many seconds, and when a signal came, which also ends the training.

    Args:
        accelerator: of the trainer.
        seconds: between checkpoints; 0 = as the trainer's own settings say, and on signals.
        came: signals.
    """

    def __init__(self, accelerator: Any, seconds: float, came: Interruption) -> None:
        self.accelerator, self.seconds, self.came = accelerator, seconds, came
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Called by the trainer."""
        due = self.seconds and time.monotonic() - self._saved >= self.seconds
        ends, due = agreed(self.accelerator, bool(self.came), bool(due))
        control.should_save = control.should_save or ends or due
        control.should_training_stop = control.should_training_stop or ends
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        self._saved = time.monotonic()


class WholeCheckpoints:
    """For trainers of transformers: a checkpoint of a vision-language model is loaded whole, or not at all.

    ``save_pretrained`` writes such weights under the names of the released files; the trainer of transformers (seen in
    5.23) reads them back by the names of the module, finds none, warns, and goes on from the start's weights.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        trainer: Any = self
        model = trainer.model if model is None else model
        if hasattr(model, "peft_config") or trainer.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model=model)  # type: ignore[misc]
            return
        stored = type(model).from_pretrained(resume_from_checkpoint, dtype=model.dtype)
        model.load_state_dict(stored.state_dict())


def last_checkpoint(run: Path, *, resume: bool) -> Path | None:
    """Where to go on from; None for a fresh run.

    Raises:
        ConfigError: the folder holds a training and ``resume`` is not set.
        CheckpointError: there is nothing to resume.
    """
    check_run(run, resume=resume)
    found = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if resume and not found:
        raise CheckpointError("There is no checkpoint to resume from.", received=run)
    return found[-1] if found else None


def export(trainer: Any, reasoner: LocalReasoner, folder: Path) -> Path:
    """Write the trained weights as a folder that transformers, vLLM and ``open_reasoner(local=…)`` load.

    LoRA adapters go to ``<folder>/../adapter`` and are added to the weights that they were trained on. All processes
    must call this.
    """
    source = Path(reasoner.info.where)
    network = trainer.bare if isinstance(trainer, TrainLoop) else trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(network, "peft_config"):
        trainer.save_model(str(folder))
    else:
        adapter = folder.parent / "adapter"
        trainer.save_model(str(adapter))
        if trainer.accelerator.is_main_process:
            _merge(source, adapter, folder)
            trainer.processing_class.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        copy_processor_files(source, folder)
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, of no use to a server
        for left in folder.glob("checkpoint-*"):
            shutil.rmtree(left)
    return folder


def _merge(source: Path, adapter: Path, folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(source, dtype="auto")
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
