"""Words of size and place over the whole scene, on results of real rasters."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from flow_engines import BoxFilterEngine
from terraprompt.errors import OutputError
from terraprompt.flow.selection import apply_selector
from terraprompt.flow.session import Session
from terraprompt.language.parse_selector import Selector
from terraprompt.outputs import Status
from terraprompt.raster import open_scene

UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)}
#: ids 1, 2, 3 in raster order
ROOFS = [(10, 60, 20, 80), (40, 10, 60, 30), (70, 40, 100, 70)]


@pytest.fixture
def found(tmp_path):
    """``found(boxes, profile)``: a scene and the result with one object a box (top, left, bottom, right)."""
    open_scenes = []

    def make(boxes=ROOFS, profile=UTM, shape=(120, 120)):
        grey = np.full(shape, 10, np.uint8)
        for top, left, bottom, right in boxes:
            grey[top:bottom, left:right] = 250
        height, width = shape
        path = tmp_path / "scene.tif"
        with rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8", **profile
        ) as out:
            out.write(grey, 1)
        scene = open_scene(path)
        open_scenes.append(scene)
        result = Session(BoxFilterEngine(radius=0), scene).segment("x", selector=None)
        assert len(result.objects) == len(boxes)
        return scene, result

    yield make
    for scene in open_scenes:
        scene.close()


def ids(result):
    return [item.id for item in result.objects]


@pytest.mark.parametrize(
    ("selector", "kept"),
    [
        (Selector("largest"), [3]),
        (Selector("largest", rank=2), [2]),
        (Selector("smallest", count=2), [1, 2]),
        (Selector("extreme", "top"), [1]),
        (Selector("extreme", "right"), [1]),
        (Selector("extreme", "left", count=2), [2, 3]),
        (Selector("extreme", "bottom", compass=True), [3]),
        (Selector("central"), [3]),
        (Selector("region", "left half"), [2, 3]),
        (Selector("region", "lower right", compass=True), []),
        (Selector("largest", within="upper half"), [2]),
        (Selector("largest", rank=4), []),
    ],
    ids=str,
)
@pytest.mark.parametrize("profile", [UTM, {}], ids=["utm", "picture"])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_objects_are_chosen_in_list_and_mask(found, profile, selector, kept):
    scene, result = found(profile=profile)
    chosen = apply_selector(result, selector, scene)
    assert ids(chosen) == kept
    expected = np.zeros((scene.height, scene.width), np.uint8)
    for i in kept:
        top, left, bottom, right = ROOFS[i - 1]
        expected[top:bottom, left:right] = 1
    np.testing.assert_array_equal(chosen.mask(), expected)
    assert chosen.status is (Status.FOUND if kept else Status.NO_TARGET)


def test_the_whole_result_is_closed_and_the_choice_lives_on(found):
    scene, result = found()
    chosen = apply_selector(result, Selector("largest"), scene)
    with pytest.raises(OutputError, match="closed"):
        result.mask()
    assert chosen.mask().any()


def test_nothing_to_choose_from(found):
    scene, result = found(boxes=[])
    assert apply_selector(result, Selector("largest"), scene) is result
    assert result.mask().shape == (120, 120)


def test_the_largest_is_so_on_the_ground(found):
    # Web Mercator, 60 to 65 degrees north: the lower object has fewer pixels but more ground.
    tall = {"crs": "EPSG:3857", "transform": rasterio.Affine(10_000, 0, 0, 0, -10_000, 9_700_000)}
    scene, result = found([(2, 20, 14, 40), (100, 20, 110, 40)], tall)
    assert result.objects[0].area_px > result.objects[1].area_px
    assert ids(apply_selector(result, Selector("largest"), scene)) == [2]


def test_compass_words_follow_the_map_and_the_others_the_picture(found):
    # Turned by a quarter: the right of the picture is the north of the map.
    turned = {"crs": "EPSG:32633", "transform": rasterio.Affine(0, 0.5, 500_000, 0.5, 0, 5_400_000)}
    scene, result = found(profile=turned)
    assert ids(apply_selector(result.select([1, 2, 3]), Selector("extreme", "top", compass=True), scene)) == [1]
    assert ids(apply_selector(result.select([1, 2, 3]), Selector("extreme", "right", compass=True), scene)) == [3]
    assert ids(apply_selector(result, Selector("extreme", "bottom"), scene)) == [3]


def test_a_part_of_the_scene_has_its_own_halves(found, tmp_path):
    found()
    with open_scene(tmp_path / "scene.tif", bbox=(0, 0, 70, 120), bbox_crs="pixel") as scene:
        result = Session(BoxFilterEngine(radius=0), scene).segment("x", selector=None)
        chosen = apply_selector(result, Selector("region", "right half"), scene)
        assert [item.bbox for item in chosen.objects] == [(60, 10, 70, 20), (40, 70, 70, 100)]
