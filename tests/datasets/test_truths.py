"""Masks in every coding a data set uses: run lengths, outlines, grey pictures of 8 and 16 bits, TIFF, unions."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from terraprompt.datasets.sample import MaskFile, NoTarget, Polygons, Sample, UnionMask
from terraprompt.errors import DatasetError
from terraprompt.io.rle import RunLengths, pack_runs, unpack_runs
from terraprompt.prompt import Task
from terraprompt.raster.pictures import picture_size, read_rgb, read_values

MASKS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))


# run lengths


@given(MASKS)
def test_run_lengths_invert(mask: np.ndarray) -> None:
    coded = RunLengths.encode(mask)
    back = coded.load()
    assert (back == mask).all()
    assert (back.dtype, back.shape) == (np.uint8, mask.shape)
    assert coded.area == mask.sum()
    assert RunLengths.of({"size": list(mask.shape), "counts": coded.runs().tolist()}) == coded


@given(MASKS)
def test_run_lengths_are_those_of_coco(mask: np.ndarray) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask))
    assert RunLengths.encode(mask).counts == theirs["counts"].decode()
    assert (RunLengths.of(theirs).load() == mask).all()


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=30))
def test_runs_of_any_length_survive_packing(runs: list[int]) -> None:
    assert unpack_runs(pack_runs(np.array(runs, np.int64))).tolist() == runs


def test_a_run_length_string_written_elsewhere() -> None:
    """Of the COCO documentation's own kind: 6 x 4 pixels, the second column set."""
    mask = RunLengths.of({"size": [6, 4], "counts": b"66<"}, name="an annotation").load()
    assert mask.sum(0).tolist() == [0, 6, 0, 0]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"size": [6, 4], "counts": "66"}, "does not fill its size"),
        ({"size": [6, 4], "counts": "66<0o"}, "not finished"),
        ({"size": [6, 4], "counts": "66 "}, "outside the code"),
        ({"size": [6, 4], "counts": "66é"}, "outside the code"),
        ({"size": [6, 4], "counts": ""}, "no runs"),
        ({"size": [6, 4], "counts": "o" * 13 + "0"}, "too long"),
        ({"size": [6, 4], "counts": [30, -6]}, "does not fill"),
        ({"size": [0, 4], "counts": [0]}, "does not fill"),
        ({"size": [6], "counts": "66<"}, "not a run-length mask"),
        ({"size": [6, 4]}, "not a run-length mask"),
        ({"size": [6, 4], "counts": ["a"]}, "not a run-length mask"),
        ("66<", "not a run-length mask"),
    ],
)
def test_broken_run_lengths_are_errors_with_a_name(raw: Any, said: str) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        RunLengths.of(raw, name="annotation 7")
    assert "annotation 7" in str(caught.value)


# outlines


def test_outlines_fill_the_pixels_whose_centre_is_inside() -> None:
    mask = Polygons(6, 8, ((2, 1, 6, 1, 6, 4, 2, 4),)).load()
    assert mask.dtype == np.uint8
    assert np.argwhere(mask).min(0).tolist() == [1, 2]
    assert mask.sum() == 4 * 3
    both = Polygons(6, 8, ((0, 0, 2, 0, 2, 2, 0, 2), (1, 1, 3, 1, 3, 3, 1, 3))).load()
    assert (both.sum(), both.max()) == (7, 1)
    assert Polygons(6, 8, ()).load().sum() == 0
    assert Polygons(6, 8, ((-5, -5, 50, -5, 50, 50, -5, 50),)).load().all()


@pytest.mark.parametrize("ring", [(1, 1, 5, 5), (1, 1, 5, 5, 3, 4, 9), (0, 0, 1, 1, float("nan"), 2)])
def test_an_outline_without_three_corners(ring: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match="annotation 3 has an outline"):
        Polygons(6, 8, (ring,), "annotation 3")


# pictures


def grey(dtype: type = np.uint8, value: int = 255) -> np.ndarray:
    values = np.zeros((5, 7), dtype)
    values[1:3, 2:6] = value
    return values


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_grey_masks(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a b{suffix}"
    Image.fromarray(grey()).save(path)
    assert (MaskFile(path).load() == (grey() > 0)).all()
    assert (MaskFile(path, (255,)).load() == (grey() > 0)).all()
    assert not MaskFile(path, (1,)).load().any()
    assert picture_size(path) == (7, 5)


def test_sixteen_bits_are_kept_apart(tmp_path: Path) -> None:
    """Cut to 8 bits, 256 would be 0 and 1281 would be 1."""
    values = grey(np.uint16, 256)
    values[4, 4] = 1281
    Image.fromarray(values).save(tmp_path / "a.png")
    assert MaskFile(tmp_path / "a.png").load().sum() == 9
    assert MaskFile(tmp_path / "a.png", (1281,)).load().sum() == 1
    assert read_values(tmp_path / "a.png").max() == 1281


def test_palettes_count_by_index_and_transparency_is_no_label(tmp_path: Path) -> None:
    palette = Image.fromarray(grey(value=2))
    palette.putpalette([0, 0, 0, 9, 9, 9, 200, 10, 10])
    palette.save(tmp_path / "p.png")
    assert (MaskFile(tmp_path / "p.png", (2,)).load() == (grey() > 0)).all()
    opaque = np.stack([grey(), np.full((5, 7), 255, np.uint8)], -1)
    Image.fromarray(opaque, "LA").save(tmp_path / "la.png")
    assert MaskFile(tmp_path / "la.png").load().sum() == 8
    colour = np.zeros((5, 7, 4), np.uint8)
    colour[..., 3], colour[2, 3, 1] = 255, 80
    Image.fromarray(colour).save(tmp_path / "rgba.png")
    assert np.argwhere(MaskFile(tmp_path / "rgba.png").load()).tolist() == [[2, 3]]
    Image.fromarray(grey() > 0).save(tmp_path / "one.png")
    assert MaskFile(tmp_path / "one.png", (255,)).load().sum() == 8


def write_tiff(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **profile
    ) as file:
        file.write(bands)
    return path


def test_tiffs_that_only_gdal_reads(tmp_path: Path) -> None:
    labels = write_tiff(tmp_path / "labels.tif", grey(np.int16, 300)[None], compress="zstd")
    assert (MaskFile(labels, (300,)).load() == (grey() > 0)).all()
    rgb = np.arange(105, dtype=np.uint8).reshape(3, 5, 7)
    image = write_tiff(tmp_path / "image.tif", rgb, compress="zstd", interleave="band")
    assert (read_rgb(image)[0] == np.moveaxis(rgb, 0, -1)).all()
    assert picture_size(image) == (7, 5)
    deep = write_tiff(tmp_path / "deep.tif", rgb.astype(np.uint16))
    assert read_rgb(deep)[0].max() == 255, "stretched as a scene is"


def test_a_deep_picture_is_not_clipped_without_a_word(tmp_path: Path) -> None:
    Image.fromarray(grey(np.uint16, 4000)).save(tmp_path / "a.png")
    rgb, valid = read_rgb(tmp_path / "a.png")
    assert valid.all()
    assert ((rgb == 255).all(-1) == (grey() > 0)).all()
    assert ((rgb == 0).all(-1) == (grey() == 0)).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_missing_and_damaged_pictures_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for read in (read_values, picture_size, read_rgb):
        path.unlink(missing_ok=True)
        with pytest.raises(DatasetError, match="missing") as caught:
            read(path)
        assert name in str(caught.value)
        path.write_bytes(b"II*\0 not a picture")
        with pytest.raises(DatasetError, match="cannot be read") as caught:
            read(path)
        assert name in str(caught.value)


# the others, and the sample


def test_no_target_and_unions(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5)).save(tmp_path / "image.png")
    assert NoTarget(tmp_path / "image.png").load().shape == (5, 7)
    left, right = grey(), grey().T
    assert (UnionMask((RunLengths.encode(left), RunLengths.encode(left))).load() == (left > 0)).all()
    with pytest.raises(DatasetError, match="differ in size"):
        UnionMask((RunLengths.encode(left), RunLengths.encode(right))).load()


def test_samples_travel_between_processes(tmp_path: Path) -> None:
    truth = UnionMask((RunLengths.encode(grey()), MaskFile(tmp_path / "m.png"), Polygons(5, 7, ((0, 0, 2, 0, 2, 2),))))
    sample = Sample("a", tmp_path / "a.png", Task.REFERRING, ("the roof",), truth)
    assert pickle.loads(pickle.dumps(sample)) == sample  # noqa: S301 - our own bytes
    assert sample.prompt().text == "the roof"
    with pytest.raises(DatasetError, match="has no mask"):
        Sample("b", tmp_path / "a.png", Task.REFERRING, ("the roof",)).load_mask()
