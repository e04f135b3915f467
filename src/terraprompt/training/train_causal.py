"""Trains a causal member: everything between a folder of labelled images and a folder that the engine loads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from terraprompt.engines.checkpoint import load_converted
from terraprompt.engines.dialogue import SYSTEM, DialogueWriter
from terraprompt.engines.mask2former import mask2former
from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.io.hub import weights_folder
from terraprompt.models.unigeoseg import UniGeoSeg, UniGeoSegConfig, preset
from terraprompt.training.ablations import ablation
from terraprompt.training.causal_step import CausalTrainConfig, CausalTrainer
from terraprompt.training.crops import CropRecipe
from terraprompt.training.dialogues import CropProvider, CropSource, TaskStream, byte_tokenizer
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.questions import MixedSource, Questions, QuestionSource
from terraprompt.training.schedule import TaskSchedule
from terraprompt.training.train_nano import SCHEDULE, load_labeled_images, shares_of

__all__ = ["TINY", "train_causal"]

log = logging.getLogger(__name__)

#: For the preset ``tiny`` from random weights: all parts learn, on a CPU in minutes.
TINY = CausalTrainConfig(
    steps=400, batch=8, micro_batch_size=8, lr=1e-3, frozen=(), points=1024, precision="fp32", save_every=100
)  # fmt: skip


def train_causal(
    data: Path | Sequence[Path] | None,
    run: Path,
    config: CausalTrainConfig,
    *,
    preset_name: str = "tiny",
    ablation_name: str | None = None,
    tokenizer: Path | None = None,
    start: Path | None = None,
    mask2former_start: Path | None = None,
    schedule: TaskSchedule = SCHEDULE,
    rendered: int = 0,
    workers: int = 0,
    device: str | None = None,
    resume: bool = False,
    system: str = SYSTEM,
    images: Sequence[LabeledImage] | None = None,
    questions: Questions | None = None,
    question_share: float = 0.5,
) -> CausalTrainer:
    """Train to the end of the budget.

    Args:
        data: folders with ``annotations.jsonl``, one or several, of which the split "train" is used; None to learn
            from ``questions`` alone.
        run: where checkpoints and metrics go.
        config: budget and optimiser.
        preset_name: the member.
        ablation_name: a row of the ablation tables, see :mod:`terraprompt.training.ablations`.
        tokenizer: folder of the language model's tokenizer, which must know [SEG]; None takes that of ``start``, and
            for ``tiny`` one of bytes.
        start: folder of converted weights to go on from; None begins with random ones.
        mask2former_start: Mask2Former weights for vision, pixel decoder and mask decoder, instead of random ones.
        schedule: shares of the tasks.
        rendered: rendered scenes added to the images.
        workers: processes that cut crops.
        device: "cpu", or None for what accelerate finds.
        resume: go on from the last checkpoint.
        system: the sentence that opens the dialogue.
        images: already loaded images, instead of ``data``.
        questions: labelled questions to learn from, beside the images or alone. Alone, the schedule starts from their
            own proportions, as the paper's does.
        question_share: of the samples that come from ``questions`` where there are images too.

    Raises:
        ConfigError: there is nothing to learn from; there is no tokenizer, or a setting makes no sense.
        CheckpointError: ``start`` or ``mask2former_start`` is of another architecture, or there is nothing to resume.
    """
    member = preset(preset_name)
    if ablation_name is not None:
        row = ablation(ablation_name)
        member, schedule = row.model(member), row.schedule(schedule)
    if tokenizer is None and start is not None:
        tokenizer = weights_folder(start)
    if tokenizer is None:
        if preset_name != "tiny":
            raise ConfigError(
                "The language model needs its tokenizer.",
                received=f"{preset_name} without one",
                hint="Give a folder with --tokenizer.",
            )
        tokenizer = run / "tokenizer"
        process = PartialState(cpu=device == "cpu")
        if process.is_main_process:
            byte_tokenizer().save_pretrained(str(tokenizer))
        process.wait_for_everyone()
    if member.causal is None:
        raise ConfigError("This member reads with a sentence encoder.", received=preset_name)
    writer = DialogueWriter.load(tokenizer, int(member.causal.settings["vocab_size"]), system=system)
    torch.manual_seed(config.seed)
    trainer = CausalTrainer(_model(member, start, mask2former_start), writer, config, run, device=device)
    if resume:
        trainer.resume()
    source: CropProvider | None = None
    if images is None and data is not None:
        images = load_labeled_images(data, rendered=rendered, seed=config.seed, workers=max(workers, 1))
    if images is not None:
        log.info("%d images", len(images))
        source = CropSource(images, shares_of(images), CropRecipe(size=member.vision.size))
    if questions is not None:
        log.info("%d questions", len(questions))
        asked = QuestionSource(questions, member.vision.size)
        if source is None:
            schedule = replace(schedule, natural=questions.natural)
        source = asked if source is None else MixedSource(source, asked, question_share)
    if source is None:
        raise ConfigError("There is nothing to learn from.", hint="Give labelled images, or labelled questions.")
    log.info("from step %d of %d", trainer.step, config.steps)
    trainer.fit(TaskStream(source, schedule, config.seed, config.steps * config.batch), workers=workers)
    return trainer


def _model(member: UniGeoSegConfig, start: Path | None, mask2former_start: Path | None) -> UniGeoSeg:
    if start is not None and mask2former_start is not None:
        raise ConfigError("A training has one start.", received=f"{start} and {mask2former_start}")
    if start is None:
        model = UniGeoSeg(member)
        if mask2former_start is None:
            log.warning("%s begins with random weights", member.name)
        else:
            begun = mask2former(mask2former_start, member)
            model.load_state_dict(begun.state, strict=False)
            log.info("%d tensors of Mask2Former, %d of it unused", len(begun.state), len(begun.unused))
        return model
    loaded, _ = load_converted(weights_folder(start), lm_head=True)
    if replace(loaded.config, name=member.name) != member:
        raise CheckpointError(
            "The weights are of another architecture.", received=f"{start}: {loaded.config.name}, not {member.name}"
        )
    return loaded.requires_grad_(True)
