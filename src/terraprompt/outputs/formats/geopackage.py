"""A GeoPackage that is there already: one more layer in one transaction, everything else of the user's stays."""

from __future__ import annotations

import functools
import os
import re
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from terraprompt.errors import ConfigError, OutputError
from terraprompt.io.files import is_database, translated
from terraprompt.outputs.formats.vector import FIELDS

__all__ = ["GeoPackage", "check_layer_name", "layer_name"]

_RESERVED = ("gpkg_", "rtree_", "sqlite_")
_LONGEST, _SLUG = 200, 60
#: Attributes that layers of earlier versions do not have.
_NEW_FIELDS = {"category", "prompt_id"}
_PATIENCE = 5.0  # seconds for another program to end its writing
#: Tables that say something of a layer, by the column that names it.
_REGISTERS = {
    "gpkg_ogr_contents": "table_name",
    "gpkg_geometry_columns": "table_name",
    "gpkg_extensions": "table_name",
    "gpkg_data_columns": "table_name",
    "gpkg_metadata_reference": "table_name",
    "gpkg_contents": "table_name",
}


def layer_name(instruction: str) -> str:
    """Name a layer after an instruction: its letters and digits, of coordinates the kind alone; at most 60 characters.

    Args:
        instruction: as the provenance has it (:meth:`terraprompt.prompt.Prompt.describe`).
    """
    words = re.sub(r"\b(points|boxes) -?\d.*", r"\1", instruction, flags=re.DOTALL)
    slug = re.sub(r"\W+", "_", words.encode("utf-8", "ignore").decode()).strip("_")[:_SLUG].strip("_").lower()
    return f"layer_{slug}" if slug.startswith(_RESERVED) else slug or "objects"


def check_layer_name(name: str) -> str:
    """The name of a layer, if every reader can take it.

    Raises:
        ConfigError: empty, too long, with characters that cannot be printed, or kept for GeoPackage's own tables.
    """
    if not name.strip() or len(name) > _LONGEST or not name.isprintable() or name.lower().startswith(_RESERVED):
        raise ConfigError(
            "A layer cannot have this name.",
            received=f"{name[:_LONGEST]!r}",
            hint=f"Take one of 1 to {_LONGEST} printable characters that does not begin with {', '.join(_RESERVED)}.",
        )
    return name


@dataclass(frozen=True, slots=True)
class GeoPackage:
    """A GeoPackage on disk.

    Attributes:
        path: of the file, links resolved.
    """

    path: Path

    @classmethod
    def find(cls, path: str | Path) -> Self | None:
        """The GeoPackage at a path; None if there is no file, or one that is no SQLite database.

        Raises:
            OutputError: a damaged database, or one that is no GeoPackage; such are never replaced.
        """
        path = Path(os.path.realpath(path))
        if not is_database(path):
            return None
        found = cls(path)
        with found._open("ro") as database:
            if not _has(database, "main", "gpkg_contents"):
                raise OutputError(
                    "The output is a database, but no GeoPackage; databases are never replaced.",
                    received=path,
                    hint="Choose another name.",
                )
        return found

    def check(self, layer: str, *, overwrite: bool, named: bool) -> None:
        """Make sure that a layer can be added, or replaced.

        Args:
            layer: its name.
            overwrite: whether a layer of this name may be replaced.
            named: whether the user named the layer.

        Raises:
            OutputError: the layer is there and must stay, the name is that of something else, or the file is read-only.
        """
        with self._open("ro") as database:
            there = database.execute("SELECT name FROM sqlite_master WHERE lower(name) = lower(?)", (layer,)).fetchone()
            kind = database.execute(
                "SELECT data_type FROM gpkg_contents WHERE lower(table_name) = lower(?)", (layer,)
            ).fetchone()
            geometry = _geometry_column(database, "main", layer)
            columns = [row[1] for row in database.execute(f"PRAGMA main.table_info({_name(layer)})")]
        what = f"{self.path}, layer {layer}"
        if there and (kind != ("features",) or geometry is None):
            raise OutputError(
                "The GeoPackage holds something else of this name.", received=what, hint="Name another with --layer."
            )
        if there and not overwrite:
            raise OutputError(
                "The layer is already there.",
                received=what,
                hint="Replace that layer alone with --overwrite, or name another with --layer.",
            )
        if there and not named and not set(FIELDS) - _NEW_FIELDS <= set(columns):
            raise OutputError(
                "The layer of this name was not made by terraprompt.",
                received=what,
                hint="Name another with --layer; to replace this one, name it.",
            )
        if not os.access(self.path, os.W_OK):
            raise OutputError("The GeoPackage is read-only.", received=self.path, hint="Choose another file.")

    def add(self, written: Path, layer: str) -> None:
        """Copy a layer in, in place of one of the same name; a failure leaves the file as it was.

        Args:
            written: a GeoPackage that holds the layer alone.
            layer: its name.

        Raises:
            OutputError: the file is in use, the disk is full.
        """
        with self._open("rw") as database:
            database.execute("ATTACH ? AS new", (str(written),))
            database.execute("BEGIN IMMEDIATE")
            try:
                _drop(database, layer)
                _copy(database, layer)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        uri = f"file:{quote(os.fsencode(self.path))}?mode={mode}"
        connect = functools.partial(sqlite3.connect, uri=True, isolation_level=None, timeout=_PATIENCE)
        try:
            with translated(self.path), closing(connect(uri)) as database:
                yield database
        except OutputError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            raise OutputError(
                "The GeoPackage is in use by another program.",
                received=self.path,
                hint="Save and close it there, or choose another file; nothing was changed.",
            ) from error


def _name(name: str) -> str:
    """A quoted SQL name."""
    return '"' + name.replace('"', '""') + '"'


def _has(database: sqlite3.Connection, schema: str, table: str) -> bool:
    found = database.execute(f"SELECT 1 FROM {schema}.sqlite_master WHERE lower(name) = lower(?)", (table,))
    return found.fetchone() is not None


def _geometry_column(database: sqlite3.Connection, schema: str, layer: str) -> str | None:
    if not _has(database, schema, "gpkg_geometry_columns"):
        return None
    row = database.execute(
        f"SELECT column_name FROM {schema}.gpkg_geometry_columns WHERE lower(table_name) = lower(?)", (layer,)
    ).fetchone()
    return None if row is None else str(row[0])


def _drop(database: sqlite3.Connection, layer: str) -> None:
    """Remove a layer and what the registers say of it, if it is there; its style in QGIS stays."""
    if not _has(database, "main", layer):
        return
    found = database.execute("SELECT name FROM main.sqlite_master WHERE lower(name) = lower(?)", (layer,)).fetchone()
    index = f"rtree_{found[0]}_{_geometry_column(database, 'main', layer)}"
    for table in (index, found[0]):
        database.execute(f"DROP TABLE IF EXISTS main.{_name(table)}")
    for table, column in _REGISTERS.items():
        if not _has(database, "main", table):
            continue
        if table == "gpkg_metadata_reference":
            only = "SELECT md_file_id FROM gpkg_metadata_reference WHERE lower(table_name) {} lower(?1)"
            database.execute(
                f"DELETE FROM main.gpkg_metadata WHERE id IN ({only.format('=')}) AND id NOT IN "
                f"({only.format('IS NOT')} AND md_file_id IS NOT NULL)",
                (layer,),
            )
        database.execute(f"DELETE FROM main.{table} WHERE lower({column}) = lower(?)", (layer,))


def _copy(database: sqlite3.Connection, layer: str) -> None:
    """Copy table, index, triggers and registers of a layer from the attached file."""
    for name, sql in database.execute(
        "SELECT name, sql FROM new.sqlite_master WHERE type = 'table' AND name GLOB 'gpkg_*'"
    ).fetchall():
        if not _has(database, "main", name):
            database.execute(sql)
    old, srs = _srs(database, layer)
    geometry = _geometry_column(database, "new", layer)
    assert geometry is not None  # it is ours
    index = f"rtree_{layer}_{geometry}"
    made = "SELECT sql FROM new.sqlite_master WHERE name = ?"
    database.execute(*(database.execute(made, (layer,)).fetchone()))
    _insert(database, layer, {geometry: f"terraprompt_srs({_name(geometry)}, {srs})"} if srs != old else {})
    if _has(database, "new", index):
        database.execute(*(database.execute(made, (index,)).fetchone()))
        _insert(database, index)
    free = "CASE WHEN EXISTS (SELECT 1 FROM main.gpkg_contents AS m WHERE m.identifier = n.identifier) THEN NULL "
    _insert(database, "gpkg_contents", {"srs_id": str(srs), "identifier": f"{free} ELSE identifier END"})
    _insert(database, "gpkg_geometry_columns", {"srs_id": str(srs)})
    _insert(database, "gpkg_ogr_contents")
    _insert(
        database,
        "gpkg_extensions",
        where="NOT EXISTS (SELECT 1 FROM main.gpkg_extensions AS m WHERE m.extension_name = n.extension_name "
        "AND m.table_name IS n.table_name AND m.column_name IS n.column_name)",
    )
    _copy_metadata(database)
    for (trigger,) in database.execute(
        "SELECT sql FROM new.sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (layer,)
    ).fetchall():
        database.execute(trigger)


def _insert(
    database: sqlite3.Connection, table: str, values: dict[str, str] | None = None, where: str = "1", leave: str = ""
) -> None:
    """Copy the rows of a table: the columns that both files have; ``values`` are SQL in place of some."""
    if not _has(database, "new", table):
        return
    names = [
        [row[1] for row in database.execute(f"PRAGMA {schema}.table_info({_name(table)})")]
        for schema in ("new", "main")
    ]
    shared = [name for name in names[0] if name in names[1] and name != leave]
    taken = ", ".join((values or {}).get(name, _name(name)) for name in shared)
    columns = ", ".join(map(_name, shared))
    database.execute(
        f"INSERT INTO main.{_name(table)} ({columns}) SELECT {taken} FROM new.{_name(table)} AS n WHERE {where}"
    )


def _copy_metadata(database: sqlite3.Connection) -> None:
    """Copy metadata under ids that are free."""
    if not _has(database, "new", "gpkg_metadata"):
        return
    for (number,) in database.execute("SELECT id FROM new.gpkg_metadata").fetchall():
        _insert(database, "gpkg_metadata", where=f"id = {number}", leave="id")
        (free,) = database.execute("SELECT last_insert_rowid()").fetchone()
        _insert(database, "gpkg_metadata_reference", {"md_file_id": str(free)}, where=f"md_file_id = {number}")


def _srs(database: sqlite3.Connection, layer: str) -> tuple[int, int]:
    """The id of the layer's CRS in its own file and in the one it comes to, where the CRS is added if it is missing."""
    old, organization, code, definition = database.execute(
        "SELECT s.srs_id, organization, organization_coordsys_id, definition FROM new.gpkg_spatial_ref_sys AS s "
        "JOIN new.gpkg_contents AS c ON c.srs_id = s.srs_id WHERE c.table_name = ?",
        (layer,),
    ).fetchone()
    same = database.execute(
        "SELECT srs_id FROM main.gpkg_spatial_ref_sys WHERE definition = ?3 OR "
        "(lower(organization) = lower(?1) AND organization_coordsys_id = ?2 AND lower(?1) <> 'none') "
        "ORDER BY srs_id <> ?4",
        (organization, code, definition, old),
    ).fetchone()
    if same is not None:
        new = int(same[0])
    else:
        taken = "SELECT max(srs_id), max(srs_id = ?) FROM main.gpkg_spatial_ref_sys"
        highest, is_taken = database.execute(taken, (old,)).fetchone()
        new = max(int(highest), 99_999) + 1 if is_taken else int(old)
        coded = {"organization_coordsys_id": str(new)} if organization.lower() == "none" else {}
        _insert(database, "gpkg_spatial_ref_sys", {"srs_id": str(new), **coded}, where=f"srs_id = {old}")
    database.create_function("terraprompt_srs", 2, _with_srs, deterministic=True)
    return int(old), new


def _with_srs(geometry: bytes | None, srs: int) -> bytes | None:
    """A GeoPackage geometry with another id of its CRS (GeoPackage 1.3, clause 2.1.3: bytes 4 to 7)."""
    if geometry is None:
        return None
    return geometry[:4] + struct.pack("<i" if geometry[3] & 1 else ">i", srs) + geometry[8:]
