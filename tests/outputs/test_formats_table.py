"""The table of output formats, and formats of other packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from terraprompt.errors import OutputError
from terraprompt.outputs import FORMATS, Result, check_target
from terraprompt.outputs.formats import table

PAGE = (Path(__file__).parents[2] / "docs" / "extend" / "format.md").read_text(encoding="utf-8")

RUN = """
import csv, json
from pathlib import Path
import numpy as np
from rasterio import Affine
from terraprompt.errors import OutputError
from terraprompt.outputs import MaskWriter, check_target, save_stac

mask = np.zeros((40, 60), bool)
mask[4:14, 10:30] = True
with MaskWriter.create(Path.cwd(), 60, 40, crs="EPSG:32631", transform=Affine(2, 0, 500000, 0, -2, 5500000)) as writer:
    writer.write_band(0, np.where(mask, 4, -4).astype(np.float32), np.ones_like(mask))
    result = writer.finish({"instruction": "a roof"}, simplify=0)
check_target("roofs.csv", kind="vector")
result.save_vector("roofs.csv")
(row,) = csv.DictReader(open("roofs.csv"))
assert {k: float(v) for k, v in row.items() if k != "score"} == {
    "id": 1, "x": 500040, "y": 5499982, "area_m2": 800
}, row
save_stac(result, "item.json", {"vector": "roofs.csv"})
assert json.loads(Path("item.json").read_text())["assets"]["vector"]["type"] == "text/csv"
try:
    result.save_vector("roofs.csv")
except OutputError as error:
    assert "already there" in str(error)
else:
    raise AssertionError("replaced without being allowed to")
try:
    check_target("roofs.csv", kind="mask")
except OutputError as error:
    assert "Use .tif, .tiff, .png." in str(error), error
else:
    raise AssertionError("a vector format taken for a mask")
"""


def test_the_code_of_the_page_works_when_installed(tmp_path: Path) -> None:
    (code,), (toml,) = (re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S) for kind in ("python", "toml"))
    group, name, target = re.search(r'entry-points\."(.+?)"\]\n(\w+) = "(.+?)"', toml).groups()
    (tmp_path / f"{target.partition(':')[0]}.py").write_text(code)
    dist = tmp_path / "stranger-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """``installed(target)``: the entry point ``other`` of another package."""

    def install(target: str) -> None:
        monkeypatch.setattr(table, "entry_points", lambda group: [EntryPoint("other", target, group)])
        table._installed.cache_clear()

    yield install
    table._installed.cache_clear()


@pytest.mark.parametrize(
    ("target", "message"),
    [("nowhere_to_be_found:X", '"other" cannot be imported'), ("math:pi", '"other" is no output format')],
)
def test_a_broken_format_is_named_and_harms_no_other(
    installed: Callable[[str], None], paint: Callable[..., Result], squares: np.ndarray, tmp_path: Path, target: str,
    message: str,
) -> None:  # fmt: skip
    installed(target)
    with pytest.raises(OutputError, match=message):
        check_target(tmp_path / "m.xyz", kind="vector")
    assert paint(squares).save_vector(tmp_path / "m.gpkg").is_file()


def test_the_name_of_a_format_wins_over_the_extension(
    paint: Callable[..., Result], squares: np.ndarray, tmp_path: Path
) -> None:
    result = paint(squares)
    path = result.save_vector(tmp_path / "m.parquet", driver="GeoJSON")
    assert json.loads(path.read_text())["type"] == "FeatureCollection"
    with pytest.raises(OutputError, match=r"not known.*Shape.*GPKG, GeoJSON, FlatGeobuf, Parquet"):
        result.save_vector(tmp_path / "m.gpkg", driver="Shape")


def test_no_extension_is_claimed_twice() -> None:
    claims = [(row.kind, suffix) for row in FORMATS for suffix in row.suffixes]
    assert len(claims) == len(set(claims))
