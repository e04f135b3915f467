"""Prompts from features in memory: GeoDataFrames, geometries, GeoJSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rasterio.crs
import shapely
from pyproj import CRS, Transformer

from terraprompt.errors import PromptError
from terraprompt.io.prompt_file import as_prompt, prompt_from_features
from terraprompt.prompt import Prompt


class Shown:
    """An object with nothing but ``__geo_interface__``, and perhaps a CRS."""

    def __init__(self, data: dict[str, Any], **attributes: Any) -> None:
        self.__geo_interface__ = data
        self.__dict__.update(attributes)


POINT = {"type": "Point", "coordinates": (3.0, 4.0)}
SQUARE = shapely.box(1, 2, 5, 6)
COLLECTION = {
    "type": "FeatureCollection",
    "features": [
        {"type": "Feature", "geometry": POINT, "properties": {"label": 1, "object": "a"}},
        {"type": "Feature", "geometry": shapely.geometry.mapping(shapely.Point(7, 8)), "properties": {"label": 0}},
        {"type": "Feature", "geometry": None, "properties": None},
        {"type": "Feature", "geometry": shapely.geometry.mapping(SQUARE), "properties": {}},
    ],
}


@pytest.mark.parametrize(
    ("source", "crs", "points", "boxes", "named"),
    [
        (shapely.Point(3, 4), "EPSG:32633", ((3, 4),), (), "EPSG:32633"),
        (shapely.Point(3, 4, 5), "pixel", ((3, 4),), (), None),
        (shapely.MultiPoint([(1, 2), (3, 4)]), CRS(32633), ((1, 2), (3, 4)), (), "EPSG:32633"),
        (SQUARE, rasterio.crs.CRS.from_epsg(32633), (), ((1, 2, 5, 6),), "EPSG:32633"),
        (shapely.MultiPolygon([SQUARE, shapely.box(7, 7, 9, 9)]), 3857, (), ((1, 2, 5, 6), (7, 7, 9, 9)), "EPSG:3857"),
        (shapely.GeometryCollection([SQUARE, shapely.Point(9, 9)]), "pixel", ((9, 9),), ((1, 2, 5, 6),), None),
        (POINT, None, ((3, 4),), (), "EPSG:4326"),
        ({"type": "Feature", "geometry": POINT, "properties": None}, None, ((3, 4),), (), "EPSG:4326"),
        (POINT, "EPSG:32633", ((3, 4),), (), "EPSG:32633"),
        (Shown(POINT, crs="EPSG:25832"), None, ((3, 4),), (), "EPSG:25832"),
        (Shown(POINT | {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::25832"}}}), None,
         ((3, 4),), (), "EPSG:25832"),
    ],
)  # fmt: skip
def test_points_and_boxes(source: Any, crs: Any, points: Any, boxes: Any, named: str | None) -> None:
    prompt = prompt_from_features(source, crs=crs)
    assert (prompt.points, prompt.boxes, prompt.crs) == (points, boxes, named)


def test_labels_objects_and_a_text() -> None:
    prompt = prompt_from_features(COLLECTION, text="the roofs")
    assert prompt.points == ((3, 4), (7, 8))
    assert prompt.labels == (1, 0)
    assert prompt.groups == (0, 1)
    assert prompt.boxes == ((1, 2, 5, 6),)
    assert prompt.text == "the roofs"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (shapely.Point(3, 4), "have no CRS. Received: Point"),
        (Shown(POINT), "have no CRS"),
        (Shown(POINT, crs=None), "have no CRS"),
        (Shown(POINT, crs="EPSG:99999999"), "CRS of the prompt is unknown"),
        (POINT | {"crs": {"type": "name", "properties": {"name": "nonsense"}}}, "CRS of the prompt is unknown"),
        ({"type": "FeatureCollection", "features": []}, "holds no geometry"),
        ({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}]}, "holds no geometry"),
        ({"type": "Point"}, "cannot be read"),
        ({"type": "Feature"}, "cannot be read"),
        ({"type": "FeatureCollection", "features": [3]}, "cannot be read"),
        ({"type": "Nothing", "coordinates": []}, "cannot be read"),
        (POINT | {"coordinates": ["a", "b"]}, "cannot be read"),
        (shapely.geometry.mapping(shapely.LineString([(0, 0), (1, 1)])), "made of points and areas"),
        ({"type": "Feature", "geometry": POINT, "properties": {"label": 7}}, "1 \\(on the target\\) or 0"),
        ({"type": "Feature", "geometry": shapely.geometry.mapping(SQUARE), "properties": {"label": 0}}, "not on the"),
        (POINT | {"coordinates": [float("nan"), 1.0]}, "finite|no geometry"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused_in_one_line(source: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said) as refused:
        prompt_from_features(source)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [3, None, ["the roofs"], {"text": "the roofs"}, np.zeros(2), object()])
def test_other_values_are_no_prompts(value: object) -> None:
    with pytest.raises(PromptError, match="A prompt is a sentence"):
        as_prompt(value)


def test_prompts_and_sentences_are_taken_as_they_are() -> None:
    prompt = Prompt("the roofs")
    assert as_prompt(prompt) is prompt
    assert as_prompt("the roofs") == prompt


class TestGeoPandas:
    geopandas = pytest.importorskip("geopandas", reason="GeoPandas is an optional extra")

    def test_points_and_boxes_in_the_crs_of_the_frame(self) -> None:
        shapes = [shapely.Point(13.1, 48.2), shapely.box(13, 48, 13.1, 48.1)]
        frame = self.geopandas.GeoDataFrame({"label": [1, None]}, geometry=shapes, crs=4326)
        prompt = prompt_from_features(frame)
        assert prompt.points == ((13.1, 48.2),)
        assert prompt.boxes == ((13, 48, 13.1, 48.1),)
        assert prompt.crs == "EPSG:4326"

    def test_a_frame_in_another_crs_asks_the_same(self) -> None:
        frame = self.geopandas.GeoDataFrame(geometry=[shapely.Point(13.1, 48.2)], crs=4326)
        moved = prompt_from_features(frame.to_crs(32633))
        back = Transformer.from_crs(32633, 4326, always_xy=True).transform(*moved.points[0])
        assert back == pytest.approx((13.1, 48.2))
        assert moved.crs == "EPSG:32633"

    def test_a_series_and_a_frame_with_a_crs_of_its_own(self) -> None:
        laea = "+proj=laea +lat_0=52 +lon_0=10"
        series = self.geopandas.GeoSeries([shapely.Point(1, 2)], crs=laea)
        assert CRS(prompt_from_features(series).crs) == CRS(laea)

    def test_a_frame_without_a_crs(self) -> None:
        frame = self.geopandas.GeoDataFrame(geometry=[shapely.Point(1, 2)])
        with pytest.raises(PromptError, match="have no CRS"):
            prompt_from_features(frame)
        assert prompt_from_features(frame, crs="pixel").crs is None

    def test_objects_of_points(self) -> None:
        shapes = [shapely.Point(i, 2 * i) for i in range(4)]
        frame = self.geopandas.GeoDataFrame({"object": [7, 7, 8, 8]}, geometry=shapes, crs=32633)
        assert prompt_from_features(frame).groups == (0, 0, 1, 1)
