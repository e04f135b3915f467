"""``terraprompt train``: labelled images to weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terraprompt.cli import train_reasoner
from terraprompt.cli.common import usable_device
from terraprompt.cli.help import HelpGroup, VerbTyper
from terraprompt.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from terraprompt.training.causal_step import CausalTrainConfig
    from terraprompt.training.question_sets import Questions, QuestionSet

__all__ = ["register"]

_RENAMED = {"--rate": "--lr", "--micro": "--micro-batch-size"}


class _TrainGroup(HelpGroup):
    """Names the new option where an old one is given, of the verbs inside too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for old in (arg.partition("=")[0] for arg in args):
            if old in _RENAMED:
                ctx.fail(f"{old} is now {_RENAMED[old]}.")
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the verb: as it stands it trains a segmenter; its own verbs train a reasoner."""
    group = VerbTyper(cls=_TrainGroup, invoke_without_command=True, subcommand_metavar="[grpo|sft] …")
    group.callback()(train)
    train_reasoner.register(group)
    app.add_typer(group, name="train")


def train(
    context: typer.Context,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with annotations.jsonl, images and masks; may be given several times; required without "
            "--questions."
        ),
    ] = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            help="Labelled questions, [LAYOUT=]PATH[:WEIGHT]: a folder, e.g. <out>/dataset of `dataset forge`, or an "
            "index of `dataset index`. Several are mixed by weight; alone or beside --data."
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="How --questions are laid out: a name of `dataset list`; their split train is used.")
    ] = "geoseg-bench-1m",
    question_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the crops that come from --questions, beside --data.")
    ] = 0.5,
    run: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, metrics and weights; runs/<preset> if left out.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Which member of the family: nano, or tiny, unigeoseg-official, … (causal).")
    ] = "nano",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0, help="Passes over --questions, instead of --steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops a step.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, crops and sampling.")] = 0,
    rendered: Annotated[int, typer.Option(min=0, help="Rendered scenes added to the real images.")] = 240,
    workers: Annotated[int, typer.Option("--workers", "-j", min=0, help="Processes that cut crops.")] = 1,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, or bf16 on a GPU.")] = "fp32",
    start: Annotated[
        str | None,
        typer.Option(
            help='Weights to go on from instead of ImageNet: a .safetensors file, or "nano" (the packaged ones); '
            "of a causal member the folder that `models convert` wrote. Of another member what fits is taken."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a --start that is not of this very member.")] = False,
    language: Annotated[
        str | None,
        typer.Option(
            help="Causal members: language model to begin with, e.g. Phi-1.5: a folder or hub name of a decoder-only "
            "model of transformers."
        ),
    ] = None,
    mask2former: Annotated[
        Path | None,
        typer.Option(help="Causal members: Mask2Former to begin with, Detectron2's .pkl or a folder of transformers."),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(min=0, help="Peak learning rate; the backbone learns at 0.4 of it.")
    ] = None,
    save_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds between checkpoints, if steps are slow; default 600.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the run folder.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Causal members: folder of the language model's tokenizer, which knows [SEG].")
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="Causal members: a row of the ablation tables, e.g. none, reasoning-branch, slots-8+lambda-0.1."
        ),
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(help="Task schedule: multipliers (the default), shares, or average, which has none."),
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Causal members: samples in one pass; passes add up to --batch.")
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Causal members: recompute layers instead of keeping them.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Causal members: print steps, samples, tokens, memory of a rank; no run.")
    ] = False,
    launch: Annotated[
        str | None,
        typer.Option(help="Of --dry-run: config of accelerate launch, a file, zero2 or fsdp; else this launch's own."),
    ] = None,
) -> None:
    """Train on the train split of DATA, of QUESTIONS, or of both; val is never looked at.

    Writes <run>/nano.safetensors with its card, metrics.jsonl and a picture of the curves. Use the weights with
    ``terraprompt segment … --weights <run>/nano.safetensors``. Causal members write a folder <run>/weights, for
    ``--engine unigeoseg --weights <run>/weights``; many processes: ``accelerate launch -m terraprompt train …``.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    if not data and not questions:
        context.fail("Missing option '--data' (or '--questions').")
    if epochs is not None and (steps is not None or data or not questions):
        raise ConfigError(
            "Epochs are passes over --questions, in place of --steps.",
            received=f"--epochs {epochs:g} beside --steps or --data",
            hint="Give --steps.",
        )
    from terraprompt.datasets.pack import read_pack
    from terraprompt.engines.weights import packaged
    from terraprompt.models.unigeoseg import preset as member_of
    from terraprompt.training.curves import draw_curves
    from terraprompt.training.loop import check_run
    from terraprompt.training.nano_step import NanoTrainConfig
    from terraprompt.training.question_sets import parse_set
    from terraprompt.training.train_nano import export_nano, sampled, train_nano

    run = run or Path("runs") / preset
    causal = member_of(preset).language == "causal"
    if not causal and (
        tokenizer or ablation or micro_batch_size or checkpointing or mask2former or language or dry_run
    ):
        raise ConfigError("These options are of causal members.", received=preset, hint="E.g. --preset tiny.")
    check_run(run, resume=resume)
    usable_device(device)
    where = device if device == "cpu" or ":" in device else None
    for pack in data or ():  # before the run folder is made
        if not read_pack(pack, split="train"):
            raise DatasetError("There is nothing to train on.", received=f"split train of {pack}", hint="Check --data.")
    sets = [parse_set(text, layout) for text in questions or ()]
    schedule = sampled(sampling)
    logging.getLogger("terraprompt.training").setLevel(logging.INFO)
    if causal:
        from terraprompt.training.causal_step import CausalTrainConfig
        from terraprompt.training.train_causal import TINY, train_causal

        base = TINY if preset == "tiny" else CausalTrainConfig(precision=precision)
        if batch is not None and micro_batch_size is None and batch % (base.micro_batch_size or 1):
            micro_batch_size = 1
        asked: dict[str, Any] = {
            "batch": batch, "micro_batch_size": micro_batch_size, "lr": lr, "seed": seed, "save_seconds": save_seconds,
        }  # fmt: skip
        settings = replace(
            base, precision=precision, checkpointing=checkpointing, **{k: v for k, v in asked.items() if v is not None}
        )
        member: dict[str, Any] = {
            "preset_name": preset, "ablation_name": ablation, "language": language, "tokenizer": tokenizer,
            "start": start, "schedule": schedule,
        }  # fmt: skip
        if dry_run:
            _dry_run(data or (), sets, settings, member, launch, steps=steps, epochs=epochs)
            return
        taught = _open_questions(sets, run, resume=resume, cpu=device == "cpu")
        settings = replace(settings, steps=_steps(steps, epochs, taught, settings.batch) or settings.steps)
        done = train_causal(
            data or None, run, settings, **member, strict=strict, rendered=rendered, workers=workers, device=where,
            resume=resume, mask2former_start=mask2former, questions=taught, question_share=question_share,
        )  # fmt: skip
        done.export(run / "weights")
        if done.accelerator.is_main_process:
            draw_curves(run / "metrics.jsonl", run / "curves.png")
            typer.echo(str(run / "weights"))
        return
    taught = _open_questions(sets, run, resume=resume, cpu=device == "cpu")
    given: dict[str, Any] = {"batch": batch, "save_seconds": save_seconds}
    if lr is not None:
        given |= {"lr": lr, "backbone_lr": 0.4 * lr}
    first = None if start is None else packaged("nano") if start == "nano" else Path(start)
    config = NanoTrainConfig(seed=seed, precision=precision, **{k: v for k, v in given.items() if v is not None})
    config = replace(config, steps=_steps(steps, epochs, taught, config.batch) or config.steps)
    trainer = train_nano(
        data or None, run, config, preset_name=preset, rendered=rendered, workers=workers, device=where, resume=resume,
        start=first, strict=strict, schedule=schedule, questions=taught, question_share=question_share,
    )  # fmt: skip
    export_nano(trainer, run / "nano.safetensors")
    if trainer.accelerator.is_main_process:
        draw_curves(run / "metrics.jsonl", run / "curves.png")
        typer.echo(str(run / "nano.safetensors"))


def _open_questions(sets: Sequence[QuestionSet], run: Path, *, resume: bool, cpu: bool) -> Questions | None:
    """The questions; of many processes the first writes the indexes, the others read them."""
    from accelerate import PartialState

    from terraprompt.training.question_sets import open_questions

    if not sets:
        return None
    process = PartialState(cpu=cpu)
    with process.main_process_first():
        return open_questions(sets, run, reuse=resume or not process.is_main_process)


def _steps(steps: int | None, epochs: float | None, taught: Questions | None, batch: int) -> int | None:
    return steps if epochs is None or taught is None else max(1, math.ceil(epochs * len(taught) / batch))


def _dry_run(
    data: Sequence[Path], sets: Sequence[QuestionSet], settings: CausalTrainConfig, member: Mapping[str, Any],
    launch: str | None, *, steps: int | None, epochs: float | None,
) -> None:  # fmt: skip
    """Print what the training will take; indexes are written to a temporary folder."""
    from tempfile import TemporaryDirectory

    from terraprompt.datasets.pack import read_pack
    from terraprompt.training.dry_run import PUBLISHED, Launch
    from terraprompt.training.dry_run import dry_run as reckon
    from terraprompt.training.question_sets import open_questions
    from terraprompt.training.train_causal import MemberPlan

    images = sum(len(read_pack(pack, split="train")) for pack in data)
    here = [one for one in sets if one.path.expanduser().exists()]
    published = sets[0].layout if len(sets) == 1 and not here and sets[0].layout in PUBLISHED else None
    plan, ranks = MemberPlan.make(**member), Launch.read(launch)
    with TemporaryDirectory() as folder:
        taught = None if published or not sets else open_questions(sets, Path(folder))
        count = PUBLISHED[published][0] if published else images + (0 if taught is None else len(taught))
        wanted = settings.steps if steps is None else steps
        if epochs is not None:
            wanted = max(1, math.ceil(epochs * count / settings.batch))
        found = reckon(
            plan, replace(settings, steps=wanted), ranks, questions=taught, published=published, images=images
        )
    typer.echo("\n".join(found.lines()))


def _refuse_options(context: typer.Context) -> None:
    """Options before ``grpo`` or ``sft`` would be dropped without a word."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            context.fail(f"Options come after the verb: train {context.invoked_subcommand} --{name} …")
