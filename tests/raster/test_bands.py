"""Row bands: the pixels of the file, each decoded once, with errors where they happen."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scene_rasters import NORTH_UP

from terraprompt.errors import SceneError
from terraprompt.raster import Tile, estimate_stretch, open_scene, plan, read_bands, read_tile

NOISE = np.random.default_rng(0).integers(1, 255, (3, 230, 310), np.uint8)


@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 64, "blockysize": 64}], ids=["strips", "tiles"])
@pytest.mark.parametrize("bbox", [None, (37, 21, 290, 222)], ids=["whole", "bbox"])
def test_bands_hold_the_pixels_of_the_file(make_raster, monkeypatch, layout, bbox):
    monkeypatch.setattr("terraprompt.raster.bands._CHUNK", 5000)
    values = NOISE.copy()
    values[:, 100:140, 50:90] = 0
    x0, y0, x1, y1 = bbox or (0, 0, 310, 230)
    with open_scene(make_raster(values, nodata=0, **layout), bbox=bbox, bbox_crs="pixel") as scene:
        tiles = plan(scene.width, scene.height, 64, 24)
        bands = list(read_bands(scene, tiles, estimate_stretch(scene)))
        assert [band.top for band in bands] == list(tiles.ys)
        expected = np.moveaxis(values[:, y0:y1, x0:x1], 0, -1)
        for band in bands:
            np.testing.assert_array_equal(band.rgb, expected[band.top : band.top + 64])
            np.testing.assert_array_equal(band.valid, expected[band.top : band.top + 64].any(axis=-1))
            for tile in tiles.row(band.row):
                np.testing.assert_array_equal(
                    band.image(tile), expected[tile.top : tile.bottom, tile.left : tile.right]
                )
                assert band.holds(tile) == band.valid[:, tile.left : tile.right].any()


def test_every_pixel_is_read_once_in_another_thread(make_raster, monkeypatch):
    with open_scene(make_raster(NOISE)) as scene:
        tiles, stretch = plan(310, 230, 64, 24), estimate_stretch(scene)
        counts, threads, read = np.zeros((230, 310), int), set(), scene.read

        def counting(left, top, width, height, **options):
            counts[top : top + height, left : left + width] += 1
            threads.add(threading.current_thread())
            return read(left, top, width, height, **options)

        monkeypatch.setattr(scene, "read", counting)
        assert len(list(read_bands(scene, tiles, stretch))) == tiles.rows
        assert (counts == 1).all()
        assert threading.main_thread() not in threads


def test_some_rows_alone(make_raster):
    with open_scene(make_raster(NOISE)) as scene:
        tiles, stretch = plan(310, 230, 64, 24), estimate_stretch(scene)
        bands = list(read_bands(scene, tiles, stretch, rows=[1, 4]))
        assert [band.row for band in bands] == [1, 4]
        np.testing.assert_array_equal(bands[1].rgb, np.moveaxis(NOISE, 0, -1)[tiles.ys[4] : tiles.ys[4] + 64])
        assert list(read_bands(scene, tiles, stretch, rows=[])) == []


def test_damage_shows_where_it_is(make_raster):
    path = make_raster(NOISE, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with open_scene(path) as scene:
        bands = read_bands(scene, plan(310, 230, 64, 0), estimate_stretch_of_noise())
        assert next(bands).top == 0
        with pytest.raises(SceneError, match=r"pixels x \d+\.\.\d+, y \d+\.\.\d+ cannot be read"):
            list(bands)


def estimate_stretch_of_noise():
    from terraprompt.raster import Stretch

    return Stretch("none", (0.0,) * 3, (255.0,) * 3)


def test_leaving_early_ends_the_thread(make_raster):
    with open_scene(make_raster(NOISE)) as scene:
        bands = read_bands(scene, plan(310, 230, 64, 24), estimate_stretch(scene))
        next(bands)
        bands.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("terraprompt-read")]


def test_tiles_on_other_grids(make_raster):
    gradient = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, None, :] * 2, (3, 80, 100)).copy()
    gradient[:, 70:] = 255
    with open_scene(make_raster(gradient, nodata=255, transform=NORTH_UP)) as scene:
        stretch = estimate_stretch(scene)
        native, valid = read_tile(scene, stretch, Tile(10, 20, 40, 60))
        np.testing.assert_array_equal(native[:50], np.moveaxis(gradient, 0, -1)[20:70, 10:50])
        assert valid[:50].all()
        assert not valid[50:].any()
        assert (native[50:] == 0).all()
        finer, valid = read_tile(scene, stretch, Tile(10, 20, 40, 40, (160, 160)))
        assert finer.shape == (160, 160, 3)
        assert valid.all()
        at = (np.arange(160) + 0.5) / 4 + 10  # the gradient continues at the right place
        np.testing.assert_allclose(finer[80, 4:-4, 0], (2 * (at - 0.5))[4:-4], atol=1)
        coarser, valid = read_tile(scene, stretch, Tile(0, 0, 100, 80, (20, 25)))
        assert coarser.shape == (20, 25, 3)
        np.testing.assert_allclose(coarser[5, :, 1], 2 * (np.arange(25) * 4 + 1.5), atol=1)
        assert not valid[18:].any()
