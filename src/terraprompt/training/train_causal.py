"""Trains a causal member: everything between a folder of labelled images and a folder that the engine loads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from terraprompt.engines.dialogue import SYSTEM, DialogueWriter
from terraprompt.engines.language import LanguageModel, open_language
from terraprompt.errors import ConfigError
from terraprompt.io.hub import weights_folder
from terraprompt.models.unigeoseg import UniGeoSegConfig, preset
from terraprompt.training.ablations import ablation
from terraprompt.training.causal_step import CausalTrainConfig, CausalTrainer
from terraprompt.training.crops import CropRecipe
from terraprompt.training.dialogues import CropProvider, CropSource, TaskStream, byte_tokenizer
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.question_sets import Questions
from terraprompt.training.questions import MixedSource, QuestionSource
from terraprompt.training.schedule import TaskSchedule
from terraprompt.training.starts import begin
from terraprompt.training.train_nano import SCHEDULE, load_labeled_images, shares_of

__all__ = ["TINY", "MemberPlan", "train_causal"]

log = logging.getLogger(__name__)

#: For the preset ``tiny`` from random weights: all parts learn, on a CPU in minutes.
TINY = CausalTrainConfig(
    steps=400, batch=8, micro_batch_size=8, lr=1e-3, frozen=(), points=1024, precision="fp32", save_every=100
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class MemberPlan:
    """What is trained: a member, what reads for it, how tasks are drawn. Nothing is read or built yet.

    Attributes:
        member: the network.
        schedule: shares of the tasks.
        writer: of its dialogues.
        language: the language model that its reader begins with; None for none of its own.
    """

    member: UniGeoSegConfig
    schedule: TaskSchedule
    writer: DialogueWriter
    language: LanguageModel | None = None

    @classmethod
    def make(
        cls,
        preset_name: str,
        *,
        ablation_name: str | None = None,
        language: str | Path | None = None,
        tokenizer: Path | None = None,
        start: str | Path | None = None,
        schedule: TaskSchedule = SCHEDULE,
        system: str = SYSTEM,
    ) -> MemberPlan:
        """From names, see :func:`train_causal`.

        Raises:
            ConfigError: unknown names, a member with a sentence encoder, or no tokenizer.
            CheckpointError: the language model or the tokenizer cannot be read.
        """
        member = preset(preset_name)
        if ablation_name is not None:
            row = ablation(ablation_name)
            member, schedule = row.model(member), row.schedule(schedule)
        if member.causal is None:
            raise ConfigError("This member reads with a sentence encoder.", received=preset_name)
        vocabulary = int(member.causal.settings["vocab_size"])
        if language is not None:
            if tokenizer is not None:
                raise ConfigError("A language model brings its own tokenizer.", received=tokenizer)
            opened = open_language(language)
            member = opened.reads_for(member)
            vocabulary = int(opened.causal.settings["vocab_size"])
            writer = DialogueWriter.of(opened.tokenizer, vocabulary, system=system, where=opened.folder)
            return cls(member, schedule, writer, opened)
        if tokenizer is None and start is not None:
            tokenizer = weights_folder(start)
        if tokenizer is not None:
            return cls(member, schedule, DialogueWriter.load(tokenizer, vocabulary, system=system))
        if preset_name != "tiny":
            raise ConfigError(
                "The language model needs its tokenizer.",
                received=f"{preset_name} without one",
                hint="Give the language model's folder with --language, or a tokenizer's with --tokenizer.",
            )
        return cls(member, schedule, DialogueWriter.of(byte_tokenizer(), vocabulary, system=system))


def train_causal(
    data: Path | Sequence[Path] | None,
    run: Path,
    config: CausalTrainConfig,
    *,
    preset_name: str = "tiny",
    ablation_name: str | None = None,
    language: str | Path | None = None,
    tokenizer: Path | None = None,
    start: str | Path | None = None,
    strict: bool = False,
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
        run: where checkpoints and metrics go, and ``start.json``: what the weights began with.
        config: budget and optimiser.
        preset_name: the member.
        ablation_name: a row of the ablation tables, see :mod:`terraprompt.training.ablations`.
        language: folder or hub name of a decoder-only language model that takes the place of the member's, with its
            weights and its tokenizer.
        tokenizer: folder of the language model's tokenizer, which must know [SEG]; None takes that of ``language`` or
            ``start``, and for ``tiny`` one of bytes.
        start: folder of converted weights to go on from, of this member or another: what fits is taken.
        strict: ``start`` must be of this very member.
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
        CheckpointError: a start is damaged or of another architecture, or there is nothing to resume.
    """
    plan = MemberPlan.make(
        preset_name, ablation_name=ablation_name, language=language, tokenizer=tokenizer, start=start,
        schedule=schedule, system=system,
    )  # fmt: skip
    schedule = plan.schedule
    torch.manual_seed(config.seed)
    model, report = begin(
        plan.member, start=start, language=plan.language, mask2former_start=mask2former_start, strict=strict
    )
    log.info("%s: %s", plan.member.name, report.summary())
    trainer = CausalTrainer(model, plan.writer, config, run, device=device)
    if resume:
        trainer.resume()
    elif trainer.accelerator.is_main_process:
        report.write(run / "start.json")
    source: CropProvider | None = None
    if images is None and data is not None:
        images = load_labeled_images(data, rendered=rendered, seed=config.seed, workers=max(workers, 1))
    size = plan.member.vision.size
    if images is not None:
        log.info("%d images", len(images))
        source = CropSource(images, shares_of(images), CropRecipe(size=size))
    if questions is not None:
        log.info("%d questions", len(questions))
        asked = QuestionSource(questions, size)
        if source is None:
            schedule = replace(schedule, natural=questions.natural)
        source = asked if source is None else MixedSource(source, asked, question_share)
    if source is None:
        raise ConfigError("There is nothing to learn from.", hint="Give labelled images, or labelled questions.")
    log.info("from step %d of %d", trainer.step, config.steps)
    trainer.fit(TaskStream(source, schedule, config.seed, config.steps * config.batch), workers=workers)
    return trainer
