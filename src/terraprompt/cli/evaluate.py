"""``terraprompt evaluate``: an engine on a labelled data set, scored as papers score, with a report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from terraprompt.cli.common import FlowName, as_json, progress, renamed, usable_device
from terraprompt.cli.engine_options import with_engine_options
from terraprompt.cli.help import VerbTyper
from terraprompt.datasets.questions import Plan
from terraprompt.datasets.registry import Dataset, dataset_names, layout_of, open_dataset
from terraprompt.errors import BudgetError, ConfigError
from terraprompt.evaluation import harness
from terraprompt.evaluation.metrics import metric_names
from terraprompt.evaluation.protocols import PROTOCOLS, protocol
from terraprompt.evaluation.published import listing, published, published_for
from terraprompt.evaluation.report import comparison_table, headline_table
from terraprompt.evaluation.runner import EngineSpec, Run
from terraprompt.evaluation.scores import compare
from terraprompt.evaluation.scoring import read_scores
from terraprompt.evaluation.tables import markdown
from terraprompt.io.files import JSON_SUFFIXES, check_writable, replacing
from terraprompt.io.progress import Progress
from terraprompt.prompt import Task

__all__ = ["register"]

verb = VerbTyper()


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.add_typer(verb, name="evaluate")


@verb.callback(invoke_without_command=True)
@with_engine_options
def evaluate(
    context: typer.Context,
    dataset: Annotated[str | None, typer.Option(help=f"Layout of the data: {', '.join(dataset_names())}.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for predictions, scores and the report.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Part of the data; test, or val where there is no test.")] = None,
    engine: Annotated[str, typer.Option("--engine", "-e", help="Which system answers.")] = "nano",
    weights: Annotated[str | None, typer.Option(help="Other weights for the engine.")] = None,
    device: Annotated[str | None, typer.Option(help="torch device of the engine.")] = None,
    rules: Annotated[
        str, typer.Option("--protocol", "-p", help=f"Rules of scoring: {', '.join(PROTOCOLS)}.")
    ] = "native",
    flow: Annotated[
        FlowName | None,
        typer.Option(
            help="How the engine is fed: published (the whole picture at once, the sentence as it stands, the model's "
            "own mask) or product (tiles, windows, selectors, sieve). Default: as the protocol says."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help=f"One more metric, repeatable: {', '.join(metric_names())}.")
    ] = None,
    task: Annotated[Task | None, typer.Option(help="Only samples of this task.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first samples.")] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals, and of the questions to a pack.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes, each with its own engine.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: ask again what the engine failed on.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave broken samples out and count them, instead of stopping.")
    ] = False,
    rescore: Annotated[
        Path | None, typer.Option("--rescore", help="Score the predictions of this run again, without the engine.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option("--masks", help="Score the masks of another program: a folder, or a JSON file, by sample id."),
    ] = None,
    no_selector: Annotated[
        bool, typer.Option("--no-selector", help="Send words of size and place to the engine as they are.")
    ] = False,
    old_from: Annotated[str | None, typer.Option("--from", hidden=True, callback=renamed("--rescore"))] = None,
    old_plain: Annotated[bool, typer.Option("--plain", hidden=True, callback=renamed("--no-selector"))] = False,
    clicks: Annotated[
        bool, typer.Option("--clicks", help="Count the clicks to a good mask (NoC) on interactive samples.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Show best, median and worst answers in the report.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    *,
    engine_options: dict[str, Any],
) -> None:
    """Ask ENGINE about every sample of a data set, score the answers by a protocol, and write a report.

    The output folder gets predictions.parquet (masks as COCO run lengths), scores.jsonl, summary.json, run.json,
    report.md and report.html. A run that was stopped or killed goes on with --resume and gives the same numbers.
    `terraprompt evaluate compare A B` sets two runs side by side.
    """
    if context.invoked_subcommand is not None:
        return
    if dataset is None or root is None or output is None:
        missing = [name for name, value in (("--dataset", dataset), ("--root", root), ("-o", output)) if value is None]
        raise typer.BadParameter(f"{', '.join(missing)} must be given.")
    rule = protocol(rules).with_metrics(metric or ())
    if flow is not None:
        rule = replace(rule, flow=flow.value)
    if retry and not resume:
        raise typer.BadParameter("--retry-failed goes with --resume.")
    if rescore is not None and (resume or jobs > 1):
        raise typer.BadParameter("--rescore scores answers that are there: --resume and -j have no meaning.")
    if rescore is not None and flow is not None:
        raise typer.BadParameter("--rescore scores answers that are there: --flow cannot be chosen afterwards.")
    if masks is not None and (rescore or resume or jobs > 1 or flow or clicks or weights or engine_options):
        raise typer.BadParameter(
            "--masks scores masks that are there: --rescore, --resume, -j, --flow, --clicks and engine options have no "
            "meaning."
        )
    opened = _open(dataset, root, split, keep_going=keep_going, seed=seed)
    if device is not None:
        usable_device(device)
    options = {name: value for name, value in (("weights", weights), ("device", device)) if value is not None}
    options |= engine_options
    chosen = harness.EvalOptions(
        None if task is None else task.value, limit, seed, not no_selector, clicks, _command(context)
    )

    def bar(label: str) -> AbstractContextManager[Progress | None]:
        return progress(label, quiet=quiet)

    harness.check_folder(output, resume=resume, overwrite=overwrite, answers=rescore is None)
    if rescore is not None:
        report = harness.score_again(opened, rescore, rule, chosen, bar)
    elif masks is not None:
        report = harness.score_masks(opened, masks, rule, output, chosen, bar, keep_going=keep_going)
    else:
        run = Run(output, jobs, resume, retry, keep_going)
        try:
            report = harness.evaluate(opened, EngineSpec.of(engine, **options), rule, run, chosen, bar)
        except (KeyboardInterrupt, BudgetError):
            typer.echo("What was answered is kept; go on with --resume.", err=True)
            raise
    harness.write_report(report, output, pictures=pictures)
    if as_data:
        typer.echo(as_json(report.summary()))
    else:
        typer.echo(markdown(headline_table(report)))
        for warning in report.warnings:
            typer.echo(f"Note: {warning}", err=True)
        typer.echo(str(output / "report.html"))
    harness.check_answers(report)


@verb.command("compare")
def compare_runs(
    first: Annotated[Path, typer.Argument(metavar="A", help="Output folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Output folder of another run on the same samples.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The comparison as .json.")] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """What B does better or worse than A: paired differences with 95 % intervals, over the samples that both have."""
    if output is not None:
        check_writable(output, overwrite, kind="json", suffixes=JSON_SUFFIXES)
    done = compare(read_scores(first), read_scores(second), seed=seed)
    found = {"a": str(first), "b": str(second), "seed": seed, **done.as_dict()}
    if output is not None:
        with replacing(output, overwrite) as temporary:
            temporary.write_text(as_json(found) + "\n", encoding="utf-8")
    if as_data:
        typer.echo(as_json(found))
        return
    typer.echo(f"A: {first}\nB: {second}\nProtocol {done.protocol}, {done.samples:,} samples in both.\n")
    typer.echo(markdown(comparison_table(done)))
    typer.echo(f"B is better on {done.better:,} samples, equal on {done.equal:,}, worse on {done.worse:,}.")
    if done.only_a or done.only_b:
        typer.echo(f"Note: {len(done.only_a):,} samples only in A, {len(done.only_b):,} only in B.", err=True)


@verb.command("published")
def print_published(
    dataset: Annotated[str | None, typer.Option(help="Results on this data set alone.")] = None,
    split: Annotated[str | None, typer.Option(help="Of this split alone.")] = None,
    as_data: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print the results that papers publish, with the protocol of each and the table that it stands in."""
    rows = published() if dataset is None else published_for(dataset)
    rows = tuple(row for row in rows if split in (None, row.split))
    if not rows:
        known = ", ".join(dict.fromkeys(row.dataset for row in published()))
        asked = f"{dataset or 'all'}, split {split or 'all'}"
        raise ConfigError("No published result is known.", received=asked, hint=f"Known: {known}.")
    typer.echo(as_json([asdict(row) for row in rows]) if as_data else markdown(listing(rows)))


def _open(name: str, root: Path, split: str | None, *, keep_going: bool, seed: int) -> Dataset:
    if split is None:
        splits = layout_of(name).splits
        split = "test" if "test" in splits else "val"
    plan: Mapping[str, Any] = {"plan": Plan(seed=seed)} if name == "pack" else {}
    return open_dataset(name, root, split=split, keep_going=keep_going, **plan)


def _command(context: typer.Context) -> str:
    """The command line, made again from what was given."""
    words = ["terraprompt", "evaluate"]
    for parameter in context.command.params:
        name = str(parameter.name)
        source, value = context.get_parameter_source(name), context.params.get(name)
        if source is None or source.name != "COMMANDLINE" or name == "as_data":
            continue
        flag = (parameter.secondary_opts if value is False else parameter.opts)[0]
        if isinstance(value, bool):
            words.append(flag)
        else:
            words += [word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))]
    return shlex.join(words)
