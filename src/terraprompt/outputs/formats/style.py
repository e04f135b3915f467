"""Styles for QGIS (QML): the mask over its scene, polygons as outlines with a faint fill."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

from terraprompt.errors import OutputError

__all__ = ["FILL", "LINE", "embed_style", "mask_qml", "style_path", "vector_qml"]

#: RGB of masks, and of the outline round them.
FILL, LINE = (255, 64, 129), (160, 0, 70)
_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_NAME = "terraprompt"
#: As QGIS makes it in a GeoPackage.
_TABLE = """CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"""
_CONTENTS = """INSERT INTO gpkg_contents (table_name, data_type, identifier, description, srs_id)
    VALUES ('layer_styles', 'attributes', 'layer_styles', '', 0)"""


def style_path(path: Path) -> Path:
    """Where QGIS looks for the style of a file: beside it, extension ``.qml``."""
    return path.with_suffix(".qml")


def mask_qml(label: str) -> str:
    """Style of a mask: target in colour, the rest transparent.

    Args:
        label: of the target, in the legend.
    """
    root = ElementTree.Element("qgis", version="3.16", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for value, alpha, name in ((0, 0, "not"), (1, 160, label)):
        colour = "#{:02x}{:02x}{:02x}".format(*(FILL if value else (0, 0, 0)))
        ElementTree.SubElement(palette, "paletteEntry", value=str(value), color=colour, alpha=str(alpha), label=name)
    ElementTree.SubElement(root, "blendMode").text = "0"
    return _text(root)


def vector_qml() -> str:
    """Style of polygons: an outline, and a fill of 25 %."""
    root = ElementTree.Element("qgis", version="3.16", styleCategories="Symbology")
    renderer = ElementTree.SubElement(root, "renderer-v2", type="singleSymbol", symbollevels="0", forceraster="0")
    symbols = ElementTree.SubElement(renderer, "symbols")
    symbol = ElementTree.SubElement(symbols, "symbol", type="fill", name="0", alpha="1", clip_to_extent="1")
    layer = ElementTree.SubElement(symbol, "layer", {"class": "SimpleFill", "pass": "0", "enabled": "1", "locked": "0"})
    properties: Mapping[str, str] = {
        "color": ",".join(map(str, (*FILL, 64))),
        "style": "solid",
        "outline_color": ",".join(map(str, (*LINE, 255))),
        "outline_style": "solid",
        "outline_width": "0.4",
        "outline_width_unit": "MM",
        "joinstyle": "bevel",
    }
    options = ElementTree.SubElement(layer, "Option", type="Map")  # of QGIS 3.26 and later
    for key, value in properties.items():
        ElementTree.SubElement(options, "Option", name=key, type="QString", value=value)
    for key, value in properties.items():
        ElementTree.SubElement(layer, "prop", k=key, v=value)
    return _text(root)


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root, " ")
    return _HEAD + ElementTree.tostring(root, encoding="unicode") + "\n"


def embed_style(path: Path, layer: str, qml: str) -> None:
    """Put the style of a layer into its GeoPackage, in the table where QGIS looks for it; styles of others stay.

    It becomes the default of the layer unless the layer has one.

    Raises:
        OutputError: ``layer_styles`` is something else than QGIS makes.
    """
    with closing(sqlite3.connect(path)) as database, database:
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'layer_styles'").fetchone() is None:
            database.execute(_TABLE)
            database.execute(_CONTENTS)
        found = {row[1] for row in database.execute("PRAGMA table_info(layer_styles)")}
        if not {"f_table_name", "f_geometry_column", "styleName", "styleQML", "useAsDefault"} <= found:
            raise OutputError("The table layer_styles is not one of QGIS.", received=path, hint="Leave out the style.")
        geometry = database.execute(
            "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
        ).fetchone()[0]
        database.execute("DELETE FROM layer_styles WHERE f_table_name = ? AND styleName = ?", (layer, _NAME))
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
            "styleQML, styleSLD, useAsDefault, description, owner) SELECT '', '', ?1, ?2, ?3, ?4, '', "
            "NOT EXISTS (SELECT 1 FROM layer_styles WHERE f_table_name = ?1 AND useAsDefault), '', ''",
            (layer, geometry, _NAME, qml),
        )
