"""A disk that is really full: one line that says so, and what was there before is as it was."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyogrio
import pytest

from terraprompt.errors import OutputError
from terraprompt.outputs import Result, save_stac

SIZE = 400_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    (folder := tmp_path / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def noise(paint: Callable[..., Result]) -> Result:
    """Some hundred squares whose files need more than the disk has."""
    mask = np.kron(np.random.default_rng(0).integers(0, 2, (60, 60)), np.ones((4, 4))).astype(np.uint8)
    return paint(mask)


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes free, about."""
    (disk / "filler").write_bytes(bytes(max(0, _free(disk) - left)))


def _free(disk: Path) -> int:
    import shutil

    return shutil.disk_usage(disk).free


@pytest.mark.parametrize("left", [0, 2048])
@pytest.mark.parametrize(
    "name", ["m.tif", "p.tif", "m.gpkg", "m.geojson", "m.fgb", "m.parquet", "m.png", "p.png", "p.jpg", "m.json"]
)
def test_a_full_disk_says_so_and_leaves_the_old_file(disk: Path, noise: Result, name: str, left: int) -> None:
    (path := disk / name).write_bytes(b"precious")
    fill(disk, left)
    before = {p.name: p.read_bytes() for p in disk.iterdir()}

    def save() -> None:
        if name == "m.json":
            save_stac(noise, path, {f"mask{i}": f"{i}{'x' * 200}.tif" for i in range(60)}, overwrite=True)
        elif path.suffix in (".jpg", ".png"):
            noise.save_picture(path, overwrite=True)
        elif path.suffix == ".tif":
            noise.save_mask(path, probability=name == "p.tif", overwrite=True)
        else:
            noise.save_vector(path, overwrite=True)

    with pytest.raises(OutputError, match=rf"Received: \S*/{name}.*he disk (is|may be) full.*untouched") as told:
        save()
    assert "\n" not in str(told.value)
    assert {p.name: p.read_bytes() for p in disk.iterdir()} == before


@pytest.mark.parametrize("left", [0, 8192, 40_000])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_geopackage_on_a_full_disk_keeps_its_layers(
    disk: Path, noise: Result, paint: Callable[..., Result], squares: np.ndarray, left: int, overwrite: bool
) -> None:
    path = paint(squares).save_vector(disk / "m.gpkg", layer="noise" if overwrite else "first")
    paint(squares).save_vector(path, layer="dear")
    fill(disk, left)
    before = {p.name: p.read_bytes() for p in disk.iterdir()}
    with pytest.raises(OutputError, match=r"m.gpkg.*The disk is full.*untouched"):
        noise.save_vector(path, layer="noise", overwrite=overwrite)
    assert {p.name: p.read_bytes() for p in disk.iterdir()} == before
    assert pyogrio.read_info(path, layer="dear")["features"] == 2
