"""From logits to a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from scipy import ndimage

from terraprompt.errors import ConfigError, EngineError, OutputError
from terraprompt.geometry.connectivity import label as label_mask
from terraprompt.outputs import MaskWriter, Result, Status, check_refinement

UTM, PLACE = "EPSG:32631", Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)
Paint = Callable[..., Result]


def test_objects_carry_box_area_score_and_holes(paint: Paint, squares: np.ndarray) -> None:
    result = paint(squares, logit=2.0)
    assert result.status is Status.FOUND
    big, small = result.objects
    assert (big.id, small.id) == (1, 2)
    assert big.bbox == (5, 5, 25, 25)
    assert big.area_px == 400 - 16
    assert big.area_m2 == pytest.approx(384 * 0.25)
    assert big.polygon.area == pytest.approx(384 * 0.25)
    assert len(big.polygon.interiors) == 1
    assert big.polygon.bounds == (500_002.5, 5_500_000 - 12.5, 500_012.5, 5_500_000 - 2.5)
    assert small.bbox == (30, 30, 40, 40)
    assert small.score == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-4)
    assert result.gsd == pytest.approx(0.5)


def test_mask_and_probability_keep_nodata_and_agree_with_objects(paint: Paint, squares: np.ndarray) -> None:
    result = paint(squares)
    mask, probability = result.mask(), result.probability()
    assert mask.dtype == np.uint8
    assert mask.shape == squares.shape
    assert (mask[:, 70:] == 255).all()
    assert np.isnan(probability[:, 70:]).all()
    assert not np.isnan(probability[:, :70]).any()
    assert mask[50, 50] == 0, "the speck is sieved"
    assert probability[50, 50] > 0.8, "its probability is kept"
    assert (mask == 1).sum() == sum(o.area_px for o in result.objects)


@pytest.mark.parametrize("band", [1, 100, 256, 300, 600])
def test_bands_of_any_height_give_the_same(band: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    logits = ndimage.gaussian_filter(rng.normal(size=(600, 300)), 3).astype(np.float32) * 20
    valid = rng.random(logits.shape) > 0.01
    with MaskWriter.create(tmp_path, 300, 600, crs=UTM, transform=PLACE, threshold=0.7) as canvas:
        for top in range(0, 600, band):
            canvas.write_band(top, logits[top : top + band], valid[top : top + band])
        result = canvas.finish({}, min_pixels=1, fill_holes_m2=0)
    sigmoid = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_array_equal(result.mask(), np.where(valid, sigmoid > 0.7, 255))
    np.testing.assert_allclose(result.probability()[valid], sigmoid[valid], atol=1e-5)
    label, count = label_mask((sigmoid > 0.7) & valid)
    assert len(result.objects) == count
    scores = ndimage.mean(sigmoid, label, np.arange(1, count + 1))
    np.testing.assert_allclose([o.score for o in result.objects], scores, atol=1e-5)
    slices = ndimage.find_objects(label)
    assert [o.bbox for o in result.objects] == [(x.start, y.start, x.stop, y.stop) for y, x in slices]
    result.close()


def test_rows_come_once_and_in_order(tmp_path: Path) -> None:
    zeros, valid = np.zeros((10, 8), np.float32), np.ones((10, 8), bool)
    with MaskWriter.create(tmp_path, 8, 30, crs=None, transform=Affine.identity()) as canvas:
        canvas.write_band(0, zeros, valid)
        for row in (0, 5, 20):
            with pytest.raises(ConfigError, match="next row is 10"):
                canvas.write_band(row, zeros, valid)
        with pytest.raises(ConfigError, match="8 pixels wide"):
            canvas.write_band(10, zeros[:, :7], valid[:, :7])
        with pytest.raises(ConfigError, match="10 of 30 rows"):
            canvas.finish({})
        canvas.write_band(10, zeros, valid)
        with pytest.raises(ConfigError, match="exactly once"):
            canvas.write_band(20, np.zeros((11, 8), np.float32), np.ones((11, 8), bool))
        canvas.write_band(20, zeros, valid)
        with canvas.finish({}) as result:
            assert result.status is Status.NO_TARGET
        with pytest.raises(ConfigError, match="finished once"):
            canvas.finish({})


def test_nan_is_an_error_and_infinity_is_certainty(tmp_path: Path) -> None:
    logits = np.full((4, 4), np.inf, np.float32)
    valid = np.ones((4, 4), bool)
    with MaskWriter.create(tmp_path, 4, 8, crs=None, transform=Affine.identity()) as canvas:
        canvas.write_band(0, logits, valid)
        logits[1, 1] = np.nan
        with pytest.raises(EngineError, match="NaN"):
            canvas.write_band(4, logits, valid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [400, 100]),
        ({"min_pixels": 101}, [400]),
        ({"min_pixels": 1}, [400, 100, 1]),
        ({"min_area_m2": 25}, [400, 100]),
        ({"min_area_m2": 25.01}, [400]),
        ({"min_area_m2": 0}, [400, 100, 1]),
    ],
)
def test_smallest_object(paint: Paint, squares: np.ndarray, options: dict[str, float], kept: list[int]) -> None:
    result = paint(squares, fill_holes_m2=4.01, **options)
    assert [o.area_px for o in result.objects] == kept
    assert (result.mask() == 1).sum() == sum(kept)


def test_holes_are_filled_by_their_ground(paint: Paint, squares: np.ndarray) -> None:
    assert paint(squares, fill_holes_m2=4).objects[0].area_px == 384, "16 pixels of 0.25 m2 are not under 4 m2"
    assert paint(squares, fill_holes_m2=4.01).objects[0].area_px == 400
    squares[12, 20] = 0
    assert paint(squares).objects[0].area_px == 384, "a hole of one pixel is noise"
    assert paint(squares, fill_holes_m2=0).objects[0].area_px == 383


def test_metres_need_a_crs(paint: Paint, squares: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="min_pixels"):
        paint(squares, crs=None, transform=Affine.identity(), min_area_m2=5)
    with pytest.raises(ConfigError, match="not negative"):
        check_refinement(True, simplify=-1)
    with pytest.raises(ConfigError, match="not negative"):
        check_refinement(True, min_area_m2=float("nan"))


def test_without_a_crs_outlines_are_pixels(paint: Paint, squares: np.ndarray) -> None:
    result = paint(squares, crs=None, transform=Affine.identity())
    assert result.objects[1].polygon.bounds == (30, 30, 40, 40)
    assert result.objects[1].area_m2 is None
    assert result.gsd is None


def test_select_keeps_the_chosen_objects_in_mask_and_list(paint: Paint, squares: np.ndarray) -> None:
    result = paint(squares)
    part = result.select([2])
    assert [o.id for o in part.objects] == [2]
    assert (part.mask() == 1).sum() == 100
    assert (part.mask()[:, 70:] == 255).all()
    assert (result.mask() == 1).sum() == 484, "the whole result stays as it was"
    nothing = part.select([])
    assert nothing.status is Status.NO_TARGET
    assert (nothing.mask() == 1).sum() == 0
    with pytest.raises(ConfigError, match="no object with this id"):
        part.select([1])
    result.close()
    assert (part.mask() == 1).sum() == 100, "work files stay until their last user closes"


def test_work_files_go(tmp_path: Path, squares: np.ndarray) -> None:
    work = tmp_path / "w"
    work.mkdir()
    valid = squares != 255
    with MaskWriter.create(work, 80, 60, crs=UTM, transform=PLACE) as canvas:
        canvas.write_band(0, squares.astype(np.float32) - 0.5, valid)
        result = canvas.finish({})
    assert list(work.iterdir())
    part = result.select([1])
    result.close()
    result.close()
    with pytest.raises(OutputError, match="closed"):
        result.mask()
    part.close()
    assert list(work.iterdir()) == []

    with MaskWriter.create(work, 80, 60, crs=UTM, transform=PLACE) as canvas:
        canvas.write_band(0, squares.astype(np.float32) - 0.5, valid)
        result = canvas.finish({})
    del result, canvas
    assert list(work.iterdir()) == [], "a forgotten result leaves nothing behind"

    with pytest.raises(KeyboardInterrupt), MaskWriter.create(work, 80, 60, crs=UTM, transform=PLACE):
        raise KeyboardInterrupt
    assert list(work.iterdir()) == []


def test_a_failure_needs_a_reason_and_has_no_mask(tmp_path: Path) -> None:
    place = {"width": 4, "height": 4, "crs": None, "transform": Affine.identity(), "provenance": {}}
    failed = Result.failure("the model ran out of memory", **place)
    assert failed.status is Status.FAILED
    with pytest.raises(OutputError, match="out of memory"):
        failed.mask()
    for save in (failed.save_mask, failed.save_picture):
        with pytest.raises(OutputError, match="failed"):
            save(tmp_path / "m.png")
    with pytest.raises(OutputError, match="failed"):
        failed.save_vector(tmp_path / "m.gpkg")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="reason"):
        Result.failure("", **place)


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan")])
def test_a_threshold_lies_between_nothing_and_everything(threshold: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        MaskWriter.create(tmp_path, 4, 4, crs=None, transform=Affine.identity(), threshold=threshold)
    with pytest.raises(OutputError):
        MaskWriter.create(tmp_path / "nowhere", 4, 4, crs=None, transform=Affine.identity())
