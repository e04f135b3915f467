"""Damaged, hostile and odd rasters: the right pixels, with a remark where one is due, or an error of one line."""

from __future__ import annotations

import os
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from terraprompt.errors import SceneError
from terraprompt.raster import estimate_stretch, open_scene

SIZE = 64
VALUES = np.random.default_rng(6).integers(1, 250, (3, SIZE, SIZE)).astype(np.uint8)
Make = Callable[[Path], "Path | str"]


def tiff(path: Path, values: np.ndarray = VALUES, **profile: Any) -> Path:
    """A GeoTIFF in half-metre pixels unless ``profile`` says otherwise."""
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)}
    options = {"driver": "GTiff", "dtype": values.dtype, **place, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        count, height, width = values.shape
        with rasterio.open(path, "w", width=width, height=height, count=count, **options) as out:
            out.write(values)
    return path


def changed(change: Callable[[bytearray], Any], **profile: Any) -> Make:
    def make(folder: Path) -> Path:
        path = tiff(folder / "a.tif", **profile)
        data = bytearray(path.read_bytes())
        path.write_bytes(bytes(change(data) or data))
        return path

    return make


def tag(number: int, value: int) -> Make:
    """The value of a TIFF tag replaced in the file's first directory."""

    def change(data: bytearray) -> None:
        start = struct.unpack_from("<I", data, 4)[0]
        for i in range(struct.unpack_from("<H", data, start)[0]):
            at = start + 2 + 12 * i
            if struct.unpack_from("<H", data, at)[0] == number:
                struct.pack_into("<I", data, at + 8, value)

    return changed(change)


def text(content: str, name: str = "a.vrt") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        tiff(folder / "b.tif")
        return folder / name

    return make


def vrt(inside: str, *, band: str = "", size: int = SIZE) -> Make:
    return text(
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><VRTRasterBand dataType="Byte" band="1"{band}>{inside}'
        "</VRTRasterBand></VRTDataset>"
    )


def source(name: str) -> str:
    return f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename></SimpleSource>'


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.tif")
    return folder / "a.tif"


def bomb() -> str:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 50}">' for i in range(12))
    return f"<!DOCTYPE a [{entities}]><VRTDataset><SourceFilename>&e11;</SourceFilename></VRTDataset>"


def link(folder: Path) -> Path:
    (folder / "far").mkdir()
    tiff(folder / "far/b.tif")
    (folder / "a.tif").symlink_to(folder / "far/b.tif")
    return folder / "a.tif"


def linked_vrt(folder: Path) -> Path:
    (folder / "far").mkdir()
    tiff(folder / "far/b.tif")
    near = folder / "near"
    near.mkdir()
    (near / "b.tif").symlink_to(folder / "far/b.tif")
    path = near / "a.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><VRTRasterBand dataType="Byte" band="1">'
        f"{source('b.tif')}</VRTRasterBand></VRTDataset>"
    )
    return path


def archive(kind: str, *, cut: bool = False, member: str = "a.tif") -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        path, packed = tiff(folder / "a.tif"), folder / f"p.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(packed, "w") as out:
                out.write(path, "a.tif")
        else:
            with tarfile.open(packed, "w") as out:
                out.add(path, "a.tif")
        if cut:
            packed.write_bytes(packed.read_bytes()[:600])
        return f"/vsi{kind}/{packed}/{member}"

    return make


def containers(folder: Path) -> Path:
    for name in ("summer", "winter"):
        tiff(folder / "a.gpkg", driver="GPKG", RASTER_TABLE=name, APPEND_SUBDATASET="YES")
    return folder / "a.gpkg"


def placed(*numbers: float, crs: str = "EPSG:32633") -> Make:
    return lambda folder: tiff(folder / "a.tif", crs=crs, transform=Affine(*numbers))


BROKEN: dict[str, tuple[Make, str]] = {
    "no magic": (changed(lambda d: b"XX" + d[2:]), "cannot be opened"),
    "directory beyond the end": (changed(lambda d: d[:4] + b"\xff\xff\xff\x7f" + d[8:]), "cannot be opened"),
    "directory in a circle": (changed(lambda d: d[:4] + b"\x00\x00\x00\x00" + d[8:]), "cannot be opened"),
    "cut in the header": (changed(lambda d: d[:6]), "cannot be opened"),
    "cut in the strips": (changed(lambda d: d[: len(d) - 5000]), "damaged or truncated|cannot be opened"),
    "rubbish in a compressed strip": (
        changed(lambda d: d[:700] + b"\x55" * 900 + d[1600:], compress="deflate"), "damaged or truncated|cannot be",
    ),
    "strip offset far out": (tag(273, 0x7FFFFFF0), "damaged or truncated|cannot be opened"),
    "width of 0": (tag(256, 0), "cannot be opened"),
    "width of 2 billion": (tag(256, 2_000_000_000), "cannot be opened|too large|damaged"),
    "unknown compression": (tag(259, 50_999), "cannot be opened|damaged or truncated"),
    "empty": (text("", "a.tif"), "cannot be opened"),
    "one byte": (text("I", "a.tif"), "cannot be opened"),
    "words": (text("no raster at all", "a.tif"), "cannot be opened"),
    "folder": (lambda f: f, "cannot be opened"),
    "pipe": (pipe, "no file but a pipe"),
    "device": (lambda _: "/dev/zero", "no file but a pipe"),
    "no name": (lambda _: "", "has no name"),
    "NUL in the name": (lambda f: f"{f}/a\0b.tif", "does not exist|cannot be opened|NUL"),
    "name of 5000 letters": (lambda f: f"{f}/{'a' * 5000}.tif", "File name too long"),
    "zip cut short": (archive("zip", cut=True), "cannot be opened"),
    "no such member": (archive("zip", member="b.tif"), "cannot be opened"),
    "member out of the archive": (archive("tar", member="../../etc/passwd"), "cannot be opened"),
    "memory file": (lambda _: "/vsimem/nothing.tif", "cannot be opened"),
    "sparse list": (lambda f: f"/vsisparse/{f}/a.xml", "list of other files"),
    "complex": (lambda f: tiff(f / "a.tif", VALUES.astype(np.complex64)), "complex values"),
    "no bands": (containers, "has no bands"),
    "all NaN": (lambda f: tiff(f / "a.tif", np.full((1, 9, 9), np.nan, np.float32)), "No pixel of the scene is valid"),
    "all nodata": (lambda f: tiff(f / "a.tif", VALUES * 0, nodata=0), "No pixel of the scene is valid"),
    "VRT of raw bytes": (
        vrt("<SourceFilename>/etc/passwd</SourceFilename>", band=' subClass="VRTRawRasterBand"'), "raw files",
    ),
    "VRT in other folders": (vrt(source("../b.tif")), "host or folder other than its own"),
    "VRT of a link out of the folder": (linked_vrt, "host or folder other than its own"),
    "VRT of itself": (vrt(source("a.vrt")), "damaged or truncated|cannot be opened"),
    "VRT of a missing file": (vrt(source("nothing.tif")), "damaged or truncated|cannot be opened"),
    "VRT with code": (
        vrt(
            "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
            f"<PixelFunctionCode>raise SystemExit(9)</PixelFunctionCode>{source('b.tif')}",
            band=' subClass="VRTDerivedRasterBand"',
        ),
        "damaged or truncated|cannot be opened",
    ),
    "VRT of 10^12 pixels": (vrt("", size=2_000_000), "too large"),
    "VRT without an end": (text("<VRTDataset rasterXSize='9'"), "no valid XML"),
    "pixel of no width": (placed(0, 0, 5e5, 0, -0.5, 5e6), "1 control points"),
    "XML bomb": (text(bomb()), "no valid XML|host or folder"),
    "service": (text("<GDAL_WMS><Service name='TMS'/></GDAL_WMS>"), "names a server"),
}  # fmt: skip


def look_at(path: Path | str) -> None:
    with open_scene(path) as scene:
        estimate_stretch(scene)
        scene.read(0, 0, scene.width, scene.height)


@pytest.mark.parametrize("kind", BROKEN)
def test_one_line(tmp_path: Path, kind: str) -> None:
    make, words = BROKEN[kind]
    path = make(tmp_path)
    with pytest.raises(SceneError, match=words) as error:
        look_at(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 6000


def same(expected: np.ndarray = VALUES) -> Callable[[Any], None]:
    def check(scene: Any) -> None:
        values, valid = scene.read(0, 0, scene.width, scene.height)
        np.testing.assert_array_equal(values, expected)
        assert valid.all()
        estimate_stretch(scene)

    return check


def holes(scene: Any) -> None:
    valid = scene.read(0, 0, scene.width, scene.height)[1]
    assert not valid[:8].any()
    assert valid[8:].all()
    assert np.isfinite([*estimate_stretch(scene).low, *estimate_stretch(scene).high]).all()


def no_size(scene: Any) -> None:
    assert scene.gsd_m is None
    estimate_stretch(scene)


def with_holes(bad: float, nodata: float | None = None) -> Make:
    def make(folder: Path) -> Path:
        values = VALUES[:1].astype(np.float32)
        values[:, :8] = bad
        return tiff(folder / "a.tif", values, nodata=nodata)

    return make


def bilevel(folder: Path) -> Path:
    return tiff(folder / "a.tif", (VALUES[:1] > 100).astype(np.uint8), nbits=1)


def palette(folder: Path) -> Path:
    path = tiff(folder / "a.tif", (VALUES[:1] > 100).astype(np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (1, 2, 3, 255), 1: (200, 100, 50, 255)})
    return path


def colours_of_the_palette(scene: Any) -> None:
    values = scene.read(0, 0, SIZE, SIZE)[0]
    assert {tuple(v) for v in values.reshape(3, -1).T.tolist()} == {(1, 2, 3), (200, 100, 50)}


def cmyk(folder: Path) -> Path:
    Image.new("CMYK", (SIZE, SIZE)).save(folder / "a.jpg", quality=95)
    return folder / "a.jpg"


def white(scene: Any) -> None:
    assert scene.bands == (1, 2, 3)
    assert scene.read(0, 0, SIZE, SIZE)[0].mean() > 240


def world_file(folder: Path) -> Path:
    Image.fromarray(np.moveaxis(VALUES, 0, -1)).save(folder / "a.png")
    (folder / "a.pgw").write_text("0.5\n0\n0\nrubbish\n500000\n5400000\n")
    return folder / "a.png"


def huge_tags(folder: Path) -> Path:
    path = tiff(folder / "a.tif")
    with rasterio.open(path, "r+") as file:
        file.update_tags(NOTE="x" * 3_000_000, **{"eo:bands": "[" * 50_000})
    return path


def described(folder: Path) -> Path:
    path = tiff(folder / "a.tif")
    with rasterio.open(path, "r+") as file:
        file.descriptions = ["red\n\x1b[31m", "green" * 2000, "blue"]
        file.colorinterp = [ColorInterp.undefined] * 3
    return path


ODD: dict[str, tuple[Make, Callable[[Any], None]]] = {
    "1 x 1": (lambda f: tiff(f / "a.tif", VALUES[:, :1, :1]), same(VALUES[:, :1, :1])),
    "1 x N": (lambda f: tiff(f / "a.tif", VALUES[:, :1]), same(VALUES[:, :1])),
    "N x 1": (lambda f: tiff(f / "a.tif", VALUES[:, :, :1]), same(VALUES[:, :, :1])),
    "int64": (lambda f: tiff(f / "a.tif", VALUES.astype(np.int64)), same(VALUES.astype(np.int64))),
    "uint64": (lambda f: tiff(f / "a.tif", VALUES.astype(np.uint64)), same(VALUES.astype(np.uint64))),
    "int8": (lambda f: tiff(f / "a.tif", (VALUES // 2).astype(np.int8)), same((VALUES // 2).astype(np.int8))),
    "float64": (lambda f: tiff(f / "a.tif", VALUES * 1e300), same(VALUES * 1e300)),
    "constant": (lambda f: tiff(f / "a.tif", VALUES * 0 + 7), same(VALUES * 0 + 7)),
    "NaN rows": (with_holes(np.nan), holes),
    "infinite rows": (with_holes(np.inf), holes),
    "negative infinity": (with_holes(-np.inf), holes),
    "nodata NaN": (with_holes(np.nan, np.nan), holes),
    "nodata -3.4e38": (with_holes(-3.4028234663852886e38, -3.4028234663852886e38), holes),
    "1 bit": (bilevel, same((VALUES[[0, 0, 0]] > 100).astype(np.uint8) * 255)),
    "palette": (palette, colours_of_the_palette),
    "CMYK": (cmyk, white),
    "rubbish in a world file": (world_file, same()),
    "3 MB of tags": (huge_tags, same()),
    "control characters in names": (described, same()),
    "zip": (archive("zip"), same()),
    "tar": (archive("tar"), same()),
    "link that the user names": (link, same()),
    "VRT of its own folder": (vrt(source("b.tif")), same(VALUES[:1])),
    "NaN in the transform": (placed(float("nan"), 0, 5e5, 0, -0.5, 5e6), no_size),
    "pixels of 10^300 m": (placed(1e300, 0, 5e5, 0, -1e300, 5e6), no_size),
    "degrees beyond the poles": (placed(1, 0, 500_000, 0, -1, 5_400_000, crs="EPSG:4326"), no_size),
}


@pytest.mark.parametrize("kind", ODD)
def test_right_pixels(tmp_path: Path, kind: str) -> None:
    make, check = ODD[kind]
    with open_scene(make(tmp_path)) as scene:
        check(scene)
        assert all("\n" not in remark for remark in scene.remarks)
