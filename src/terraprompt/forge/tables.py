"""Tables of sources: how a data set lies on disk and what its codes mean. One TOML file a source, no code.

A layout is a path with named parts, ``{split}/images/{stem}.png``: every name takes a part of a path without a slash,
``{name**}`` also with slashes. The label's path is filled in with the parts of the image's path.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from terraprompt.errors import ConfigError
from terraprompt.forge.strict import Strict, faults
from terraprompt.io.text import decode_utf8
from terraprompt.language.categories import Vocabulary

__all__ = ["Layout", "SourceClass", "SourceTable", "load_table", "table_names", "table_path"]

Codec = Literal["index", "palette", "boxes", "polygons", "yolo", "pack"]
BoxFormat = Literal["dota", "voc", "fair1m"]
PolygonFormat = Literal["coco", "labelme", "vector"]
_TABLES = Path(__file__).with_name("sources")


class Layout(Strict):
    """Where images and labels are, relative to the folder of the source.

    Attributes:
        image: pattern of the images.
        label: pattern of the labels, with the parts of the image's pattern; of ``coco`` one file for all.
        bands: red, green and blue band of the image, from 1; empty = the first three, or the first thrice.
        group: names of parts that together say where on the ground an image lies; empty = each image for itself.
        threshold: of RGB labels that went through JPEG: channels at or above it count as 255, others as 0.
        boxes: format of box labels.
        polygons: format of polygon labels: "coco" (one JSON), "labelme" (one JSON an image) or "vector" (GeoJSON,
            GeoPackage or Shapefile).
        layer: of a vector file with several.
        attribute: field of a vector file with the class name.
    """

    image: str
    label: str = ""
    bands: tuple[int, ...] = ()
    group: tuple[str, ...] = ()
    threshold: int | None = Field(default=None, ge=1, le=255)
    boxes: BoxFormat | None = None
    polygons: PolygonFormat | None = None
    layer: str | None = None
    attribute: str = "class"


class SourceClass(Strict):
    """A class of a source.

    Attributes:
        label: its own word for it.
        code: value of an index raster, or number of a YOLO class.
        colour: of an RGB label.
        category: of the vocabulary.
        ignore: no category: no data, background, clouds.
    """

    label: str
    code: int | None = Field(default=None, ge=0, le=65535)
    colour: tuple[int, int, int] | None = None
    category: str | None = None
    ignore: bool = False

    @model_validator(mode="after")
    def _has_a_place(self) -> SourceClass:
        if (self.category is None) != self.ignore:
            raise ValueError(f"class {self.label!r} needs either a category or `ignore = true`")
        return self


class SourceTable(Strict):
    """One source.

    Attributes:
        name: of the file without suffix.
        title, url, licence: for the datasheet.
        gsd_m: metres a pixel, None if unknown or told by the rasters.
        codec: how labels are coded.
        confirmed: whether every line was checked against public facts; if not, a run says so.
        notes: what was not, and peculiarities.
        layout: where things are.
        splits: folder word -> "train", "val" or "test", for a part called ``{split}``.
        classes: all codes that may occur.
    """

    name: str
    title: str
    url: str = ""
    licence: str
    gsd_m: float | None = Field(default=None, gt=0)
    codec: Codec
    confirmed: bool
    notes: tuple[str, ...] = ()
    layout: Layout
    splits: dict[str, Literal["train", "val", "test"]] = Field(default_factory=dict)
    classes: tuple[SourceClass, ...] = Field(alias="class", min_length=1)

    @model_validator(mode="after")
    def _fits_its_codec(self) -> SourceTable:
        keys: list[Any] = []
        for row in self.classes:
            key = {"index": row.code, "yolo": row.code, "palette": row.colour}.get(self.codec, row.label)
            if key is None:
                raise ValueError(f"class {row.label!r} needs a {'colour' if self.codec == 'palette' else 'code'}")
            keys.append(key)
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise ValueError(f"stated twice: {', '.join(twice)}")
        if self.codec == "boxes" and self.layout.boxes is None:
            raise ValueError("layout.boxes is missing: dota, voc or fair1m")
        if self.codec == "polygons" and self.layout.polygons is None:
            raise ValueError("layout.polygons is missing: coco, labelme or vector")
        if self.codec != "pack" and not self.layout.label:
            raise ValueError("layout.label is missing")
        return self

    def check(self, vocabulary: Vocabulary) -> None:
        """Every category has a place.

        Raises:
            ConfigError: one has none.
        """
        for row in self.classes:
            if row.category is not None:
                try:
                    vocabulary[row.category]
                except ConfigError as error:
                    raise ConfigError(
                        f"Source {self.name}, class {row.label!r}: {error.what}",
                        received=row.category,
                        hint=error.hint,
                    ) from None


def table_names() -> tuple[str, ...]:
    """Sources that come with the package, sorted."""
    return tuple(sorted(path.stem for path in _TABLES.glob("*.toml")))


def table_path(name: str, *, folder: Path | None = None) -> Path:
    """The file of a source's table; arguments and errors as of :func:`load_table`."""
    if name in table_names():
        return _TABLES / f"{name}.toml"
    if not name.endswith(".toml"):
        raise ConfigError(
            "There is no table of this source.",
            received=name,
            hint=f"Known: {', '.join(table_names())}; or give the path of a .toml file, which "
            "`terraprompt dataset forge inspect DIR` drafts.",
        )
    return (folder or Path()) / Path(name).expanduser()


def load_table(name: str, *, folder: Path | None = None) -> SourceTable:
    """The table of a source.

    Args:
        name: one of :func:`table_names`, or the path of a TOML file, relative to ``folder``.
        folder: of the recipe.

    Raises:
        ConfigError: no such table, or a broken one; the message names what is wrong with it.
    """
    path = table_path(name, folder=folder)
    try:
        return SourceTable.model_validate(
            {**tomllib.loads(decode_utf8(path.read_bytes(), path, ConfigError)), "name": path.stem}
        )
    except FileNotFoundError:
        raise ConfigError("The table of a source is missing.", received=path) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The table of a source is not TOML: {error}.", received=path) from None
    except ValidationError as error:
        raise ConfigError(f"The table of a source is broken: {faults(error)}.", received=path) from None
    except OSError as error:
        raise ConfigError(f"The table of a source cannot be read: {error}.", received=path) from None
