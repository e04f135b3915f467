"""``terraprompt evaluate``: an engine on labelled images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from terraprompt.cli.common import progress
from terraprompt.datasets.pack import read_pack
from terraprompt.engines.registry import load_engine
from terraprompt.errors import DatasetError
from terraprompt.evaluation import tables
from terraprompt.evaluation.pack import Plan, Row, ask_record
from terraprompt.outputs import check_target
from terraprompt.outputs.files import replacing

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(evaluate)


def evaluate(
    data: Annotated[Path, typer.Option(help="Folder with annotations.jsonl, images and masks.")],
    engine: Annotated[str, typer.Option("--engine", "-e", help="Which system answers.")] = "nano",
    weights: Annotated[Path | None, typer.Option(help="Other weights for the engine.")] = None,
    split: Annotated[str, typer.Option(help="train or val.")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sentences and the objects that are prompted.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Every question and its counts, JSON lines (.jsonl).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Ask ENGINE about every labelled image of DATA and print tables: text, box, point, size and place, absence."""
    if output is not None:
        check_target(output, overwrite, kind="lines")
    loaded = load_engine(engine, **({"weights": weights} if weights else {}))
    records = read_pack(data, split=split)[:limit]
    if not records:
        raise DatasetError(
            "There is nothing to evaluate.", received=f"split {split} of {data}", hint="Choose --split train or val."
        )
    rows: list[Row] = []
    with progress("evaluating", quiet=quiet) as report:
        for i, record in enumerate(records):
            rows += ask_record(loaded, record, Plan(seed=seed))
            if report:
                report(i + 1, len(records))
    if output is not None:
        with replacing(output, overwrite, kind="lines") as temporary:
            temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    for title, table in (
        ("gIoU (cIoU), per cent, native resolution", tables.mask_table(rows)),
        ("Words of size and place, gIoU (cIoU)", tables.selector_table(rows)),
        ("Targets that are there, and that are not", tables.absence_table(rows)),
        ("Box-labelled categories", tables.weak_table(rows)),
    ):
        if len(table) > 1:
            typer.echo(f"\n{title}\n\n{tables.markdown(table)}")
