"""A GeoPackage that is there keeps everything else that it holds; other files that are not ours are never lost."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine

from terraprompt.errors import ConfigError, OutputError
from terraprompt.io.files import check_writable
from terraprompt.outputs import Result
from terraprompt.outputs.formats.geopackage import GeoPackage, layer_name

Paint = Callable[..., Result]
UTM_3_3 = (
    'PROJCS["near 31",GEOGCS["g",DATUM["d",SPHEROID["s",6378137,298]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["central_meridian",{}],'
    'PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],UNIT["metre",1]]'
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's GeoPackage: two layers, tiles, an attribute table, a table and a view of nobody's business."""
    path = tmp_path_factory.mktemp("user") / "user.gpkg"
    for layer, shape in (("trees", shapely.Point(1, 2)), ("Plots", shapely.box(0, 0, 3, 4))):
        pyogrio.raw.write(
            path, geometry=np.array([shapely.to_wkb(shape)], object), field_data=[np.array(["dear"], object)],
            fields=["note"], geometry_type=shape.geom_type, crs="EPSG:3857", driver="GPKG", layer=layer,
            layer_metadata={"AUTHOR": layer},
        )  # fmt: skip
    pixels = np.full((3, 64, 64), 77, np.uint8)
    profile = {"driver": "GPKG", "width": 64, "height": 64, "count": 3, "dtype": "uint8", "crs": "EPSG:3857"}
    place = Affine(1, 0, 0, 0, -1, 64)
    with rasterio.open(path, "w", **profile, transform=place, RASTER_TABLE="tiles", APPEND_SUBDATASET="YES") as out:
        out.write(pixels)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE diary (day TEXT, what BLOB)")
        database.execute("INSERT INTO diary VALUES ('monday', x'00ff')")
        database.execute("CREATE VIEW days AS SELECT day FROM diary")
        database.execute("CREATE TABLE layer_styles (f_table_name TEXT, styleQML TEXT)")
        database.execute("INSERT INTO layer_styles VALUES ('Plots', '<qgis/>')")
        columns = "table_name, data_type, identifier, srs_id"
        database.execute(f"INSERT INTO gpkg_contents ({columns}) VALUES ('diary', 'attributes', 'dear diary', 0)")
    return path


@pytest.fixture
def user(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(kept, tmp_path / "user.gpkg"))


def everything(path: Path, *, without: str = "") -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, and the schema; of registers the rows of other layers than ``without``."""
    with closing(sqlite3.connect(path)) as database:
        names = [n for (n,) in database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
        mine = (without, f"rtree_{without}_")
        tables = [n for n in names if not (without and (n == without or n.startswith(mine[1])))]
        found = {
            name: sorted(
                database.execute("SELECT * FROM " + '"{}"'.format(name.replace('"', '""'))).fetchall(), key=repr
            )
            for name in tables
            if name != "sqlite_sequence"
        }
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return {name: [row for row in rows if not without or without not in row] for name, rows in found.items()}


def assert_kept(before: dict[str, list[tuple[object, ...]]], path: Path) -> None:
    after = everything(path)
    for name, rows in before.items():
        assert [row for row in rows if row not in after[name]] == [], name


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        ({}, "the_lakes_où"),
        ({"overwrite": True}, "the_lakes_où"),
        ({"layer": "Seen 2024"}, "Seen 2024"),
        ({"layer": 'x"; DROP TABLE diary; --', "overwrite": True}, 'x"; DROP TABLE diary; --'),
        ({"layer": "select", "driver": "GPKG"}, "select"),
        ({"layer": "dear diary"}, "dear diary"),  # the identifier of another table
    ],
)
def test_one_more_layer(user: Path, paint: Paint, squares: np.ndarray, options: dict[str, object], layer: str) -> None:
    before = everything(user)
    result = paint(squares)
    assert result.save_vector(user, **options) == user
    assert_kept(before, user)
    assert [name for name, kind in pyogrio.list_layers(user) if kind is not None] == ["trees", "Plots", layer]
    info = pyogrio.read_info(user, layer=layer)
    assert (info["features"], info["crs"], info["layer_metadata"]["STATUS"]) == (2, "EPSG:32631", "found")
    assert pyogrio.read_info(user, layer="trees")["layer_metadata"]["AUTHOR"] == "trees"
    _, _, wkb, _ = pyogrio.raw.read(user, layer=layer)
    assert shapely.equals(shapely.from_wkb(wkb), [o.polygon for o in result.objects]).all()
    x0, y0, x1, y1 = result.objects[1].polygon.bounds
    _, _, inside, _ = pyogrio.raw.read(user, layer=layer, bbox=(x0, y0, x1, y1))  # by the spatial index
    assert len(inside) == 1
    with rasterio.open(user) as tiles:
        assert (tiles.read(1) == 77).all()
    assert sorted(p.name for p in user.parent.iterdir()) == ["user.gpkg", "work"]


def test_the_layer_of_that_name_alone_is_replaced(user: Path, paint: Paint, squares: np.ndarray) -> None:
    paint(squares).save_vector(user, layer="roofs")
    paint(squares).save_vector(user)
    before, content = everything(user, without="roofs"), user.read_bytes()
    del before["gpkg_metadata"]  # has no name of the layer in it
    with pytest.raises(OutputError, match=r"layer is already there.*layer ROOFS.*--overwrite.*--layer"):
        paint(squares).save_vector(user, layer="ROOFS")
    assert user.read_bytes() == content
    squares[30:40, 30:40] = 0
    for _ in range(2):
        paint(squares).save_vector(user, layer="roofs", overwrite=True)
    assert_kept(before, user)
    assert pyogrio.read_info(user, layer="roofs")["features"] == 1
    with closing(sqlite3.connect(user)) as database:
        assert database.execute("SELECT count(*) FROM gpkg_metadata").fetchone() == (4,)
        assert database.execute("SELECT * FROM gpkg_ogr_contents WHERE table_name = 'roofs'").fetchall() == [
            ("roofs", 1)
        ]
    # The layer can be edited: triggers keep index and count.
    meta, _, wkb, columns = pyogrio.raw.read(user, layer="roofs")
    more = {"geometry_type": "Polygon", "crs": meta["crs"], "driver": "GPKG", "layer": "roofs", "append": True}
    pyogrio.raw.write(user, geometry=wkb, field_data=columns, fields=list(meta["fields"]), **more)
    assert pyogrio.read_info(user, layer="roofs")["features"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": "trees"}, "layer is already there.*layer trees"),
        ({"layer": "plots"}, "layer is already there"),
        ({"layer": "tiles", "overwrite": True}, "something else of this name.*--layer"),
        ({"layer": "diary", "overwrite": True}, "something else of this name"),
        ({"layer": "DAYS", "overwrite": True}, "something else of this name"),
        ({"layer": "layer_styles", "overwrite": True}, "something else of this name"),
    ],
)
def test_what_else_is_there_stays(user: Path, paint: Paint, squares: np.ndarray, options: dict[str, object], said: str):
    content = user.read_bytes()
    with pytest.raises(OutputError, match=said):
        paint(squares).save_vector(user, **options)
    assert user.read_bytes() == content


@pytest.mark.parametrize("layer", ["", "  ", "a\nb", "gpkg_contents", "rtree_x_geom", "sqlite_x", "a" * 201, "\udcff"])
def test_names_that_no_layer_can_have(user: Path, paint: Paint, squares: np.ndarray, layer: str) -> None:
    content = user.read_bytes()
    with pytest.raises(ConfigError, match="cannot have this name"):
        paint(squares).save_vector(user, layer=layer)
    assert user.read_bytes() == content


def test_a_layer_of_the_user_is_not_replaced_unless_named(user: Path, paint: Paint, squares: np.ndarray) -> None:
    content = user.read_bytes()
    result = paint(squares, provenance={"instruction": "Trees"})
    with pytest.raises(OutputError, match=r"not made by terraprompt.*--layer"):
        result.save_vector(user, overwrite=True)
    assert user.read_bytes() == content
    result.save_vector(user, overwrite=True, layer="trees")
    assert pyogrio.read_info(user, layer="trees")["features"] == 2


@pytest.mark.parametrize("crs", ["EPSG:32631", UTM_3_3.format(3.3), UTM_3_3.format(3.4), None, "EPSG:4326"])
def test_crs_that_are_there_and_that_are_not(user: Path, paint: Paint, squares: np.ndarray, crs: str | None) -> None:
    paint(squares, crs=UTM_3_3.format(3.3)).save_vector(user, layer="first")
    transform = Affine(1e-5, 0, 3, 0, -1e-5, 50) if crs == "EPSG:4326" else Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)
    result = paint(squares, crs=crs, transform=transform)
    result.save_vector(user, layer="second")
    alone = result.save_vector(user.with_name("alone.gpkg"), layer="second")
    infos = [pyogrio.read_info(path, layer="second") for path in (user, alone)]
    assert infos[0]["crs"] == infos[1]["crs"]
    np.testing.assert_array_equal(*[pyogrio.raw.read(path, layer="second")[2] for path in (user, alone)])
    assert pyogrio.read_info(user, layer="first")["crs"].startswith('PROJCS["near 31"')


def test_a_database_in_use_waits_or_fails_whole(user: Path, paint: Paint, squares: np.ndarray, monkeypatch) -> None:
    monkeypatch.setattr("terraprompt.outputs.formats.geopackage._PATIENCE", 0.1)
    result = paint(squares)
    with closing(sqlite3.connect(user, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO diary VALUES ('tuesday', NULL)")
        with pytest.raises(OutputError, match=r"in use by another program.*user.gpkg"):
            result.save_vector(user)
        other.execute("COMMIT")
    with closing(sqlite3.connect(user)) as other:
        assert other.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)  # as QGIS holds it
        assert other.execute("SELECT count(*) FROM diary").fetchone() == (2,)
        result.save_vector(user)
        assert other.execute('SELECT count(*) FROM "the_lakes_où"').fetchone() == (2,)
    assert sorted(p.name for p in user.parent.iterdir()) == ["user.gpkg", "work"]


def _plain(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE accounts (name)")


def _damaged(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(200))


@pytest.mark.parametrize("make", [_plain, _damaged])
@pytest.mark.parametrize("name", ["m.gpkg", "m.geojson", "m.fgb", "m.parquet", "m.tif", "m.png", "m.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_databases_are_never_replaced(paint: Paint, squares: np.ndarray, tmp_path: Path, make, name: str, overwrite):
    make(path := tmp_path / name)
    content, result = path.read_bytes(), paint(squares)
    save = {".tif": result.save_mask, ".png": result.save_picture}.get(path.suffix, result.save_vector)
    with pytest.raises(OutputError, match=rf"database.*{name}"):
        save(path, overwrite=overwrite)
    assert path.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, "work"]


def test_a_geopackage_under_another_extension_or_driver(user: Path, paint: Paint, squares: np.ndarray) -> None:
    content = user.read_bytes()
    with pytest.raises(OutputError, match="database"):
        paint(squares).save_vector(user, overwrite=True, driver="GeoJSON")
    assert user.read_bytes() == content
    link = user.with_name("link.gpkg")
    link.symlink_to(user)
    paint(squares).save_vector(link)
    assert link.is_symlink()
    assert "trees" in pyogrio.list_layers(user)[:, 0]
    assert GeoPackage.find(user.with_name("new.gpkg")) is None


@pytest.mark.parametrize("driver", ["GPKG", "GeoJSON", "FlatGeobuf", "Parquet"])
@pytest.mark.parametrize("suffix", [".json", ".gpkg", ".fgb", ".parquet", ".GeoJSON"])
def test_a_driver_under_another_extension(paint: Paint, squares: np.ndarray, tmp_path: Path, driver, suffix) -> None:
    path = paint(squares).save_vector(tmp_path / f"m{suffix}", driver=driver)
    assert path.is_file()
    starts = {"GPKG": b"SQLite", "GeoJSON": b"{", "FlatGeobuf": b"fgb", "Parquet": b"PAR1"}
    assert path.read_bytes().startswith(starts[driver])
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "work"]


def test_a_device_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "m.tif").symlink_to("/dev/null")
    with pytest.raises(OutputError, match="no regular file"):
        check_writable(tmp_path / "m.tif", True)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("instruction", "name"),
    [
        ("the lakes, où ?", "the_lakes_où"),
        ("points 31.5,-33,1 20,4,0 (EPSG:4326)", "points"),
        ("boxes -1,2,3,4 (pixel)", "boxes"),
        ("the house points 3,4,1 (pixel)", "the_house_points"),
        ("where points of interest are", "where_points_of_interest_are"),
        ("???", "objects"),
        ("", "objects"),
        ("gpkg_contents", "layer_gpkg_contents"),
        ("建物", "建物"),
        ("x" * 200, "x" * 60),
        ("../../etc/passwd", "etc_passwd"),
        ("a\udcffb", "ab"),
    ],
)
def test_layers_are_named_after_instructions(instruction: str, name: str) -> None:
    assert layer_name(instruction) == name


def test_a_layer_of_an_earlier_version_is_replaced(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    path = paint(squares).save_vector(tmp_path / "v.gpkg")
    (layer,) = pyogrio.list_layers(path)[:, 0]
    frame = pyogrio.read_arrow(path)[1].drop_columns(["category"])
    old = tmp_path / "old.gpkg"
    pyogrio.write_arrow(
        frame, old, layer=layer, geometry_name="geom", geometry_type="Polygon", crs="EPSG:32631", driver="GPKG"
    )
    paint(squares).save_vector(old, overwrite=True)
    assert "category" in pyogrio.read_info(old, layer=layer)["fields"]
