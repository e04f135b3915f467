"""``terraprompt train grpo`` and ``terraprompt train sft``: a reasoner learns to point a segmenter at what is asked."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terraprompt.cli.common import progress, usable_device
from terraprompt.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from terraprompt.datasets.sample import Sample
    from terraprompt.training.recipe import Recipe

__all__ = ["register"]

Data = Annotated[Path | None, typer.Option(help="Folder with annotations.jsonl, images and masks; its train split.")]
Rendered = Annotated[int, typer.Option(min=0, help="Rendered scenes added, or alone without --data.")]
Questions = Annotated[
    list[str] | None,
    typer.Option(
        help="Labelled questions, [LAYOUT=]PATH: any layout of `dataset list` that has masks, or an index; their train "
        "split. May be repeated."
    ),
]
LayoutName = Annotated[str, typer.Option(help="How --questions are laid out where they do not say it.")]
Wordings = Annotated[
    str | None, typer.Option(help="Of a question with several: each is a prompt (the recipe's), or one is drawn.")
]
Points = Annotated[
    int | None, typer.Option(min=0, help="Positive points that an answer holds for each object; 0 = a box alone.")
]
Negatives = Annotated[int | None, typer.Option(min=0, help="Negative points of each object.")]
NoBox = Annotated[bool, typer.Option("--no-box", help="Answers hold points alone.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print samples, prompts and steps; train nothing.")]
Run = Annotated[Path, typer.Option(help="Folder for checkpoints, metrics, curves and weights.")]
RecipeName = Annotated[str | None, typer.Option(help="E.g. think2seg-3b, think2seg-7b, or a .toml file of yours.")]
Start = Annotated[str | None, typer.Option(help="Checkpoint of the reasoner: folder or hub name; else the recipe's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of epochs.")]
MicroBatchSize = Annotated[
    int | None, typer.Option(min=1, help="Answers in one pass of a process; passes add up to a step.")
]
LearningRate = Annotated[float | None, typer.Option(min=0, help="Peak learning rate.")]
Lora = Annotated[int | None, typer.Option(min=0, help="Rank of LoRA adapters; 0 = every weight learns.")]
Units = Annotated[str | None, typer.Option(help="Coordinates that are taught: pixels, 0..1 or 0..1000.")]
Side = Annotated[int | None, typer.Option(min=28, help="Show squares of so many pixels.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; without it, cuda where there is one.")]
Precision = Annotated[str | None, typer.Option(help="fp32 or bf16; without it, bf16 on a GPU.")]
SaveEvery = Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")]
SaveSeconds = Annotated[float | None, typer.Option(min=0, help="Seconds between them, if steps are slow; default 600.")]
Seed = Annotated[int, typer.Option(help="Of order, wordings and draws.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the run folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def register(group: typer.Typer) -> None:
    """Add the verbs."""
    group.command(name="grpo")(grpo)
    group.command(name="sft")(sft)


def grpo(
    data: Data = None,
    questions: Questions = None,
    layout: LayoutName = "earthreason",
    rendered: Rendered = 0,
    run: Run = Path("runs/grpo"),
    recipe: RecipeName = None,
    start: Start = None,
    segmenter: Annotated[
        str | None, typer.Option(help="Frozen: nano, sam2-small, a folder, …; else the recipe's.")
    ] = None,
    steps: Steps = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Questions a step, over all processes.")] = None,
    generations: Annotated[int | None, typer.Option(min=2, help="Answers to each question.")] = None,
    micro_batch_size: MicroBatchSize = None,
    lr: LearningRate = None,
    lora: Lora = None,
    units: Units = None,
    side: Side = None,
    wordings: Wordings = None,
    points: Points = None,
    negatives: Negatives = None,
    no_box: NoBox = False,
    terms: Annotated[
        str | None,
        typer.Option(help="Reward, with commas between, of: target no_target format tags matching non_repetition."),
    ] = None,
    vllm: Annotated[str | None, typer.Option(help="Generate with vLLM: off, colocate or server.")] = None,
    vllm_server: Annotated[str | None, typer.Option(help="Its address, for --vllm server.")] = None,
    held_out: Annotated[int, typer.Option(min=0, help="Images set apart for the curve of held-out prompts.")] = 0,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between their evaluations.")] = 50,
    save_every: SaveEvery = None,
    save_seconds: SaveSeconds = None,
    device: Device = None,
    precision: Precision = None,
    seed: Seed = 0,
    resume: Resume = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Learn from masks alone: answers point a frozen segmenter, and what it draws is compared with the mask.

    Writes <run>/weights, which `vllm serve` and `--local` take, metrics.jsonl and a picture of the curves. Many GPUs:
    ``accelerate launch --config_file zero3.yaml -m terraprompt train grpo …``.
    """
    from terraprompt.segmenters import load_segmenter
    from terraprompt.training.grpo import CURVES, train_grpo

    chosen = _recipe(recipe, start, segmenter)
    device = _device(device)
    given: dict[str, Any] = {
        "steps": steps, "prompts": prompts, "generations": generations, "micro_batch_size": micro_batch_size, "lr": lr,
        "lora_rank": lora, "units": units, "side": side, "vllm": vllm, "vllm_server": vllm_server,
        "save_every": save_every, "save_seconds": save_seconds, "precision": _precision(precision, device),
        "wordings": wordings, "points": points, "negatives": negatives, "boxes": False if no_box else None,
        "terms": None if terms is None else tuple(term.strip() for term in terms.split(",")),
    }  # fmt: skip
    config = replace(
        chosen.grpo,
        seed=seed,
        evaluate_every=evaluate_every if held_out else 0,
        **{name: value for name, value in given.items() if value is not None},
    )
    if dry_run:
        learned, _ = _questions(data, questions, layout, rendered, seed, held_out)
        processes = int(os.environ.get("WORLD_SIZE", chosen.processes))
        typer.echo(f"{chosen.name or 'no recipe'}, {processes} processes: {config.budget(learned, processes).line()}")
        return
    if not chosen.segmenter:
        raise ConfigError("GRPO needs a frozen segmenter.", hint="Name one with --segmenter, e.g. nano or sam2-small.")
    learned, apart = _questions(data, questions, layout, rendered, seed, held_out)
    drawing = load_segmenter(chosen.segmenter, device=_own(device), precision="fp32" if device == "cpu" else "bf16")
    done = train_grpo(
        learned, chosen.start, drawing, run, config, held_out=apart, device=device, resume=resume, progress=not quiet
    )
    _finish(done.trainer.accelerator.is_main_process, run, CURVES)


def sft(
    data: Data = None,
    questions: Questions = None,
    layout: LayoutName = "earthreason",
    rendered: Rendered = 0,
    run: Run = Path("runs/sft"),
    recipe: RecipeName = None,
    start: Start = None,
    steps: Steps = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples a step, over all processes.")] = None,
    micro_batch_size: MicroBatchSize = None,
    lr: LearningRate = None,
    lora: Lora = None,
    units: Units = None,
    side: Side = None,
    wordings: Wordings = None,
    points: Points = None,
    negatives: Negatives = None,
    no_box: NoBox = False,
    save_every: SaveEvery = None,
    save_seconds: SaveSeconds = None,
    device: Device = None,
    precision: Precision = None,
    seed: Seed = 0,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Warm up the form of the answers: boxes and two interior points an object, composed from the masks.

    Writes <run>/weights, which `train grpo --start` goes on from.
    """
    from terraprompt.training.reasoner import taught_convention
    from terraprompt.training.sft import SftConfig, train_sft
    from terraprompt.training.sft_examples import sft_examples

    chosen = _recipe(recipe, start, None)
    device = _device(device)
    given: dict[str, Any] = {
        "steps": steps, "batch": batch, "micro_batch_size": micro_batch_size, "lr": lr, "lora_rank": lora,
        "save_every": save_every, "save_seconds": save_seconds,
        "units": units or chosen.grpo.units, "side": side or chosen.grpo.side,
        "points": chosen.grpo.points if points is None else points,
        "negatives": chosen.grpo.negatives if negatives is None else negatives,
        "boxes": chosen.grpo.boxes and not no_box,
        "precision": _precision(precision, device),
    }  # fmt: skip
    config = replace(SftConfig(seed=seed), **{name: value for name, value in given.items() if value is not None})
    learned, _ = _questions(data, questions, layout, rendered, seed, 0)
    convention = taught_convention(chosen.start, config.units, config.side)
    examples = sft_examples(
        learned,
        convention,
        rules=config.rules,
        wordings=wordings or (chosen.grpo.wordings if recipe else "one"),
        seed=seed,
    )
    with progress("Training", quiet=quiet) as report:
        where = "cpu" if device == "cpu" else None
        train_sft(examples, chosen.start, run, config, device=where, resume=resume, progress=report)
    _finish(os.environ.get("RANK", "0") == "0", run, ("loss", "grad_norm", "lr"))


def _recipe(name: str | None, start: str | None, segmenter: str | None) -> Recipe:
    from terraprompt.training.recipe import Recipe, load_recipe

    found = Recipe("", "", "") if name is None else load_recipe(name)
    found = replace(found, start=start or found.start, segmenter=segmenter or found.segmenter)
    if not found.start:
        raise ConfigError("There is no reasoner to train.", hint="Name one with --start, or a --recipe.")
    return found


def _questions(
    data: Path | None, sets: Sequence[str] | None, layout: str, rendered: int, seed: int, held_out: int
) -> tuple[list[Sample], list[Sample]]:
    """Questions to learn from, and of ``held_out`` other images."""
    import numpy as np

    from terraprompt.datasets.pack import read_pack
    from terraprompt.datasets.registry import open_dataset
    from terraprompt.training.question_sets import parse_set
    from terraprompt.training.rendered import render_scenes
    from terraprompt.training.sft_examples import dataset_questions, pack_questions, scene_questions

    if data is None and not rendered and not sets:
        raise DatasetError("There is nothing to train on.", hint="Give --questions, --data or --rendered.")
    found: list[Sample] = []
    for text in sets or ():
        one = parse_set(text, layout)
        if one.weight is not None:
            raise ConfigError("Questions of a reasoner have no weights.", received=text, hint="Leave the weight out.")
        found += dataset_questions(open_dataset(one.layout, one.path, split="train").samples)
    if data is not None:
        found += pack_questions(read_pack(data, split="train"), seed=seed)
    found += scene_questions(render_scenes(rendered, seed), seed=seed)
    images = sorted({_image_of(question) for question in found})
    if held_out >= len(images):
        raise ConfigError("Fewer images must be held out than there are.", received=f"{held_out} of {len(images)}")
    order = np.random.default_rng(seed).permutation(len(images))
    apart = {images[i] for i in order[:held_out]}
    split: tuple[list[Sample], list[Sample]] = ([], [])
    for question in found:
        split[_image_of(question) in apart].append(question)
    return split


def _image_of(question: Sample) -> str:
    """The image's file; of a picture in memory what its questions' names begin with."""
    return question.image.as_posix() if question.image.name else question.id.rpartition("/")[0]


def _device(name: str | None) -> str:
    import torch

    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    usable_device(chosen)
    logging.getLogger("terraprompt.training").setLevel(logging.INFO)
    return chosen


def _own(device: str) -> str:
    """The GPU of this process."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def _precision(name: str | None, device: str) -> str | None:
    return name or ("fp32" if device == "cpu" else None)


def _finish(main: bool, run: Path, names: tuple[str, ...]) -> None:
    from terraprompt.training.curves import draw_curves

    if main:
        draw_curves(run / "metrics.jsonl", run / "curves.png", names)
        typer.echo(str(run / "weights"))
