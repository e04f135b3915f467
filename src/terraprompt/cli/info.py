"""``terraprompt info``: what a raster is, before it is asked about."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from terraprompt.cli.common import as_json as to_json
from terraprompt.cli.common import dem_option, nodata_option

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(info)


def info(
    scene: Annotated[str, typer.Argument(help="Raster that GDAL reads.")],
    nodata: Annotated[str | None, typer.Option(help='Value without data, or "none".')] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="A VRT may name hosts and other folders.")
    ] = False,
    dem: Annotated[
        str | None, typer.Option(help="Ground heights of a scene placed by RPCs: a raster, or one in metres.")
    ] = None,
    warp: Annotated[bool, typer.Option(help="Warp a scene that RPCs or control points place; no: in pixels.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print size, bands, CRS, pixel size and the stretch that segmenting SCENE would use."""
    from terraprompt.raster import estimate_stretch, open_scene

    with open_scene(
        scene, nodata=nodata_option(nodata), allow_remote=allow_remote, warp=warp, dem=dem_option(dem)
    ) as opened:
        stretch = estimate_stretch(opened, "auto")
        facts: dict[str, Any] = {
            "source": opened.source,
            "width": opened.width,
            "height": opened.height,
            "dtype": str(opened.dtype),
            "bands_used": list(opened.bands),
            "crs": opened.crs.to_string() if opened.crs else None,
            "gsd_m": None if opened.gsd_m is None else round(opened.gsd_m, 4),
            "extent": list(opened.extent(opened.crs.to_string() if opened.crs else None)),
            "nodata": opened.nodata,
            "overviews": opened.has_overviews,
            "remarks": opened.remarks,
            "stretch": {"mode": stretch.mode, "low": list(stretch.low), "high": list(stretch.high)},
        }
    if as_json:
        typer.echo(to_json(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<10} {value}")
