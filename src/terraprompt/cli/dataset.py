"""``terraprompt dataset``: check a copy of a data set, index it, download one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terraprompt.cli import forge
from terraprompt.cli.common import as_json as to_json
from terraprompt.cli.common import progress
from terraprompt.cli.help import VerbTyper

__all__ = ["register"]

_NAME = "Which data set: `terraprompt dataset list` names them."


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = VerbTyper(help="Data sets: list, check, index, download, forge, review.", no_args_is_help=True)
    group.command("list")(list_names)
    group.command()(check)
    group.command()(index)
    group.command()(download)
    forge.register(group)
    app.add_typer(group, name="dataset")


def list_names(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Name the data sets that can be read, their splits, what their folder holds and where to get them."""
    from terraprompt.datasets.registry import dataset_names, layout_of

    layouts = [layout_of(name) for name in dataset_names()]
    if as_json:
        fields = ("name", "title", "splits", "tree", "where", "hub")
        typer.echo(to_json([{field: getattr(layout, field) for field in fields} for layout in layouts]))
        return
    for layout in layouts:
        typer.echo(f"{layout.name:<17} {layout.title} ({', '.join(layout.splits)})")
        typer.echo(f"{'':<17} {layout.tree}")
        typer.echo(f"{'':<17} {layout.where}")


def check(
    root: Annotated[Path, typer.Argument(help="Folder of the copy.")],
    dataset: Annotated[str, typer.Option("--dataset", help=_NAME)],
    split: Annotated[str | None, typer.Option(help="This split only; without it, all that the copy holds.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Threads.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Read everything in a copy, decode every image and mask, and name each broken file; code 1 if there is one."""
    from terraprompt.datasets.check import check_dataset

    with progress("checking", quiet=quiet) as report:
        found = check_dataset(dataset, root, split=split, jobs=jobs, progress=report)
    facts: dict[str, Any] = {
        "dataset": found.name,
        "samples": found.samples,
        "absent": found.absent,
        "problems": [{"file": problem.file, "reason": problem.reason} for problem in found.problems],
    }
    if as_json:
        typer.echo(to_json(facts))
    else:
        for problem in found.problems:
            typer.echo(f"{problem.file}: {problem.reason}")
        for part, count in found.samples.items():
            typer.echo(f"{part}: {count} samples", err=True)
        for part in found.absent:
            typer.echo(f"{part}: not in this copy", err=True)
        typer.echo(f"{len(found.problems)} broken" if found.problems else "whole", err=True)
    if not found.is_whole:
        raise typer.Exit(1)


def index(
    root: Annotated[Path, typer.Argument(help="Folder of the copy.")],
    dataset: Annotated[str, typer.Option("--dataset", help=_NAME)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The index, .parquet.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave broken items out and name them.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
) -> None:
    """Write one Parquet file with every sample of a split: it opens at once, however large the set is.

    The index can stand wherever a folder of the data set can.
    """
    from terraprompt.datasets.index import write_index
    from terraprompt.datasets.layouts import Faults
    from terraprompt.datasets.registry import read_samples
    from terraprompt.io.files import replacing

    faults = Faults(keep_going)
    with replacing(output, overwrite, kind="index", suffixes=(".parquet",)) as temporary:
        samples = read_samples(dataset, root, split=split, faults=faults)
        count = write_index(temporary, samples, root.expanduser(), name=dataset, split=split)
    for problem in faults.found:
        typer.echo(f"{problem.file}: {problem.reason}", err=True)
    typer.echo(f"{count} samples, {len(faults.found)} left out", err=True)


def download(
    dataset: Annotated[str, typer.Argument(metavar="NAME", help=_NAME)],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder of the copy.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Files at a time.")] = 8,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Fetch a data set from the Hugging Face hub, check every checksum, and print the folder to use.

    Run it again after an interruption: files that are whole are kept.
    """
    from terraprompt.datasets.download import download as fetch

    with progress("downloading", quiet=quiet) as report:
        got = fetch(dataset, destination, revision=revision, jobs=jobs, progress=report)
    typer.echo(f"{got.files} files of revision {got.revision}, {got.fetched} bytes fetched", err=True)
    typer.echo(str(got.root))
