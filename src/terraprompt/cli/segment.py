"""``terraprompt segment``: scene and prompt to mask, polygons and picture."""

from __future__ import annotations

import functools
import math
import os
import shlex
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terraprompt.cli.common import FlowName, dem_option, nodata_option, numbers, progress, usable_device
from terraprompt.cli.common import as_json as to_json
from terraprompt.cli.engine_options import with_engine_options
from terraprompt.errors import ConfigError, EngineError, OutputError, PromptError
from terraprompt.prompt import Prompt, Task

if TYPE_CHECKING:  # help is shown without what only the work needs
    from terraprompt.outputs import Result
    from terraprompt.raster import Scene

__all__ = ["register"]


#: Panels of the help page.
_output = functools.partial(typer.Option, rich_help_panel="Outputs")
_target = functools.partial(typer.Option, rich_help_panel="What to find, beside INSTRUCTION")
_scene = functools.partial(typer.Option, rich_help_panel="Scene")
_object = functools.partial(typer.Option, rich_help_panel="Objects")


class Stretch(StrEnum):
    """Choices of ``--stretch``."""

    AUTO = "auto"
    PERCENTILE = "percentile"
    NONE = "none"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(with_engine_options(segment))


def segment(
    scene: Annotated[str, typer.Argument(help="Raster to look at: GeoTIFF, VRT, PNG, … anything GDAL reads.")],
    instruction: Annotated[
        str | None,
        typer.Argument(help='What to find, e.g. "the buildings", "the largest lake", "where a truck could drive".'),
    ] = None,
    output: Annotated[
        Path | None, _output("--output", "-o", help="Mask as Cloud Optimised GeoTIFF (or .png): 0/1, nodata 255.")
    ] = None,
    vector: Annotated[
        Path | None, _output(help="Polygons: .gpkg (a layer more, if it is there), .geojson, .fgb or .parquet.")
    ] = None,
    layer: Annotated[str | None, _output(help="Of --vector; default: made from the instruction.")] = None,
    picture: Annotated[Path | None, _output(help="PNG of the scene with the mask over it.")] = None,
    evidence: Annotated[
        Path | None, _output(help="PNG of how each target was found, of engines that note it (geoseg).")
    ] = None,
    probability: Annotated[Path | None, _output(help="Probabilities as float32 GeoTIFF.")] = None,
    stac: Annotated[Path | None, _output(help="STAC item (.json) that lists the outputs.")] = None,
    text: Annotated[
        list[str] | None, _target("--text", "-t", help="One more instruction, answered in the same run. Repeatable.")
    ] = None,
    point: Annotated[
        list[str] | None,
        _target(help="x,y[,label]; label 1 (on the target, default) or 0 (not on it). Repeatable."),
    ] = None,
    box: Annotated[list[str] | None, _target(help="x0,y0,x1,y1 round one target. Repeatable.")] = None,
    prompt_file: Annotated[Path | None, _target(help="Vector file with points and boxes, in any CRS.")] = None,
    prompt_layer: Annotated[str | None, _target(help="Layer of --prompt-file, where it has several.")] = None,
    prompt_crs: Annotated[
        str | None,
        _target(
            help='CRS of --point, --box and --prompt-file: "pixel" (from the upper left corner of the scene, or of '
            '--bbox), "scene" (the raster\'s own), or e.g. EPSG:4326. Default: pixel, for a file its own.'
        ),
    ] = None,
    task: Annotated[Task | None, _target(help="Kind of instruction; inferred if not given.")] = None,
    engine: Annotated[
        str, typer.Option("--engine", "-e", help="Which system answers; see: terraprompt models.")
    ] = "nano",
    weights: Annotated[Path | None, typer.Option(help="Other weights for the engine, e.g. your own training.")] = None,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    bands: Annotated[
        str | None, _scene("--bands", "-b", help="Bands for red, green, blue (or one): 4,3,2 or names.")
    ] = None,
    bbox: Annotated[str | None, _scene(help="x0,y0,x1,y1: look only there.")] = None,
    bbox_crs: Annotated[
        str | None, _scene(help='CRS of --bbox: "pixel" or e.g. EPSG:4326; default the scene\'s.')
    ] = None,
    nodata: Annotated[str | None, _scene(help='Value without data, or "none": all pixels are data.')] = None,
    allow_remote: Annotated[bool, _scene("--allow-remote", help="A VRT may name hosts and other folders.")] = False,
    dem: Annotated[str | None, _scene(help="Heights under RPCs: a raster, or one in metres.")] = None,
    warp: Annotated[bool, _scene(help="Warp what RPCs or control points place; no: in pixels.")] = True,
    stretch: Annotated[Stretch, _scene(help="Brightness: one stretch for the whole scene.")] = Stretch.AUTO,
    threshold: Annotated[float, _object(min=0.001, max=0.999, help="Probability above which a pixel is target.")] = 0.5,
    min_area: Annotated[float | None, _object(min=0, help="Drop objects smaller than this, m2.")] = None,
    min_pixels: Annotated[
        int | None, _object(min=1, help="Drop objects of fewer pixels; default 4, with --min-area 1.")
    ] = None,
    fill_holes: Annotated[float | None, _object(min=0, help="Fill holes smaller than this, m2.")] = None,
    simplify: Annotated[
        float | None, _object(min=0, help="Tolerance of polygon outlines, m (pixels if no CRS); 0 keeps the stairs.")
    ] = None,
    refine: Annotated[
        bool, _target(help="Look twice at small targets under a point; geoseg: correct the boxes.")
    ] = True,
    selector: Annotated[bool, _target(help="Take sizes, order and negation apart; no: the text as it is.")] = True,
    flow: Annotated[
        FlowName,
        _target(
            help="product: tiles and closer windows; published: the whole scene as one picture, as papers evaluate."
        ),
    ] = FlowName.PRODUCT,
    batch: Annotated[int | None, typer.Option(min=1, help="Tiles encoded together.")] = None,
    style: Annotated[
        bool, _output("--style", help="Styles for QGIS: in a GeoPackage, and as .qml beside other files.")
    ] = False,
    creation_option: Annotated[
        list[str] | None, _output("--co", help="GDAL creation option of the mask, KEY=VALUE.")
    ] = None,
    overwrite: Annotated[bool, _output("--overwrite", help="Replace outputs that are there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    *,
    engine_options: dict[str, Any],
) -> None:
    """Find in SCENE what INSTRUCTION, points or boxes ask for.

    Without any output option, <scene>_<instruction>.tif and .gpkg are written to the current folder, under names that
    are free. Several instructions (-t) give a band each in .tif, a layer each in .gpkg, and otherwise a file each,
    named <output>_<instruction>.
    """
    from terraprompt.engines.registry import engine_option_names, load_engine
    from terraprompt.flow.session import Session
    from terraprompt.outputs import Status, check_target
    from terraprompt.outputs.default_names import unused_stem
    from terraprompt.outputs.evidence import write_evidence
    from terraprompt.outputs.formats.geopackage import layer_name
    from terraprompt.outputs.formats.lonlat import check_place
    from terraprompt.outputs.formats.raster import check_creation_options
    from terraprompt.raster import open_scene
    from terraprompt.raster.pixel_area import NO_GROUND

    started = time.monotonic()
    options = _creation_options(creation_option)
    check_creation_options(options)
    texts = [each for each in (instruction, *(text or [])) if each is not None]
    names = _names(texts, point, box, prompt_file, layer)
    if output is None and vector is None and picture is None and probability is None:
        suffixes = (".tif", ".gpkg", *((".qml",) if style else ()))
        stem = unused_stem(scene, "_".join(names), () if overwrite else suffixes)
        output, vector = stem.with_name(f"{stem.name}.tif"), stem.with_name(f"{stem.name}.gpkg")
    given = {
        "mask": output, "vector": vector, "picture": picture, "evidence": evidence, "probability": probability,
        "stac": stac,
    }  # fmt: skip
    if style and output is None and vector is None:
        raise typer.BadParameter("--style is of -o and --vector. Give one of them.")
    for option, number in (("--min-area", min_area), ("--fill-holes", fill_holes), ("--simplify", simplify)):
        if number is not None and not math.isfinite(number):
            raise typer.BadParameter(f"{option} takes a finite number. Received: {number}")
    if layer is not None and vector is None:
        raise typer.BadParameter("--layer names the layer of --vector. Give that too.")
    targets = [_own_targets(given, name if len(names) > 1 else "", style=style) for name in names]
    _check_targets(targets, overwrite, layer)
    if not quiet and not as_json:
        _offer_leftovers(targets)
    if bbox_crs is not None and bbox is None:
        raise typer.BadParameter("--bbox-crs says what --bbox is in. Give --bbox too.")
    with open_scene(
        scene, _bands(bands), bbox=None if bbox is None else _box(bbox, "--bbox"), bbox_crs=bbox_crs,
        nodata=nodata_option(nodata), allow_remote=allow_remote, warp=warp,
        dem=dem_option(dem),
    ) as opened:  # fmt: skip
        _spare_inputs(targets, (*opened.files, prompt_file, weights))
        for option, area, hint in (
            ("--min-area", min_area, "Use --min-pixels instead."), ("--fill-holes", fill_holes, "Leave it out."),
        ):  # fmt: skip
            if area and opened.ground is None:
                raise ConfigError(f"{option} is in square metres, but {NO_GROUND}.", received=area, hint=hint)
        if vector is not None and vector.suffix.lower() in (".geojson", ".json"):
            check_place(opened.crs)
        prompts = [
            _prompt(each, point or [], box or [], prompt_file, prompt_layer, prompt_crs, task, opened)
            for each in (texts or (None,))
        ]
        left_out: tuple[str, ...] = ()
        if prompt_file is not None:
            prompts[0], left_out = opened.inside(prompts[0])
        for prompt, own in zip(prompts, targets, strict=True):
            if (path := own["vector"]) is not None and layer is None:
                check_target(path, overwrite, kind="vector", layer=layer_name(prompt.describe()))
            opened.to_pixels(prompt)  # what does not fit the scene is said before a model is loaded
        more = engine_options if weights is None else {"weights": weights, **engine_options}
        known = engine_option_names(engine)
        if "device" in known or device != "cpu":
            more = {"device": usable_device(device), **more}
        if "refine" in known and not refine:
            more["refine"] = False
        loaded = load_engine(engine, **more)
        session = Session(loaded, opened, stretch=stretch.value, batch=batch, cache_bytes=0)
        with progress("segmenting", quiet=quiet or as_json) as report:
            results = session.segment_all(
                prompts, flow=flow.value, threshold=threshold, refine=refine, selector="auto" if selector else None,
                progress=report, min_area_m2=min_area, min_pixels=min_pixels, fill_holes_m2=fill_holes,
                simplify=simplify,
            )  # fmt: skip
        if left_out:
            remarks = (*left_out, *results[0].remarks)
            provenance = {**results[0].provenance, "remarks": list(remarks)}
            results[0] = replace(results[0], remarks=remarks, provenance=provenance)
        with ExitStack() as stack:
            for result in results:
                stack.enter_context(result)
            if evidence is not None:
                for result, own in zip(results, targets, strict=True):
                    if (path := own["evidence"]) is not None:
                        write_evidence(result, path, session.look_at, overwrite=overwrite)
            _save(results, targets, overwrite, options, layer, style=style)
            seconds = time.monotonic() - started
            summaries = [_summary(result, own, seconds) for result, own in zip(results, targets, strict=True)]
    _place(summaries, targets, results)
    if as_json:
        typer.echo(
            to_json(summaries[0] if len(summaries) == 1 else {"results": summaries, "seconds": round(seconds, 3)})
        )
    for result, summary in zip(results, summaries, strict=True):
        if not quiet and not as_json:
            _print(result, summary, f"{summary['provenance']['instruction']}: " if len(results) > 1 else "")
    if failed := [result for result in results if result.status is Status.FAILED]:
        raise EngineError(f"No mask was made. {failed[0].reason}")
    raise typer.Exit(0 if any(result.status is Status.FOUND for result in results) else 3)


def _print(result: Result, summary: dict[str, Any], start: str) -> None:
    """Remarks and one line on what was found, to stderr."""
    for remark in summary["remarks"]:
        typer.echo(f"Note: {start}{remark}", err=True)
    if result.status == "failed":
        return
    ground = "" if summary["area_m2"] is None else f", {summary['area_m2']:,.1f} m2"
    count = summary["objects"]
    reason = f" ({result.reason})" if result.reason else ""
    what = f"{count:,} object{'' if count == 1 else 's'}{ground}" if count else f"no target found{reason}"
    typer.echo(f"{start}{what} in {summary['seconds']:.1f} s: {', '.join(summary['files'].values())}", err=True)


def _names(
    texts: list[str], points: list[str] | None, boxes: list[str] | None, file: Path | None, layer: str | None
) -> list[str]:
    """What each instruction is called in names of files."""
    from terraprompt.outputs.default_names import instruction_slug
    from terraprompt.outputs.formats.geopackage import layer_name

    if len(texts) < 2:
        kinds = [kind for kind, given in (("points", points), ("boxes", boxes)) if given]
        spatial = "_".join(kinds) if file is None else layer_name(file.stem)
        return [instruction_slug(texts[0]) if texts else spatial]
    if points or boxes or file is not None:
        raise typer.BadParameter("Several instructions go without points and boxes. Ask for those in another run.")
    if layer is not None:
        raise typer.BadParameter("--layer names one layer; of several instructions each has its own. Leave it out.")
    names, seen = [instruction_slug(each) for each in texts], dict[str, str]()
    for name, each in zip(names, texts, strict=True):
        for key in {name, layer_name(each)}:
            if key in seen:
                raise typer.BadParameter(f"Two instructions would have one name. Received: {seen[key]}; {each}")
        seen |= {name: each, layer_name(each): each}
    return names


def _own_targets(given: dict[str, Path | None], name: str, *, style: bool) -> dict[str, Path | None]:
    """Files of one instruction: .tif and .gpkg are shared by all, others get its name, "" for a single one."""
    own = {
        kind: path if path is None or not name or _is_shared(kind, path) else path.with_name(
            f"{path.stem}_{name}{path.suffix}"
        )
        for kind, path in given.items()
    }  # fmt: skip
    if style:
        if (mask := own["mask"]) is not None:
            own["mask_style"] = mask.with_suffix(".qml")
        if (vector := own["vector"]) is not None and vector.suffix.lower() != ".gpkg":
            own["vector_style"] = vector.with_suffix(".qml")
    return own


def _is_shared(kind: str, path: Path) -> bool:
    """Whether one file holds the answers to several instructions."""
    suffix = path.suffix.lower()
    return suffix in (".tif", ".tiff") if kind in ("mask", "probability") else kind == "vector" and suffix == ".gpkg"


def _place(summaries: list[dict[str, Any]], targets: list[dict[str, Path | None]], results: list[Result]) -> None:
    """Say in which band and which layer of shared files the answer to each of several instructions is."""
    from terraprompt.outputs.formats.geopackage import layer_name

    bands = 0
    for summary, own, result in zip(summaries, targets, results, strict=True):
        if len(summaries) == 1 or result.status == "failed":
            continue
        bands += 1
        shared = {kind for kind, path in own.items() if path is not None and _is_shared(kind, path)}
        if shared & {"mask", "probability"}:
            summary["band"] = bands
        if "vector" in shared:
            summary["layer"] = layer_name(summary["provenance"]["instruction"])


def _check_targets(targets: list[dict[str, Path | None]], overwrite: bool, layer: str | None) -> None:
    """Everything that would stop a file from being written, before any work."""
    from terraprompt.io.files import JSON_SUFFIXES, check_writable
    from terraprompt.outputs import check_target
    from terraprompt.outputs.formats.geopackage import check_layer_name
    from terraprompt.outputs.formats.picture import SUFFIXES as PICTURE_SUFFIXES

    kinds: dict[str, Any] = {"probability": "mask"}
    seen: dict[str, str] = {}
    for name, path in dict.fromkeys((name, path) for own in targets for name, path in own.items()):
        if path is None:
            continue
        if name == "stac":
            check_writable(path, overwrite, kind="json", suffixes=JSON_SUFFIXES)
        elif name.endswith("_style"):
            check_writable(path, overwrite, kind="style")
        elif name == "evidence":
            check_writable(path, overwrite, kind="picture", suffixes=PICTURE_SUFFIXES)
        else:
            named = check_layer_name(layer) if layer is not None and name == "vector" else ""
            check_target(path, overwrite, kind=kinds.get(name, name), layer=named, named=bool(named))
        if other := seen.get(real := os.path.realpath(path)):
            other, name = other.replace("_", " "), name.replace("_", " ")
            raise typer.BadParameter(f"The {other} and the {name} would go to one file. Received: {path}")
        seen[real] = name
    if (path := targets[0]["probability"]) is not None and path.suffix.lower() == ".png":
        raise OutputError("A PNG cannot hold probabilities.", received=path, hint="Use .tif.")


def _offer_leftovers(targets: list[dict[str, Path | None]]) -> None:
    """Name what killed runs left where this one works and writes, and how to remove it."""
    from terraprompt.io.leftovers import leftovers

    paths = [path for own in targets for path in own.values() if path is not None]
    folders = dict.fromkeys(Path(os.path.realpath(path)).parent for path in paths)
    work = Path(tempfile.gettempdir())
    found = {folder: left for folder in (work, *folders) if (left := leftovers(folder))}
    if found:
        lines = [left for lefts in found.values() for left in lefts]
        size, more = sum(left.size for left in lines) / 1e6, "" if len(lines) == 1 else f" and {len(lines) - 1} more"
        where = shlex.join(str(folder) for folder in found if folder != work)
        typer.echo(
            f"Note: runs that were killed left {lines[0].path}{more} ({size:,.1f} MB). Remove with: "
            f"{' '.join(filter(None, ('terraprompt clean --remove', where)))}",
            err=True,
        )


def _spare_inputs(targets: list[dict[str, Path | None]], inputs: Iterable[Path | None]) -> None:
    """--overwrite replaces earlier outputs, never what this run reads."""
    for path in (path for own in targets for path in own.values()):
        for source in inputs:
            if path and source and path.exists() and source.exists() and path.samefile(source):
                raise OutputError(
                    "The output is also an input.",
                    received=path,
                    hint="Choose another name; inputs are never replaced.",
                )


def _prompt(
    text: str | None,
    points: list[str],
    boxes: list[str],
    file: Path | None,
    layer: str | None,
    crs: str | None,
    task: Task | None,
    scene: Scene,
) -> Prompt:
    from terraprompt.io.prompt_file import read_prompt_file

    if text is None and not points and not boxes and file is None:
        raise typer.BadParameter("Say what to find: an INSTRUCTION, --point, --box or --prompt-file.")
    if layer is not None and file is None:
        raise typer.BadParameter("--prompt-layer names a layer of --prompt-file. Give that too.")
    if file is not None:
        if points or boxes:
            raise typer.BadParameter("Give --prompt-file, or --point and --box, not both.")
        prompt = read_prompt_file(file, text=text, crs=_crs(crs, scene), layer=layer)
    else:
        if crs is not None and not points and not boxes:
            raise typer.BadParameter("--prompt-crs says what --point and --box are in. Give one of them.")
        spots = [numbers(p, (2, 3), "--point") for p in points]
        for text_form, spot in zip(points, spots, strict=True):
            if spot[2:] not in ([], [0], [1]):
                raise typer.BadParameter(f"The label of --point is 1 (on the target) or 0. Received: {text_form}")
        named = _crs(crs, scene)
        prompt = Prompt(
            text,
            tuple((s[0], s[1]) for s in spots),
            tuple(int(s[2]) if len(s) == 3 else 1 for s in spots),
            tuple(_box(b, "--box") for b in boxes),
            None if named == "pixel" else named,
        )
    return prompt if task is None else replace(prompt, task_override=task)


def _crs(name: str | None, scene: Scene) -> str | None:
    if name != "scene":
        return name
    if scene.crs is None:
        raise PromptError("The scene has no CRS.", received=scene.source, hint="Use pixel coordinates.")
    return str(scene.crs.to_string())


def _box(text: str, option: str) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = numbers(text, (4,), option)
    return x0, y0, x1, y1


def _bands(text: str | None) -> list[int | str] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise typer.BadParameter(f"--bands takes one or three indexes or names with commas between. Received: {text!r}")
    return [int(part) if part.isdigit() else part for part in parts]


def _creation_options(pairs: list[str] | None) -> dict[str, str]:
    options = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"--co takes KEY=VALUE. Received: {pair}")
        options[key.upper()] = value
    return options


def _save(
    results: list[Result],
    targets: list[dict[str, Path | None]],
    overwrite: bool,
    options: dict[str, str],
    layer: str | None,
    *,
    style: bool,
) -> None:
    """Write the files of all results but the failed ones; the first of them writes what is shared."""
    from terraprompt.outputs import save_stac

    done = [(result, own) for result, own in zip(results, targets, strict=True) if result.status != "failed"]
    for number, (result, own) in enumerate(done):
        for kind in ("mask", "probability"):
            if (path := own[kind]) is not None and not (number and _is_shared(kind, path)):
                others = [other for other, _ in done[1:]] if _is_shared(kind, path) else []
                result.save_mask(
                    path, probability=kind == "probability", overwrite=overwrite, creation_options=options or None,
                    style=style, others=others,
                )  # fmt: skip
        if (path := own["vector"]) is not None:
            result.save_vector(path, overwrite=overwrite, layer=layer, style=style)
        if (path := own["picture"]) is not None:
            result.save_picture(path, overwrite=overwrite)
        if (path := own["stac"]) is not None:
            rest = ("stac", "evidence", "mask_style", "vector_style")
            save_stac(result, path, {k: v for k, v in own.items() if v and k not in rest}, overwrite=overwrite)


def _summary(result: Result, targets: dict[str, Path | None], seconds: float) -> dict[str, Any]:
    files = {} if result.status == "failed" else {kind: str(path) for kind, path in targets.items() if path}
    areas = [o.area_m2 for o in result.objects]
    known = [a for a in areas if a is not None]
    return {
        "status": result.status.value,
        "reason": result.reason,
        "remarks": list(result.remarks),
        "understood": result.provenance.get("understood"),
        "unknown_words": result.provenance.get("unknown_words", []),
        "objects": len(result.objects),
        "area_m2": round(sum(known), 3) if len(known) == len(areas) and known else None,
        "files": files,
        "seconds": round(seconds, 3),
        "notes": dict(result.notes),
        "provenance": dict(result.provenance),
    }
