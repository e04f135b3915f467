"""``terraprompt train``: labelled images to weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from terraprompt.cli.common import usable_device
from terraprompt.datasets.pack import read_pack
from terraprompt.engines.weights import packaged
from terraprompt.errors import ConfigError, DatasetError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(train)


def train(
    data: Annotated[Path, typer.Option(help="Folder with annotations.jsonl, images and masks.")],
    run: Annotated[Path, typer.Option(help="Folder for checkpoints, metrics and weights.")] = Path("runs/nano"),
    preset: Annotated[str, typer.Option(help="Which member of the family.")] = "nano",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops a step.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, crops and sampling.")] = 0,
    rendered: Annotated[int, typer.Option(min=0, help="Rendered scenes added to the real images.")] = 240,
    workers: Annotated[int, typer.Option("--workers", "-j", min=0, help="Processes that cut crops.")] = 1,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, or bf16 on a GPU.")] = "fp32",
    start: Annotated[
        str | None,
        typer.Option(
            help='Weights to go on from instead of ImageNet: a .safetensors file, or "nano" (the packaged ones).'
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Peak learning rate; the backbone learns at 0.4 of it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the run folder.")] = False,
) -> None:
    """Train on the train split of DATA; val is never looked at.

    Writes <run>/nano.safetensors with its card, metrics.jsonl and a picture of the curves. Use the weights with
    ``terraprompt segment … --weights <run>/nano.safetensors``.
    """
    from terraprompt.training.curves import draw_curves
    from terraprompt.training.nano import export_nano, train_nano
    from terraprompt.training.supervised import TrainConfig

    if (run / "last.pt").exists() and not resume:
        raise ConfigError(
            "The run folder holds a training already.", received=run, hint="Add --resume, or choose another --run."
        )
    usable_device(device)
    if not read_pack(data, split="train"):  # said before the run folder is made
        raise DatasetError("There is nothing to train on.", received=f"split train of {data}", hint="Check --data.")
    logging.getLogger("terraprompt.training").setLevel(logging.INFO)
    given: dict[str, Any] = {"steps": steps, "batch": batch}
    if rate is not None:
        given |= {"rate": rate, "backbone_rate": 0.4 * rate}
    first = None if start is None else packaged("nano") if start == "nano" else Path(start)
    config = TrainConfig(seed=seed, precision=precision, **{k: v for k, v in given.items() if v is not None})
    trainer = train_nano(
        data, run, config, preset_name=preset, rendered=rendered, workers=workers, device=device, resume=resume,
        start=first,
    )  # fmt: skip
    export_nano(trainer, run / "nano.safetensors")
    draw_curves(run / "metrics.jsonl", run / "curves.png")
    typer.echo(str(run / "nano.safetensors"))
