"""The table of output formats, and formats of other packages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from terraprompt.errors import OutputError
from terraprompt.outputs import FORMATS, Result, check_target
from terraprompt.outputs.formats import table


@pytest.mark.parametrize(
    ("target", "message"),
    [("nowhere_to_be_found:X", '"other" of .* cannot be imported'), ("math:pi", '"other" is no output format')],
)
def test_a_broken_format_is_named_and_harms_no_other(
    declare: Callable[..., None], paint: Callable[..., Result], squares: np.ndarray, tmp_path: Path, target: str,
    message: str,
) -> None:  # fmt: skip
    declare(table.GROUP, only=True, other=target)
    with pytest.raises(OutputError, match=message):
        check_target(tmp_path / "m.xyz", kind="vector")
    assert paint(squares).save_vector(tmp_path / "m.gpkg").is_file()


def test_the_name_of_a_format_wins_over_the_extension(
    paint: Callable[..., Result], squares: np.ndarray, tmp_path: Path
) -> None:
    result = paint(squares)
    path = result.save_vector(tmp_path / "m.parquet", driver="GeoJSON")
    assert json.loads(path.read_text())["type"] == "FeatureCollection"
    with pytest.raises(OutputError, match=r"not known.*Shape.*GPKG, GeoJSON, FlatGeobuf, Parquet, ESRI Shapefile"):
        result.save_vector(tmp_path / "m.gpkg", driver="Shape")


def test_no_extension_is_claimed_twice() -> None:
    claims = [(row.kind, suffix) for row in FORMATS for suffix in row.suffixes]
    assert len(claims) == len(set(claims))
