"""The whole flow on real files, with engines whose answers are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from pyproj import Transformer
from rasterio.transform import from_origin
from scipy import ndimage

from flow_engines import BoxFilterEngine
from terraprompt.errors import ConfigError, EngineError, OutputError, PromptError, SceneError
from terraprompt.flow.session import Session, segment
from terraprompt.geometry.connectivity import label
from terraprompt.io.prompt_file import prompt_from_features
from terraprompt.language.parse_selector import parse_selector
from terraprompt.outputs import MaskWriter, Status
from terraprompt.prompt import Prompt, Task
from terraprompt.raster import open_scene

TRANSFORM = from_origin(500_000, 5_400_000, 0.5, 0.5)


def write(path: Path, grey: np.ndarray, **profile) -> Path:
    profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": TRANSFORM} | profile
    with rasterio.open(
        path, "w", width=grey.shape[1], height=grey.shape[0], count=3, dtype=grey.dtype, **profile
    ) as out:
        out.write(np.stack([grey] * 3))
    return path


def cloudy(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft bright and dark patches, 1..255."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 9)
    return np.clip(128 + 100 * noise / noise.std() / 2, 1, 255).astype(np.uint8)


@pytest.fixture
def painted(monkeypatch):
    """The logits and validity of every band that was written, as [(top, logits, valid)]."""
    bands, write_band = [], MaskWriter.write_band

    def record(self, top, logits, valid):
        bands.append((top, logits.copy(), valid.copy()))
        write_band(self, top, logits, valid)

    monkeypatch.setattr(MaskWriter, "write_band", record)
    return bands


def whole(bands):
    return np.concatenate([b[1] for b in bands]), np.concatenate([b[2] for b in bands])


def test_tiled_is_whole_with_nodata_and_without_a_ring(tmp_path, painted):
    grey = cloudy(250, 310)
    grey[90:160, 100:220] = 0
    grey[:, :3] = 0
    engine = BoxFilterEngine()
    result = segment(write(tmp_path / "a.tif", grey, nodata=0), "the bright parts", engine=engine)
    logits, valid = whole(painted)
    expected = engine.logits(np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(valid, grey > 0)
    np.testing.assert_allclose(logits[valid], expected[valid], atol=1e-5)
    assert len(engine.encoded) > 10
    assert result.status is Status.FOUND
    mask = result.mask()
    assert (mask[grey == 0] == 255).all()
    assert np.isnan(result.probability()[grey == 0]).all()
    assert (mask[249, 3:] == (expected[249, 3:] > 0)).mean() > 0.99


def test_one_object_one_id_over_thousands_of_tiles_seams(tmp_path):
    rng = np.random.default_rng(3)
    grey = np.full((900, 1000), 20, np.uint8)
    for y, x, r in zip(rng.integers(0, 900, 3000), rng.integers(0, 1000, 3000), rng.integers(1, 5, 3000), strict=True):
        grey[max(y - r, 0) : y + r, max(x - r, 0) : x + r] = 220
    engine = BoxFilterEngine(64, 16, radius=0)
    result = segment(write(tmp_path / "blobs.tif", grey), "the blobs", engine=engine, min_pixels=1, simplify=0)
    labels, count = label(grey > 128)
    assert count > 1000
    assert len(result.objects) == len({item.id for item in result.objects}) == count
    assert sorted(item.area_px for item in result.objects) == sorted(np.bincount(labels.ravel())[1:].tolist())


def test_the_extent_does_not_change_the_interior(tmp_path):
    path = write(tmp_path / "a.tif", cloudy(260, 300).astype(np.uint16) * 37)
    masks = []
    for x0, y0, x1, y1 in [(0, 0, 300, 260), (31, 17, 290, 251), (50, 60, 297, 259)]:
        result = segment(
            path, "bright", engine=BoxFilterEngine(), bbox=(x0, y0, x1, y1), bbox_crs="pixel", min_pixels=1
        )
        assert result.provenance["stretch"]["mode"] == "percentile"
        assert (result.transform.c, result.transform.f) == (500_000 + x0 / 2, 5_400_000 - y0 / 2)
        masks.append(result.probability()[80 - y0 : 240 - y0, 70 - x0 : 280 - x0])
    np.testing.assert_allclose(masks[1], masks[0], atol=2e-5)
    np.testing.assert_allclose(masks[2], masks[0], atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (40, 200)])
def test_scenes_smaller_than_a_tile(tmp_path, shape):
    grey = np.full(shape, 250, np.uint8)
    engine = BoxFilterEngine(radius=0)
    result = segment(write(tmp_path / "a.tif", grey), "bright", engine=engine, min_pixels=1, stretch="none")
    assert (result.mask() == 1).all()
    assert len(result.objects) == 1


def test_empty_tiles_are_not_encoded(tmp_path):
    grey = cloudy(300, 300)
    grey[:, :200] = 0
    grey[150, 10] = 77  # one valid pixel is reason enough
    engine = BoxFilterEngine(100, 0, radius=0)
    segment(write(tmp_path / "a.tif", grey, nodata=0), "bright", engine=engine)
    assert len(engine.encoded) == 4


def test_nothing_found_is_a_status(tmp_path):
    result = segment(
        write(tmp_path / "a.tif", np.full((50, 50), 9, np.uint8)),
        "bright",
        engine=BoxFilterEngine(),
        stretch="none",
    )
    assert result.status is Status.NO_TARGET
    assert result.objects == ()
    assert (result.mask() == 0).all()


def test_provenance_and_progress(tmp_path):
    path, steps = write(tmp_path / "a.tif", cloudy(200, 250)), []
    result = segment(path, "Where could one sit?", engine=BoxFilterEngine(), progress=lambda *step: steps.append(step))
    made = result.provenance
    assert (made["instruction"], made["task"], made["engine"]) == (
        "Where could one sit?",
        "reasoning",
        "boxfilter",
    )
    assert (made["revision"], made["checksum"], made["source"]) == ("1", "0" * 64, str(path))
    assert made["settings"]["threshold"] == 0.5
    assert made["settings"]["radius"] == 7
    assert made["bands"] == [1, 2, 3]
    assert made["created"].endswith("+00:00")
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1] == 3 * 4


def test_a_selector_decides_over_the_whole_scene(tmp_path):
    grey = np.full((300, 300), 10, np.uint8)
    grey[20:40, 20:40] = grey[250:290, 200:290] = grey[200:230, 10:30] = 250
    engine = BoxFilterEngine(radius=0)
    parsed = parse_selector("the largest building")
    assert parsed is not None
    path = write(tmp_path / "a.tif", grey)
    result = segment(path, "the largest building", engine=engine, selector=parsed)
    assert [item.bbox for item in result.objects] == [(200, 250, 290, 290)]
    assert result.mask().sum() == 40 * 90
    assert {prompt.text for prompt in engine.asked} == {parsed.phrase}
    assert result.provenance["instruction"] == "the largest building"
    north = segment(path, "x", engine=engine, selector=parse_selector("the northernmost building"))
    assert [item.bbox for item in north.objects] == [(20, 20, 40, 40)]


def test_north_is_that_of_the_map_on_a_turned_raster(tmp_path):
    grey = np.full((200, 200), 10, np.uint8)
    grey[20:40, 90:110] = grey[160:180, 90:110] = 250
    upside_down = rasterio.Affine(-0.5, 0, 500_000, 0, 0.5, 5_400_000)
    path = write(tmp_path / "a.tif", grey, transform=upside_down)
    engine = BoxFilterEngine(radius=0)
    north = segment(path, "x", engine=engine, selector=parse_selector("the northernmost building"))
    assert [item.bbox for item in north.objects] == [(90, 160, 110, 180)]
    top = segment(path, "x", engine=engine, selector=parse_selector("the topmost building"))
    assert [item.bbox for item in top.objects] == [(90, 20, 110, 40)]


# Sessions


def test_a_second_prompt_only_answers(tmp_path, monkeypatch):
    grey = cloudy(200, 250)
    grey[:80, :120] = 0
    with open_scene(write(tmp_path / "a.tif", grey, nodata=0)) as scene:
        engine = BoxFilterEngine()
        session = Session(engine, scene)
        first = session.segment("bright").mask()
        encoded, asked = len(engine.encoded), len(engine.asked)
        monkeypatch.setattr(scene, "read", lambda *a, **k: pytest.fail("the scene was read again"))
        second = session.segment("very bright").mask()
        assert len(engine.encoded) == encoded
        assert len(engine.asked) == 2 * asked
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("tiles_kept", [0, 1, 5])
def test_a_small_cache_changes_nothing_but_time(tmp_path, tiles_kept):
    with open_scene(write(tmp_path / "a.tif", cloudy(200, 250))) as scene:
        engine = BoxFilterEngine()
        session = Session(engine, scene, cache_bytes=tiles_kept * 96 * 96 * 3)
        first = session.segment("bright").probability()
        np.testing.assert_array_equal(first, session.segment("bright").probability())
        assert 12 < len(engine.encoded) <= 24


def test_embeddings_on_disk_serve_another_session(tmp_path):
    path, folder = write(tmp_path / "a.tif", cloudy(200, 250)), tmp_path / "cache" / "deep"
    first, second, other = BoxFilterEngine(), BoxFilterEngine(), BoxFilterEngine(revision="2")
    with open_scene(path) as scene:
        before = Session(first, scene, cache_dir=folder, cache_bytes=0).segment("bright").mask()
        after = Session(second, scene, cache_dir=folder).segment("bright").mask()
        np.testing.assert_array_equal(before, after)
        assert len(first.encoded) == 12
        assert second.encoded == []
        Session(other, scene, cache_dir=folder).segment("bright")
        assert len(other.encoded) == 12  # another model sees anew
    assert not list(folder.glob("*.part"))


def test_a_damaged_cache_entry_is_made_again(tmp_path):
    path, folder = write(tmp_path / "a.tif", cloudy(90, 90)), tmp_path / "cache"
    with open_scene(path) as scene:
        Session(BoxFilterEngine(), scene, cache_dir=folder).segment("bright")
        (entry,) = folder.iterdir()
        entry.write_bytes(entry.read_bytes()[:100])
        engine = BoxFilterEngine()
        Session(engine, scene, cache_dir=folder).segment("bright")
        assert len(engine.encoded) == 1


def test_a_cache_folder_that_cannot_serve_is_refused(tmp_path):
    with open_scene(write(tmp_path / "a.tif", cloudy(90, 90))) as scene:
        with pytest.raises(OutputError, match="cannot be made"):
            Session(BoxFilterEngine(), scene, cache_dir=tmp_path / "a.tif" / "cache")
        inner = BoxFilterEngine()
        members = ("name", "info", "tile", "tasks", "encode", "predict")
        opaque = SimpleNamespace(**{name: getattr(inner, name) for name in members})
        with pytest.raises(ConfigError, match="cannot be kept on disk"):
            Session(opaque, scene, cache_dir=tmp_path / "cache")


def test_a_changed_file_is_seen_anew(tmp_path):
    folder = tmp_path / "cache"
    for seed in (0, 1):
        with open_scene(write(tmp_path / "a.tif", cloudy(90, 90 + seed, seed))) as scene:
            engine = BoxFilterEngine()
            Session(engine, scene, cache_dir=folder).segment("bright")
            assert len(engine.encoded) == 1


# What goes wrong is said


def explode(logits):
    raise ValueError("out of cheese")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (explode, "out of cheese"),
        (lambda logits: np.where(logits > 0, np.nan, logits), "NaN"),
        (lambda logits: logits[:-1], "logits must be"),
    ],
)
def test_a_failing_tile_is_an_error_that_names_it(tmp_path, spoil, said):
    path = write(tmp_path / "a.tif", cloudy(200, 250))
    with pytest.raises(EngineError, match=rf'"boxfilter" failed: .*{said}.*tile x \d+\.\.\d+, y \d+\.\.\d+'):
        segment(path, "bright", engine=BoxFilterEngine(spoil=spoil), workdir=tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["a.tif"]  # nothing half done stays


def test_infinite_logits_are_certain_answers(tmp_path):
    engine = BoxFilterEngine(radius=0, spoil=lambda logits: np.where(logits > 0, np.inf, -np.inf))
    grey = cloudy(200, 250)
    result = segment(write(tmp_path / "a.tif", grey), "bright", engine=engine, min_pixels=0, fill_holes_m2=0)
    np.testing.assert_array_equal(result.mask(), grey > 128)


def test_damage_far_down_the_file(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (600, 600), np.uint8)
    path = write(tmp_path / "a.tif", grey, tiled=True, blockxsize=64, blockysize=64, compress="deflate", crs=None)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.raises(SceneError, match=r"pixels x .* cannot be read"):
        segment(path, "bright", engine=BoxFilterEngine())


def test_requests_that_make_no_sense(tmp_path):
    grey = cloudy(100, 100)
    grey[:50] = 0
    path = write(tmp_path / "a.tif", grey, nodata=0)
    engine = BoxFilterEngine()
    with pytest.raises(PromptError, match="empty"):
        segment(path, "  ", engine=engine)
    with pytest.raises(PromptError, match="outside the scene"):
        segment(path, Prompt(points=((500, 5),)), engine=engine)
    with pytest.raises(PromptError, match="no data"):
        segment(path, Prompt(boxes=((2, 2, 9, 9),)), engine=engine)
    with pytest.raises(SceneError, match="No pixel within the extent"):
        segment(path, "bright", engine=engine, bbox=(0, 0, 100, 40), bbox_crs="pixel")
    with pytest.raises(ConfigError, match="threshold"):
        segment(path, "bright", engine=engine, threshold=1.0)
    with pytest.raises(ConfigError, match="min_pixels"):
        segment(path, "bright", engine=engine, min_pixels=-1)
    with pytest.raises(EngineError, match="Unknown engine"):
        segment(path, "bright", engine="nanoo")
    with pytest.raises(ConfigError, match="batch"):
        segment(path, "bright", engine=engine, batch=0)
    with pytest.raises(SceneError, match="does not exist"):
        segment(tmp_path / "none.tif", "bright", engine=engine)
    engine.tasks = frozenset({Task.INTERACTIVE})
    with pytest.raises(EngineError, match="answers interactive prompts only"):
        segment(path, "bright", engine=engine)


# Presence


def test_doubt_rejects_a_tile_and_a_lower_threshold_brings_it_back(tmp_path):
    grey = np.full((90, 180), 10, np.uint8)
    grey[30:60, 30:60] = grey[30:60, 120:150] = 250
    path = write(tmp_path / "a.tif", grey)
    engine = BoxFilterEngine(90, 0, radius=0)
    answers = iter([0.9, 0.4] * 2)
    engine.presence = lambda image: next(answers)
    assert [item.bbox[0] for item in segment(path, "x", engine=engine).objects] == [30]
    assert [item.bbox[0] for item in segment(path, "x", engine=engine, threshold=0.3).objects] == [30, 120]
    engine.presence = lambda image: float("nan")
    with pytest.raises(EngineError, match="presence"):
        segment(path, "x", engine=engine)


def test_nodata_of_the_python_call(tmp_path):
    grey = cloudy(96, 96)
    grey[:20] = 255
    path = write(tmp_path / "scene.tif", grey)
    with segment(path, "bright", engine=BoxFilterEngine(), nodata=255) as result:
        np.testing.assert_array_equal(result.mask() == 255, grey == 255)
        assert result.provenance["settings"]["nodata"] == 255
    with segment(path, "bright", engine=BoxFilterEngine()) as result:
        assert not (result.mask() == 255).any()
        assert "nodata" not in result.provenance["settings"]


@pytest.mark.parametrize("name", ["text", "point", "box", "part", "selected"])
def test_a_picture_needs_neither_scene_nor_prompt(tmp_path: Path, name: str) -> None:
    """The same picture comes of a result whose scene is closed as of one that is given scene and prompt."""
    path = write(tmp_path / "s.tif", cloudy(90, 120))
    prompt = {"point": Prompt(points=((20.5, 30.5),)), "box": Prompt(boxes=((10, 10, 60, 50),))}.get(name, "the bright")
    bbox = (10, 10, 100, 80) if name == "part" else None
    options = {"bbox": bbox, "bbox_crs": "pixel" if bbox else None}
    with open_scene(path, **options) as scene:
        session = Session(BoxFilterEngine(), scene)
        with session.segment(prompt) as result:
            marks = scene.to_pixels(prompt) if isinstance(prompt, Prompt) else None
            shown = result.select([result.objects[0].id]) if name == "selected" else result
            shown.save_picture(tmp_path / "given.png", scene_rgb=session.preview, prompt=marks)
    with segment(path, prompt, engine=BoxFilterEngine(), **options) as result:
        shown = result.select([result.objects[0].id]) if name == "selected" else result
        shown.save_picture(tmp_path / "own.png")
    given, own = (np.asarray(Image.open(tmp_path / f"{which}.png")) for which in ("given", "own"))
    np.testing.assert_array_equal(given, own)
    assert len(np.unique(own[:60].reshape(-1, 3), axis=0)) > 100, "the scene is seen"


def test_features_are_prompts_in_any_crs(tmp_path: Path) -> None:
    """Points of the scene's CRS, of another, and those that lie outside, which are left out with a remark."""
    path = write(tmp_path / "s.tif", cloudy(90, 120))
    spot = shapely.Point(500_010, 5_399_985)
    lonlat = shapely.Point(Transformer.from_crs(32633, 4326, always_xy=True).transform(spot.x, spot.y))
    with segment(path, Prompt(points=((20.0, 30.0),)), engine=BoxFilterEngine()) as result:
        expected = result.mask()
    here = {"type": "Feature", "geometry": shapely.geometry.mapping(lonlat), "properties": {}}
    away = {"type": "Feature", "geometry": {"type": "Point", "coordinates": (1.0, 2.0)}, "properties": {}}
    sources = (
        shapely.geometry.mapping(lonlat),
        {"type": "FeatureCollection", "features": [here]},
        {"type": "FeatureCollection", "features": [away, here]},
        shapely.geometry.mapping(spot) | {"crs": {"type": "name", "properties": {"name": "EPSG:32633"}}},
        prompt_from_features(spot, crs="EPSG:32633"),
    )
    for source in sources:
        with segment(path, source, engine=BoxFilterEngine()) as result:
            np.testing.assert_array_equal(result.mask(), expected)
            left_out = any("lies outside the scene and was left out" in remark for remark in result.remarks)
            assert left_out == (source is sources[2])
    with pytest.raises(PromptError, match="outside the scene"):
        segment(path, away, engine=BoxFilterEngine())
