"""Points and boxes: looked at through windows, answered on the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine, from_origin

from flow_engines import BoxFilterEngine, PointedEngine
from terraprompt.flow.session import Session, segment
from terraprompt.flow.stitch import apply_presence
from terraprompt.flow.windows import PromptWindow, WindowLogits
from terraprompt.outputs import Status
from terraprompt.prompt import Prompt
from terraprompt.raster import Tile, open_scene

UTM = "EPSG:32633"
NORTH_UP = from_origin(500_000, 5_400_000, 0.5, 0.5)
TURNED = Affine(0.4, 0.3, 500_000, 0.3, -0.4, 5_400_000)


def write(path: Path, grey: np.ndarray, **profile) -> Path:
    profile = {"driver": "GTiff", "crs": UTM, "transform": NORTH_UP} | profile
    with rasterio.open(
        path, "w", width=grey.shape[1], height=grey.shape[0], count=3, dtype=grey.dtype, **profile
    ) as out:
        out.write(np.stack([grey] * 3))
    return path


def roofs(height: int = 300, width: int = 400) -> np.ndarray:
    """Three bright rectangles: 8 x 6, 40 x 30 and 150 x 200 pixels (width x height)."""
    grey = np.full((height, width), 20, np.uint8)
    grey[50:56, 60:68] = grey[200:230, 40:80] = grey[60:260, 200:350] = 240
    return grey


SMALL, MIDDLE, LARGE = (60, 50, 68, 56), (40, 200, 80, 230), (200, 60, 350, 260)


def iou(mask: np.ndarray, box: tuple[int, int, int, int]) -> float:
    truth = np.zeros(mask.shape, bool)
    truth[box[1] : box[3], box[0] : box[2]] = True
    return float((truth & (mask == 1)).sum() / (truth | (mask == 1)).sum())


@pytest.mark.parametrize("box", [SMALL, MIDDLE, LARGE])
def test_a_box_finds_what_it_holds(tmp_path, box):
    engine = PointedEngine()
    x0, y0, x1, y1 = box
    result = segment(
        write(tmp_path / "a.tif", roofs()), Prompt(boxes=((x0 - 1, y0 - 1, x1 + 1, y1 + 1),)), engine=engine
    )
    assert len(result.objects) == 1
    assert iou(result.mask(), box) > 0.9
    (grid,) = engine.encoded
    assert max(grid) == 96


def test_a_small_target_is_enlarged_to_about_half_the_view(tmp_path):
    engine = PointedEngine()
    segment(write(tmp_path / "a.tif", roofs()), Prompt(boxes=((40, 200, 80, 230),)), engine=engine)
    (x0, y0, x1, y1) = engine.asked[0].boxes[0]
    np.testing.assert_allclose((x0, y0, x1, y1), (24, 30, 72, 66), atol=0.5)
    assert engine.encoded == [(96, 96)]
    engine = PointedEngine()
    segment(write(tmp_path / "a.tif", roofs()), Prompt(boxes=((62, 52, 64, 54),)), engine=engine)
    x0, _, x1, _ = engine.asked[0].boxes[0]
    assert x1 - x0 == pytest.approx(8)  # four times and no more


def test_a_point_looks_twice_at_a_small_target(tmp_path):
    path = write(tmp_path / "a.tif", roofs())
    engine = PointedEngine()
    result = segment(path, Prompt(points=((64, 53),)), engine=engine)
    assert len(engine.asked) == 2
    assert iou(result.mask(), SMALL) > 0.9
    assert engine.encoded == [(96, 96), (96, 96)]
    once = PointedEngine()
    assert iou(segment(path, Prompt(points=((64, 53),)), engine=once, refine=False).mask(), SMALL) > 0.9
    assert len(once.asked) == 1


def test_points_far_apart_share_one_wider_window(tmp_path):
    engine = PointedEngine()
    prompt = Prompt(points=((210, 70), (340, 250), (100, 215)), labels=(1, 1, 0))
    result = segment(write(tmp_path / "a.tif", roofs()), prompt, engine=engine)
    assert iou(result.mask(), LARGE) > 0.9
    assert len(engine.asked[0].points) == 3
    far = Prompt(points=((64, 53), (390, 290)), labels=(1, 0))
    segment(write(tmp_path / "b.tif", roofs()), far, engine=engine)
    assert engine.asked[-1].labels == (1,)  # a negative point outside the window says nothing there


def test_several_targets_in_one_prompt(tmp_path):
    engine = PointedEngine()
    prompt = Prompt(boxes=(MIDDLE, LARGE), points=((64, 53),))
    result = segment(write(tmp_path / "a.tif", roofs()), prompt, engine=engine)
    assert len(result.objects) == 3
    mask = result.mask()
    assert (mask == (roofs() > 100)).mean() > 0.995


def test_a_second_look_further_down_hides_no_other_target(tmp_path):
    """The first target's closer window begins in later rows than the second target's only window."""
    grey = np.full((1400, 300), 20, np.uint8)
    grey[700:708, 40:48] = grey[508:524, 200:220] = 240
    engine = PointedEngine(512, 0)
    prompt = Prompt(boxes=((199, 507, 221, 525),), points=((44, 704),))
    result = segment(write(tmp_path / "a.tif", grey), prompt, engine=engine)
    assert engine.encoded == [(512, 300), (512, 512), (512, 512)]
    assert sorted(item.bbox for item in result.objects) == [(40, 700, 48, 708), (200, 508, 220, 524)]


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED], ids=["north-up", "turned"])
@pytest.mark.parametrize("kind", ["point", "box"])
def test_longitude_and_latitude(tmp_path, transform, kind):
    path = write(tmp_path / "a.tif", roofs(), transform=transform)
    to_lonlat = pyproj.Transformer.from_crs(UTM, 4326, always_xy=True)

    def lonlat(x, y):
        t = transform
        return to_lonlat.transform(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f)

    if kind == "point":
        prompt = Prompt(points=(lonlat(60, 215),), crs="EPSG:4326")
    else:
        prompt = Prompt(boxes=((*lonlat(45, 205), *lonlat(75, 225)),), crs="EPSG:4326")
    result = segment(path, prompt, engine=PointedEngine())
    assert iou(result.mask(), MIDDLE) > 0.9
    assert result.provenance["instruction"].endswith("(EPSG:4326)")


def test_only_the_window_is_read(tmp_path, monkeypatch):
    grey = np.full((3000, 2000), 20, np.uint8)
    grey[2500:2530, 1500:1540] = 240
    grey[:100] = 0
    path = write(tmp_path / "a.tif", grey, nodata=0, tiled=True)
    with open_scene(path) as scene:
        session, read, pixels = Session(PointedEngine(), scene), scene.read, []

        def counting(left, top, width, height, **options):
            pixels.append(width * height)
            return read(left, top, width, height, **options)

        monkeypatch.setattr(scene, "read", counting)
        result = session.segment(Prompt(boxes=((1490, 2490, 1550, 2540),)))
        assert [item.bbox for item in result.objects] == [(1500, 2500, 1540, 2530)]
        assert sum(pixels) < 2 * 130 * 130
        probability = result.probability()
        assert probability[1000, 1000] == 0
        assert not np.isnan(probability).any()  # what was not asked about is not looked at


def test_nodata_inside_the_window_is_carried(tmp_path):
    grey = roofs()
    grey[:, 75:] = 0
    result = segment(write(tmp_path / "a.tif", grey, nodata=0), Prompt(boxes=(MIDDLE,)), engine=PointedEngine())
    mask = result.mask()
    assert (mask[200:230, 75:100] == 255).all()
    assert (mask[200:230, 42:74] == 1).all()


def test_clicks_nearby_share_what_was_seen(tmp_path):
    with open_scene(write(tmp_path / "a.tif", roofs())) as scene:
        engine = PointedEngine()
        session = Session(engine, scene)
        session.segment(Prompt(points=((274, 152),)))
        seen = len(engine.encoded)
        session.segment(Prompt(points=((276, 153),)))
        session.segment(Prompt(points=((276, 153), (290, 160)), labels=(1, 0)))
        assert len(engine.encoded) == seen


def test_a_scene_smaller_than_the_view(tmp_path):
    grey = np.full((20, 30), 20, np.uint8)
    grey[5:10, 8:20] = 240
    for prompt in (Prompt(points=((10, 7),)), Prompt(boxes=((7, 4, 21, 11),)), Prompt(points=((30, 20),))):
        result = segment(write(tmp_path / "a.tif", grey), prompt, engine=PointedEngine(), stretch="none")
        expected = Status.NO_TARGET if prompt.points == ((30, 20),) else Status.FOUND
        assert result.status is expected


@settings(deadline=None)
@given(
    width=st.integers(1, 60), height=st.integers(1, 60), grid=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    left=st.integers(0, 50), top=st.integers(0, 50), cut=st.floats(0, 1),
)  # fmt: skip
def test_fields_come_back_to_their_place(width, height, grid, left, top, cut):
    """A field linear in scene coordinates is found again, except within half a grid pixel of the window's edge."""
    tile = Tile(left, top, width, height, grid)
    ys, xs = np.mgrid[0 : grid[0], 0 : grid[1]] + 0.5
    at = tile.frame.points_back(np.stack([xs, ys], axis=-1))
    logits = (3 * at[..., 0] - 2 * at[..., 1]).astype(np.float32)
    focus = WindowLogits(PromptWindow(0, Prompt(points=((left, top),)), tile, top), logits)
    middle = top + round(height * cut)
    parts = [focus.rows(a, b) for a, b in ((top, middle), (middle, top + height)) if b > a]
    got = np.concatenate(parts)
    sy, sx = np.mgrid[top : top + height, left : left + width] + 0.5
    limit_x, limit_y = width / grid[1] / 2, height / grid[0] / 2
    sx = np.clip(sx, left + limit_x, left + width - limit_x)
    sy = np.clip(sy, top + limit_y, top + height - limit_y)
    np.testing.assert_allclose(got, 3 * sx - 2 * sy, atol=1e-3)


@settings(deadline=None)
@given(
    logits=st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=20).map(sorted),
    presence=st.floats(0, 1),
)
def test_presence_keeps_the_order_and_rejects_below_one_half(logits, presence):
    from terraprompt.engines.base import Answer

    given_logits = np.array([logits], np.float32)
    out = apply_presence(Answer(given_logits, presence), given_logits.shape)
    assert (np.diff(out[0]) >= 0).all()
    assert (out <= given_logits + 1e-5).all() or presence >= 0.5 or (given_logits < -29).any()
    if presence >= 0.5:
        np.testing.assert_array_equal(out, given_logits)
    else:
        assert (out < 0).all()


def test_a_filter_gives_the_same_through_a_window_of_scene_pixels(tmp_path):
    """A point window is in scene pixels: inside, a local model answers as it does over the whole scene."""
    grey = np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)
    path = write(tmp_path / "a.tif", grey)
    pointed = segment(path, Prompt(points=((100, 100),)), engine=BoxFilterEngine(), refine=False).probability()
    whole = segment(path, "bright", engine=BoxFilterEngine()).probability()
    np.testing.assert_allclose(pointed[70:130, 70:130], whole[70:130, 70:130], atol=2e-5)
    assert (pointed[:40] == 0).all()
