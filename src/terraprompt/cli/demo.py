"""``terraprompt demo``: render a scene and ask it for things, in a minute and offline."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from terraprompt.errors import ConfigError, OutputError
from terraprompt.prompt import Prompt

__all__ = ["register"]

_ENDINGS = (".tif", ".gpkg", ".png")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of an earlier demo.")] = False,
) -> None:
    """Render a georeferenced scene and segment it with a text, a reasoning text, a point and a box.

    The scene is drawn by a program, so its truth is known and the IoU is printed beside each answer.
    """
    from terraprompt.engines.registry import load_engine
    from terraprompt.evaluation.metrics import Overlap
    from terraprompt.flow.session import Session
    from terraprompt.outputs import Status
    from terraprompt.raster import open_scene

    try:
        from terraprompt_synthetic import demo_scene
    except ImportError as error:
        raise ConfigError(
            "The demo draws its scene with the package terraprompt-synthetic, which is not installed.",
            hint='Install it: pip install "terraprompt[synthetic]", or pip install ./synthetic in a clone.',
        ) from error
    names = ("text", "reasoning", "solar", "point", "box")
    path = _prepare(folder, [f"{name}{end}" for name in names for end in _ENDINGS], overwrite)
    typer.echo("Drawing a small town ...", err=True)
    town = demo_scene(path, overwrite=overwrite)
    height, width = town.shape
    typer.echo(
        f"\n{path}: {width * town.gsd_m:.0f} x {height * town.gsd_m:.0f} m at {town.gsd_m} m a pixel, {town.crs}\n"
    )
    house = town.example("building")
    roof = town.labels("building") == house.index + 1
    asks = (
        ("", Prompt("the lake"), town.mask("lake")),
        ("", Prompt("where a truck could drive"), town.mask("road")),
        ("", Prompt("where photovoltaic power is made"), town.mask("solar_panel")),
        ("a point on a roof", Prompt(points=(house.point,), crs=str(house.crs)), roof),
        ("a box round the same house", Prompt(boxes=(house.box,), crs=str(house.crs)), roof),
    )
    typer.echo(f"{'asked for':<35}{'found':>15}{'IoU':>7}   files")
    with open_scene(path) as scene:
        session = Session(load_engine("nano"), scene)
        for name, (said, prompt, truth) in zip(names, asks, strict=True):
            with session.segment(prompt) as result:
                result.save_mask(folder / f"{name}.tif", overwrite=overwrite)
                result.save_vector(folder / f"{name}.gpkg", overwrite=overwrite)
                result.save_picture(folder / f"{name}.png", overwrite=overwrite)
                count = len(result.objects)
                found = f"{count} object{'' if count == 1 else 's'}" if result.status is Status.FOUND else "nothing"
                iou = Overlap.of(result.mask() == 1, truth).iou
            asked = said or f'"{prompt.text}"'
            typer.echo(f"{asked:<35}{found:>15}{iou:>7.2f}   {name}.tif .gpkg .png")
    typer.echo(
        f"\nLook at {folder / 'text.png'}, or load {path} and {folder / 'text.gpkg'} into a GIS.\n"
        "IoU is the overlap with the truth, 1.00 at best. Ask for something yourself:\n\n"
        f'  {_command()} segment {path} "the roads" -o roads.tif --vector roads.gpkg --picture roads.png'
    )


def _command() -> str:
    """How the reader can call this program: by name if that finds it, else as it was called now."""
    return "terraprompt" if shutil.which("terraprompt") else sys.argv[0]


def _prepare(folder: Path, names: list[str], overwrite: bool) -> Path:
    """The folder, and the path of the scene in it; refused before any work if a file may not be replaced."""
    from terraprompt.outputs import check_target

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder cannot be created ({error.strerror}).", received=folder, hint="Choose another name."
        ) from error
    for name in ("scene.tif", *names):
        check_target(folder / name, overwrite)
    return folder / "scene.tif"
