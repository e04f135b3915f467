"""Attributes of the prompt's features beside the objects, read back from every format."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pyogrio
import pytest

from terraprompt.outputs import Result
from terraprompt.prompt import Prompt, PromptFeature

Paint = Callable[..., Result]
DAY, TIME = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 30, 15)
ROWS: list[dict[str, Any]] = [
    {"name": "Brunnen Süd", "depth": 12, "flow": 1.5, "dry": False, "built": DAY, "seen": TIME, "score": "good",
     "ID": 7, "geom": "x", "nothing": None, "mixed": 1},
    {"name": None, "depth": None, "flow": None, "dry": None, "built": None, "seen": None, "score": None,
     "ID": 8, "geom": None, "nothing": None, "mixed": "a"},
]  # fmt: skip
NAMES = ["name", "depth", "flow", "dry", "built", "seen", "score_2", "ID_2", "geom_2", "nothing", "mixed"]


def answer(result: Result, rows: list[dict[str, Any]] = ROWS) -> Result:
    """The result as if each of its objects answered one feature."""
    features = tuple(PromptFeature(i, tuple(row.items())) for i, row in enumerate(rows))
    prompt = Prompt(points=((1.0, 1.0),) * len(rows), features=features)
    pairs = zip(result.objects, rows, strict=False)
    objects = (replace(item, prompt_id=i, attributes=row) for i, (item, row) in enumerate(pairs))
    return replace(result, objects=tuple(objects), prompt=prompt)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_they_keep_their_types_and_get_names_of_their_own(
    suffix: str, paint: Paint, squares: np.ndarray, tmp_path: Path
) -> None:
    path = answer(paint(squares)).save_vector(tmp_path / f"v{suffix}")
    table = pyarrow.parquet.read_table(path) if suffix == ".parquet" else pyogrio.read_arrow(path)[1]
    table = table.sort_by("id")
    assert set(NAMES) <= set(table.column_names)
    read = {name: table[name].to_pylist() for name in NAMES}
    assert table["id"].to_pylist() == [1, 2]
    assert read["name"] == ["Brunnen Süd", None]
    assert read["depth"] == [12, None]
    assert pa.types.is_integer(table["depth"].type)
    assert read["flow"] == [1.5, None]
    assert read["dry"] == [False, None]
    assert [day and str(day)[:10] for day in read["built"]] == [str(DAY), None]  # FlatGeobuf adds a time
    assert [t and t.replace(tzinfo=None) for t in read["seen"]] == [TIME, None]
    assert read["score_2"] == ["good", None]
    assert read["ID_2"] == [7, 8]
    assert read["nothing"] == [None, None]
    assert read["mixed"] == ["1", "a"]


def test_a_shapefile_has_short_names_that_differ(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    rows = [{"instruction of the well": "a", "instruction of the pump": "b", "built": DAY, "seen": TIME}, {}]
    path = answer(paint(squares), rows).save_vector(tmp_path / "v.shp")
    meta, _, _, columns = pyogrio.raw.read(path)
    read = dict(zip(meta["fields"].tolist(), columns, strict=True))
    assert (read["instruct_2"][0], read["instruct_3"][0]) == ("a", "b")
    assert read["built"][0] == np.datetime64(DAY)
    assert "2024" in str(read["seen"][0])


def test_no_target_has_the_columns_and_their_types(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    path = answer(paint(squares * 0)).save_vector(tmp_path / "v.gpkg")
    info = pyogrio.read_info(path)
    kinds = dict(zip(info["fields"], info["dtypes"], strict=True))
    assert (kinds["depth"], kinds["flow"], kinds["name"]) == ("int64", "float64", "object")


def test_in_memory(paint: Paint, squares: np.ndarray) -> None:
    result = answer(paint(squares))
    assert result.objects[0].attributes["score"] == "good"
    own = result.objects[0].__geo_interface__["properties"]
    whole = result.__geo_interface__["features"][0]["properties"]
    assert own["score"] == whole["score"] == result.objects[0].score
    assert own["score_2"] == whole["score_2"] == "good"
    assert whole["depth"] == 12
    pytest.importorskip("geopandas", reason="GeoPandas is an optional extra")
    frame = result.to_geodataframe()
    assert frame["name"][0] == "Brunnen Süd"
    assert frame["depth"][0] == 12
