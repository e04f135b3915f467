"""``terraprompt demo``: render a scene and ask it for things, in a minute and offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terraprompt.engines.registry import load_engine
from terraprompt.evaluation.metrics import Overlap
from terraprompt.outputs import check_target
from terraprompt.pipeline import Session
from terraprompt.prompt import Prompt
from terraprompt.scene import open_scene
from terraprompt.scene.rendered import demo_scene

__all__ = ["register"]


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
    folder.mkdir(parents=True, exist_ok=True)
    path = check_target(folder / "scene.tif", overwrite, kind="mask")
    rendered = demo_scene(path, overwrite=overwrite)
    house = rendered.example("building")
    crs = str(house.crs)
    asks = {
        "text": (Prompt("the buildings"), rendered.mask("building")),
        "reasoning": (Prompt("where photovoltaic power is made"), rendered.mask("solar_panel")),
        "largest": (Prompt("the largest lake"), rendered.mask("lake")),
        "point": (Prompt(points=(house.point,), crs=crs), rendered.labels("building") == house.index + 1),
        "box": (Prompt(boxes=(house.box,), crs=crs), rendered.labels("building") == house.index + 1),
    }
    targets = {(name, end): folder / f"{name}{end}" for name in asks for end in (".tif", ".gpkg", ".png")}
    for target in targets.values():
        check_target(target, overwrite)
    typer.echo(f"{path}: {rendered.shape[1]} x {rendered.shape[0]} px at {rendered.gsd_m} m", err=True)
    with open_scene(path) as scene:
        session = Session(load_engine("nano"), scene)
        for name, (prompt, truth) in asks.items():
            with session.segment(prompt) as result:
                result.save_mask(targets[name, ".tif"], overwrite=overwrite)
                result.save_vector(targets[name, ".gpkg"], overwrite=overwrite)
                result.save_picture(targets[name, ".png"], scene_rgb=session.preview, overwrite=overwrite)
                iou = Overlap.of(result.mask() == 1, truth).iou
                said = prompt.text or f"a {name} on a building"
                typer.echo(
                    f"{name:<10} {said:<34} {result.status.value:<10} {len(result.objects):>4} objects   IoU {iou:.2f}",
                    err=True,
                )
    typer.echo(f"Open {folder}/text.png, or load {folder}/scene.tif and {folder}/text.gpkg into a GIS.", err=True)
