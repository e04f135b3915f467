"""``terraprompt reasoner``: is the endpoint what it claims, and in which units does it answer."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from terraprompt.cli.common import as_json as to_json
from terraprompt.cli.common import progress, renamed, usable_device
from terraprompt.cli.engine_options import given, with_engine_options
from terraprompt.cli.help import VerbTyper
from terraprompt.errors import BudgetError, DatasetError, ReasonerError
from terraprompt.vlm import ENDPOINT_VARIABLE, KEY_VARIABLE, LOCAL_VARIABLE, MODEL_VARIABLE

if TYPE_CHECKING:
    from terraprompt.datasets.pack import Record
    from terraprompt.vlm.base import Reasoner
    from terraprompt.vlm.box_calibration import BoxCalibration
    from terraprompt.vlm.calibration import Calibration
    from terraprompt.vlm.check import EndpointReport
    from terraprompt.vlm.endpoint import EndpointReasoner

__all__ = ["register"]

Endpoint = Annotated[str | None, typer.Option(help="Address, e.g. http://localhost:8000/v1.", envvar=ENDPOINT_VARIABLE)]
Model = Annotated[
    str | None, typer.Option(help="As the server names it; not needed if it has one.", envvar=MODEL_VARIABLE)
]
KeyEnv = Annotated[str, typer.Option(help="Environment variable that holds the key; never the key itself.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one reply.")]
Units = Annotated[str | None, typer.Option(help="pixels, 0..1, 0..1000 or auto; without it, of the model's family.")]
Side = Annotated[int | None, typer.Option(min=28, help="Show squares of so many pixels.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Of one answer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = VerbTyper(help="Check a reasoner, or measure the coordinates it answers in.", no_args_is_help=True)
    group.command()(check)
    group.command(name="calibrate")(calibrate_command)
    app.add_typer(group, name="reasoner")


@with_engine_options
def check(engine_options: dict[str, Any], as_json: AsJson = False) -> None:
    """Ask an endpoint who it is, what it serves, whether it sees pictures, and a tiny question.

    Takes the options of segment; those that draw change nothing here.
    """
    from terraprompt.engines.propose import ReasonerOptions
    from terraprompt.vlm.check import check_endpoint
    from terraprompt.vlm.endpoint import EndpointReasoner

    drawing = {"segmenter", "text_segmenter", "weights", "mode", "calibration", "routes", "refine", "similarity"}
    drawing |= {"max_calls", "max_seconds", "schema", "rules"}
    options: dict[str, Any] = {"timeout": 60.0, "max_tokens": 1024, "retries": 1}
    options |= {name: value for name, value in engine_options.items() if name not in drawing}
    if engine_options.get("schema") is False:
        options["structured"] = "off"
    reasoner = ReasonerOptions.of("reasoner check", options).open(device="cpu")
    if not isinstance(reasoner, EndpointReasoner):
        raise typer.BadParameter("check asks an endpoint. Give --endpoint.")
    report = check_endpoint(reasoner)
    facts = asdict(report) | {"endpoint": reasoner.info.where, "model": reasoner.info.model, "usable": report.usable}
    typer.echo(to_json(facts) if as_json else _report_text(reasoner, report))
    if not report.usable:
        raise typer.Exit(1)


def calibrate_command(
    data: Annotated[Path, typer.Option(help="Folder with annotations.jsonl and images with boxes.")],
    endpoint: Endpoint = None,
    model: Model = None,
    local: Annotated[
        str | None, typer.Option(help="Folder or hub name of a local checkpoint.", envvar=LOCAL_VARIABLE)
    ] = None,
    key_env: KeyEnv = KEY_VARIABLE,
    timeout: Timeout = 120.0,
    units: Units = None,
    side: Side = None,
    max_tokens: MaxTokens = 2048,
    split: Annotated[str, typer.Option(help="train or val.")] = "val",
    limit: Annotated[int, typer.Option(min=1, help="Questions.")] = 24,
    max_objects: Annotated[int, typer.Option(min=1, help="Of the category labelled in an image.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the choice of images.")] = 0,
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Questions on the way together.")] = 4,
    tokens: Annotated[int | None, typer.Option(min=1, help="Token budget.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of known replies; a second run goes on.")] = None,
    device: Annotated[str, typer.Option(help="Of a local checkpoint.")] = "cpu",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the endpoint. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Ask in the words of the engine geoseg, fit its box correction too, and write both as .json.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    old_most: Annotated[int | None, typer.Option("--most", hidden=True, callback=renamed("--max-objects"))] = None,
) -> None:
    """Ask about labelled objects and compare the answers with their boxes under every coordinate convention.

    With -o also fit the correction of the boxes (alpha at the left and top, beta at the right and bottom, in shares of
    the side), by leave-one-out against no correction and the release's fixed 0.2 and 0.1.
    """
    from terraprompt.datasets.pack import read_pack
    from terraprompt.io.files import JSON_SUFFIXES, check_writable, replacing
    from terraprompt.vlm.answer_parser import AnswerRules, parse_lenient, parse_phrases
    from terraprompt.vlm.base import Question, reason_many
    from terraprompt.vlm.box_calibration import fit_calibration
    from terraprompt.vlm.budget import Budget
    from terraprompt.vlm.calibration import LabeledAnswer, calibrate
    from terraprompt.vlm.endpoint import EndpointReasoner
    from terraprompt.vlm.open import open_reasoner
    from terraprompt.vlm.wording import PHRASE_TEMPLATE

    if output is not None:
        check_writable(output, overwrite, kind="json", suffixes=JSON_SUFFIXES)
    asked = _cases(read_pack(data, split=split), limit, max_objects, seed)
    if not asked:
        raise DatasetError(
            "No image has boxes to calibrate on.", received=f"split {split} of {data}", hint="Choose another split."
        )
    budget = None if tokens is None else Budget(tokens=tokens)
    asking: dict[str, Any] = {} if output is None else {"template": PHRASE_TEMPLATE}
    reasoner = open_reasoner(
        endpoint=endpoint,
        model=model,
        local=local,
        units=units,
        side=side,
        cache=cache,
        budget=budget,
        server={"key_variable": key_env, "timeout": timeout},
        device=usable_device(device) if device != "cpu" else device,
        max_tokens=max_tokens,
        served={} if output is None else {"structured": "off"},
        **asking,
        **given(settings=settings),
    )
    questions = [Question(record.load_image(), f"every {_words(category)}") for record, category in asked]
    with progress("asking", quiet=quiet) as report:
        replies = reason_many(
            reasoner, questions, workers=workers if isinstance(reasoner, EndpointReasoner) else 1, progress=report
        )
    answers, unread = [], []
    for (record, category), reply in zip(asked, replies, strict=True):
        if isinstance(reply, ReasonerError):
            unread.append(str(reply))
            continue
        parsed = parse_lenient(reply.text, AnswerRules(points=None)) if output is None else parse_phrases(reply.text)
        if not parsed.ok:
            unread.append(f"{parsed.verdict.value}: {parsed.feedback}")
            continue
        boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in record.boxes(category))
        answers.append(LabeledAnswer(parsed.instances, boxes, (record.height, record.width)))
    stopped = next((reply for reply in replies if isinstance(reply, BudgetError)), None)
    if not answers:
        raise stopped or ReasonerError("No question got an answer that can be read.", received=unread[0])
    table = calibrate(answers, reasoner.convention.view)
    fitted = None
    reading = table.best or (reasoner.convention if units not in (None, "auto") else None)
    if output is not None and stopped is None and reading is not None:
        source = {"data": data.name, "split": split, "seed": seed, "questions": len(asked)}
        fitted = fit_calibration(answers, reasoner, reading, source=source)
    if as_json:
        facts = _facts(reasoner, table, len(answers), unread)
        typer.echo(to_json(facts | ({} if fitted is None else {"correction": _correction_facts(fitted)})))
    else:
        _print_table(reasoner, table, len(answers), unread)
        if fitted is not None:
            _print_correction(fitted)
    if stopped is not None:
        raise stopped
    if output is not None:
        if fitted is None:
            raise ReasonerError(
                "No calibration was written: the units are not known.",
                received=table.reason,
                hint="Ask more (--limit), show another size (--side), or name the units (--units).",
            )
        with replacing(output, overwrite) as temporary:
            temporary.write_text(fitted.as_json(), encoding="utf-8")
        typer.echo(f"Written: {output}", err=True)
    elif table.best is None:
        raise typer.Exit(1)


def _cases(records: list[Record], limit: int, max_objects: int, seed: int) -> list[tuple[Record, str]]:
    """Images and categories with few boxes that are not tiny, the categories in turn."""
    found: dict[str, list[tuple[Record, str]]] = defaultdict(list)
    for record in records:
        if record.label_kind != "box":
            continue
        for category in record.present:
            boxes = record.boxes(category)
            sides = boxes[:, 2:] - boxes[:, :2]
            if len(boxes) <= max_objects and sides.min() >= max(record.width, record.height) / 50:
                found[category].append((record, category))
    draw = random.Random(seed)
    for cases in found.values():
        draw.shuffle(cases)
    out: list[tuple[Record, str]] = []
    while len(out) < limit and any(found.values()):
        out += [found[category].pop() for category in sorted(found) if found[category]]
    return out[:limit]


def _words(category: str) -> str:
    return category.replace("_", " ")


def _report_text(reasoner: EndpointReasoner, report: EndpointReport) -> str:
    wrong = [f"{said or '?'} for {name}" for name, said in report.colours if name != said]
    models = ", ".join(report.models[:10]) + (" …" if len(report.models) > 10 else "")
    lines = {
        "endpoint": reasoner.info.where,
        "server": report.server,
        "models": models or "none",
        "model": reasoner.info.model + ("" if report.listed else " (not listed)"),
        "pictures": "seen" if report.sees else f"not seen: {', '.join(wrong)}",
        "schema": {
            None: "not offered, or off",
            True: "accepted, and followed",
            False: "accepted, but not followed: the answer is not an object with think and instances",
        }[report.schema_followed],
        "question": f"{report.verdict.value}, {report.overlap:.0%} overlap read as {report.units}",
        "units": report.declared + (" (not known: run terraprompt reasoner calibrate)" * (report.declared == "auto")),
        "tokens": "not counted by the server" if report.tokens is None else str(report.tokens),
    }
    if report.remarks:
        lines["remarks"] = " ".join(report.remarks)
    if not report.verdict.ok or report.schema_followed is False:
        lines["answer"] = report.answer
    if report.overlap > 0.5 and report.units != report.declared and report.declared != "auto":
        lines["warning"] = f"the answer fits {report.units} better than {report.declared}; calibrate"
    return "\n".join(f"{key:<9} {value}" for key, value in lines.items())


def _facts(reasoner: Reasoner, table: Calibration, answered: int, unread: list[str]) -> dict[str, Any]:
    rows = [
        {
            "reading": row.name,
            "agreement": row.agreement,
            "hits": row.hits,
            "pairs": len(row.pairs.truth),
            "edge_offsets": row.pairs.edge_offsets.tolist(),
        }
        for row in table.candidates
    ]
    return {
        "model": reasoner.info.model,
        "declared": reasoner.convention.units.value,
        "view": asdict(reasoner.convention.view),
        "answered": answered,
        "unread": unread,
        "readings": rows,
        "best": None if table.best is None else table.candidates[0].name,
        "reason": table.reason,
    }


def _print_table(reasoner: Reasoner, table: Calibration, answered: int, unread: list[str]) -> None:
    out = Table("read as", "agreement", "IoU > 0.5", "pairs", "x1", "y1", "x2", "y2", box=None)
    for row in table.candidates:
        offsets = [f"{v:+.0%}" if v == v else "-" for v in row.pairs.edge_offsets]
        out.add_row(row.name, f"{row.agreement:.3f}", f"{row.hits:.0%}", str(len(row.pairs.truth)), *offsets)
    console = Console(width=100, soft_wrap=True)
    console.print(out)
    typer.echo(
        f"\n{reasoner.info.model}: {answered} answers read, {len(unread)} not. Offsets: median, of the box size."
    )
    typer.echo(table.reason)
    if table.best is not None and table.candidates[0].name != reasoner.convention.name:
        named = f'"{table.best.name}"' if table.best.y_first else table.best.name
        typer.echo(f"Use --units {named}{_hint(table)}")
    if unread:
        typer.echo(f"First that was not read: {unread[0]}", err=True)


def _correction_facts(fitted: BoxCalibration) -> dict[str, Any]:
    fit = fitted.fit
    return {
        **asdict(fit),
        "gain_over_fixed": fit.gain_over_fixed,
        "gain_over_plain": fit.gain_over_plain,
        "advised": {"name": fitted.advised, "alpha": fitted.alpha, "beta": fitted.beta},
        "units": fitted.convention.units.value,
    }


def _print_correction(fitted: BoxCalibration) -> None:
    from terraprompt.vlm.box_refinement import FIXED_ALPHA, FIXED_BETA

    fit = fitted.fit
    out = Table("correction", "alpha", "beta", "mean IoU", box=None)
    out.add_row("none", "0.00", "0.00", f"{fit.iou_plain:.3f}")
    out.add_row("fixed, as released", f"{FIXED_ALPHA:.2f}", f"{FIXED_BETA:.2f}", f"{fit.iou_fixed:.3f}")
    out.add_row("fitted, leave-one-out", f"{fit.alpha:.2f}", f"{fit.beta:.2f}", f"{fit.iou_fitted:.3f}")
    typer.echo(f"\nCorrection of boxes read as {fitted.convention.units.value}, {fit.count} pairs:")
    Console(width=100, soft_wrap=True).print(out)
    typer.echo(
        f"Gain of the fit: {fit.gain_over_fixed:+.3f} over the fixed constants, {fit.gain_over_plain:+.3f} over none. "
        f"Advised: {fitted.advised}, alpha {fitted.alpha:.2f}, beta {fitted.beta:.2f}."
    )


def _hint(table: Calibration) -> str:
    if table.candidates[0].name == "pixels of the original":
        return " with a view that shows images unchanged."
    return "."
