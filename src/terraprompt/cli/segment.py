"""``terraprompt segment``: scene and prompt to mask, polygons and picture."""

from __future__ import annotations

import functools
import math
import os
import shlex
import tempfile
import time
from collections.abc import Iterable
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

    Without any output option, <scene>_mask.tif and <scene>_objects.gpkg are written to the current folder.
    """
    from terraprompt.engines.registry import engine_option_names, load_engine
    from terraprompt.flow.session import Session
    from terraprompt.outputs import Status, check_target
    from terraprompt.outputs.evidence import write_evidence
    from terraprompt.outputs.formats.geopackage import layer_name
    from terraprompt.outputs.formats.lonlat import check_place
    from terraprompt.outputs.formats.raster import check_creation_options
    from terraprompt.raster import open_scene
    from terraprompt.raster.pixel_area import NO_GROUND

    started = time.monotonic()
    options = _creation_options(creation_option)
    check_creation_options(options)
    if output is None and vector is None and picture is None and probability is None:
        stem = Path(scene).stem
        output, vector = Path(f"{stem}_mask.tif"), Path(f"{stem}_objects.gpkg")
    targets = {
        "mask": output, "vector": vector, "picture": picture, "evidence": evidence, "probability": probability,
        "stac": stac,
    }  # fmt: skip
    if style:
        if output is None and vector is None:
            raise typer.BadParameter("--style is of -o and --vector. Give one of them.")
        targets["mask_style"] = None if output is None else output.with_suffix(".qml")
        if vector is not None and vector.suffix.lower() != ".gpkg":
            targets["vector_style"] = vector.with_suffix(".qml")
    for option, number in (("--min-area", min_area), ("--fill-holes", fill_holes), ("--simplify", simplify)):
        if number is not None and not math.isfinite(number):
            raise typer.BadParameter(f"{option} takes a finite number. Received: {number}")
    if layer is not None and vector is None:
        raise typer.BadParameter("--layer names the layer of --vector. Give that too.")
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
        prompt = _prompt(instruction, point or [], box or [], prompt_file, prompt_layer, prompt_crs, task, opened)
        left_out: tuple[str, ...] = ()
        if prompt_file is not None:
            prompt, left_out = opened.inside(prompt)
        if vector is not None and layer is None:
            check_target(vector, overwrite, kind="vector", layer=layer_name(prompt.describe()))
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
            result = session.segment(
                prompt, flow=flow.value, threshold=threshold, refine=refine, selector="auto" if selector else None,
                progress=report, min_area_m2=min_area, min_pixels=min_pixels, fill_holes_m2=fill_holes,
                simplify=simplify,
            )  # fmt: skip
        if left_out:
            remarks = (*left_out, *result.remarks)
            result = replace(result, remarks=remarks, provenance={**result.provenance, "remarks": list(remarks)})
        with result:
            failed = result.status is Status.FAILED
            if evidence is not None:
                write_evidence(result, evidence, session.look_at, overwrite=overwrite)
            if not failed:
                _save(result, targets, overwrite, options, layer, style=style)
            files = {} if failed else {k: str(v) for k, v in targets.items() if v}
            summary = _summary(result, files, time.monotonic() - started)
    if as_json:
        typer.echo(to_json(summary))
    if not quiet and not as_json:
        for remark in summary["remarks"]:
            typer.echo(f"Note: {remark}", err=True)
    if failed:
        raise EngineError(f"No mask was made. {result.reason}")
    if not quiet and not as_json:
        ground = "" if summary["area_m2"] is None else f", {summary['area_m2']:,.1f} m2"
        count = summary["objects"]
        reason = f" ({result.reason})" if result.reason else ""
        what = f"{count:,} object{'' if count == 1 else 's'}{ground}" if count else f"no target found{reason}"
        typer.echo(f"{what} in {summary['seconds']:.1f} s: {', '.join(summary['files'].values())}", err=True)
    raise typer.Exit(0 if result.status is Status.FOUND else 3)


def _check_targets(targets: dict[str, Path | None], overwrite: bool, layer: str | None) -> None:
    """Everything that would stop a file from being written, before any work."""
    from terraprompt.io.files import JSON_SUFFIXES, check_writable
    from terraprompt.outputs import check_target
    from terraprompt.outputs.formats.geopackage import check_layer_name
    from terraprompt.outputs.formats.picture import SUFFIXES as PICTURE_SUFFIXES

    kinds: dict[str, Any] = {"probability": "mask"}
    seen: dict[str, str] = {}
    for name, path in targets.items():
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
    if (path := targets["probability"]) is not None and path.suffix.lower() == ".png":
        raise OutputError("A PNG cannot hold probabilities.", received=path, hint="Use .tif.")


def _offer_leftovers(targets: dict[str, Path | None]) -> None:
    """Name what killed runs left where this one works and writes, and how to remove it."""
    from terraprompt.io.leftovers import leftovers

    folders = dict.fromkeys(Path(os.path.realpath(path)).parent for path in targets.values() if path is not None)
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


def _spare_inputs(targets: dict[str, Path | None], inputs: Iterable[Path | None]) -> None:
    """--overwrite replaces earlier outputs, never what this run reads."""
    for path in targets.values():
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
    result: Result,
    targets: dict[str, Path | None],
    overwrite: bool,
    options: dict[str, str],
    layer: str | None,
    *,
    style: bool,
) -> None:
    from terraprompt.outputs import save_stac

    if (path := targets["mask"]) is not None:
        result.save_mask(path, overwrite=overwrite, creation_options=options or None, style=style)
    if (path := targets["probability"]) is not None:
        result.save_mask(path, probability=True, overwrite=overwrite, creation_options=options or None)
    if (path := targets["vector"]) is not None:
        result.save_vector(path, overwrite=overwrite, layer=layer, style=style)
    if (path := targets["picture"]) is not None:
        result.save_picture(path, overwrite=overwrite)
    if (path := targets["stac"]) is not None:
        others = ("stac", "evidence", "mask_style", "vector_style")
        save_stac(result, path, {k: v for k, v in targets.items() if v and k not in others}, overwrite=overwrite)


def _summary(result: Result, files: dict[str, str], seconds: float) -> dict[str, Any]:
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
