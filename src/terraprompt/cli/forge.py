"""``terraprompt dataset forge`` and ``dataset review``: make a data set from masks; have people look at it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from terraprompt.cli.common import as_json as to_json
from terraprompt.cli.common import progress, renamed
from terraprompt.cli.help import HelpGroup, VerbTyper

__all__ = ["register"]


class _RunsByDefault(HelpGroup):
    """``forge RECIPE`` means ``forge run RECIPE``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


def register(group: typer.Typer) -> None:
    """Add the verbs to ``dataset``."""
    forge = VerbTyper(
        cls=_RunsByDefault,
        no_args_is_help=True,
        help="Make a data set of instructions from masks: forge RECIPE -o OUT, or forge inspect DIR.",
    )
    forge.command("run")(run)
    forge.command("inspect")(inspect)
    forge.command("sources")(sources)
    forge.command("categories")(categories)
    group.add_typer(forge, name="forge")
    review = VerbTyper(no_args_is_help=True, help="Have people look at a forged set.")
    review.command("export")(review_export)
    review.command("import")(review_import)
    group.add_typer(review, name="review")


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, YAML.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
    stage: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate only.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes.")] = 1,
    executor: Annotated[str, typer.Option(help="local or ray.")] = "local",
    layout: Annotated[str, typer.Option(help="Layout of the set: geoseg-bench.")] = "geoseg-bench",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Make the data set of a recipe: sources, patches, regions, filters, instructions, judges, selection, files."""
    from terraprompt.forge import forge, plan, read_recipe

    if layout != "geoseg-bench":
        raise typer.BadParameter(f"--layout knows geoseg-bench. Received: {layout}")
    made = read_recipe(recipe)
    if dry_run:
        found = plan(made, output)
        facts = {
            "images": found.images,
            "patches": found.patches,
            "calls": found.calls,
            "tokens": found.tokens,
            "cost": found.cost,
            "roles": {role: asdict(cost) for role, cost in found.roles.items()},
        }
        if as_json:
            typer.echo(to_json(facts))
            return
        for source, count in found.images.items():
            typer.echo(f"{source}: {count} images, up to {found.patches[source]} patches")
        for role, cost in found.roles.items():
            typer.echo(
                f"{role} ({cost.endpoint}): up to {cost.questions} questions, {cost.calls} calls, "
                f"{cost.tokens_in} + {cost.tokens_out} tokens, cost {cost.cost:.2f}"
            )
        typer.echo(f"models: {found.calls} calls, {found.tokens} tokens, cost {found.cost:.2f} at most")
        return
    if output is None:
        raise typer.BadParameter("say where with --output, or count only with --dry-run.")
    with progress("forging", quiet=quiet) as report:
        done = forge(made, output, until=stage, resume=resume, jobs=jobs, executor=executor, progress=report)
    if as_json:
        typer.echo(to_json({"stages": done.stages, "notes": done.notes, "finished": done.finished}))
        return
    for what, count in done.notes.items():
        typer.echo(f"{what}: {count}", err=True)
    for name, rows in done.stages.items():
        typer.echo(f"{name}: {rows} rows", err=True)
    typer.echo(str(output / "dataset") if done.finished else str(output / "work"))


def inspect(
    folder: Annotated[Path, typer.Argument(help="Folder with images and labels.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the drafted table here.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Look at an unknown folder: which files are images, which labels, which codes occur; draft a table of it."""
    from terraprompt.forge.inspect import inspect_folder
    from terraprompt.io.files import check_writable, replacing

    if output is not None:
        check_writable(output, overwrite, kind="table")
    found = inspect_folder(folder)
    if output is not None:
        with replacing(output, overwrite, kind="table") as temporary:
            temporary.write_text(found.table, encoding="utf-8")
    if as_json:
        typer.echo(to_json(found.facts()))
        return
    for line in found.lines():
        typer.echo(line, err=True)
    typer.echo(found.table if output is None else str(output))


def categories(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Name the 117 categories of GeoSeg-1M (UniGeoSeg, Table 14), and the category of ours that means the same."""
    from terraprompt.language.geoseg_1m import published_categories

    rows = published_categories()
    if as_json:
        typer.echo(to_json([asdict(row) for row in rows]))
        return
    for row in rows:
        typer.echo(f"{row.number:>3}  {row.name:<64} {row.ours or '-'}")


def sources() -> None:
    """Name the tables that come with the package."""
    from terraprompt.forge.tables import load_table, table_names

    for name in table_names():
        table = load_table(name)
        mark = "" if table.confirmed else "  (not confirmed)"
        typer.echo(f"{name:<22} {table.codec:<9} {table.title}, {len(table.classes)} classes{mark}")


def review_export(
    dataset: Annotated[Path, typer.Argument(help="Folder of a forged set.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sheet.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    max_samples: Annotated[int | None, typer.Option(min=1, help="So many samples, drawn with the seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing.")] = 0,
    old_most: Annotated[int | None, typer.Option("--most", hidden=True, callback=renamed("--max-samples"))] = None,
) -> None:
    """Write a sheet for reviewers: a folder with one page that works offline, keys 1 2 3 and arrows."""
    from terraprompt.forge.review import export_sheet

    count = export_sheet(dataset, output, split=split, max_samples=max_samples, seed=seed)
    typer.echo(f"{count} samples", err=True)
    typer.echo(str(output / "index.html"))


def review_import(
    dataset: Annotated[Path, typer.Argument(help="Folder of a forged set.")],
    verdicts: Annotated[list[Path], typer.Argument(help="One file of verdicts a reviewer.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for what everyone keeps.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Read verdicts back: agreement of the reviewers (Cohen's kappa), and the samples that all of them keep."""
    from terraprompt.forge.review import import_verdicts

    found = import_verdicts(dataset, verdicts, out=output)
    if as_json:
        typer.echo(to_json(json.loads(json.dumps(found.facts()))))
        return
    for line in found.lines():
        typer.echo(line)
