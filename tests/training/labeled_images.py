"""Small labelled images and a small model for the tests of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from terraprompt.language.absence import AbsentCategory
from terraprompt.models.unigeoseg import UniGeoSegConfig, preset
from terraprompt.models.unigeoseg.config import MaskDecoderConfig, PixelDecoderConfig, QueryHeadConfig
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.rendered import from_rendered
from terraprompt_synthetic import render

SIDE = 96
LAKE, ROOF, CAR = (20, 60, 150), (200, 60, 40), (240, 240, 240)


def canvas() -> NDArray[np.uint8]:
    return np.full((SIDE, SIDE, 3), (90, 130, 60), np.uint8)


def put(image: NDArray[np.uint8], box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = colour


def town() -> LabeledImage:
    """Two roofs and a lake, each of its own colour; no cars."""
    image = canvas()
    roofs, lake = np.zeros((SIDE, SIDE), np.int32), np.zeros((SIDE, SIDE), np.int32)
    for i, box in enumerate([(12, 10, 34, 40), (55, 50, 85, 70)]):
        put(image, box, ROOF)
        roofs[box[1] : box[3], box[0] : box[2]] = i + 1
    put(image, (60, 8, 88, 30), LAKE)
    lake[8:30, 60:88] = 1
    absent = (AbsentCategory("car", "verified"), AbsentCategory("airplane", "assumed"))
    return LabeledImage("town/1", "town", image, {"building": roofs, "lake": lake}, {}, False, absent)


def parking() -> LabeledImage:
    """Five cars of which only boxes are known; two of the images' sides are touched."""
    image = canvas()
    boxes = [(10, 12, 22, 18), (40, 40, 46, 54), (70, 20, 84, 27), (0, 70, 12, 76), (60, 90, 72, 96)]
    for box in boxes:
        put(image, box, CAR)
    return LabeledImage("parking/1", "parking", image, {}, {"car": np.array(boxes, np.float64)}, False, ())


def street() -> LabeledImage:
    """A road known by its buffered centre line."""
    image = canvas()
    put(image, (0, 40, SIDE, 56), (120, 120, 120))
    road = np.zeros((SIDE, SIDE), np.int32)
    road[45:51] = 1
    return LabeledImage("street/1", "street", image, {"road": road}, {}, True, (AbsentCategory("lake", "assumed"),))


def rendered() -> LabeledImage:
    """A small rendered scene."""
    return from_rendered(render(3, width=128, height=128, gsd_m=0.4), ("building", "road", "tree", "lake"))


def tiny() -> UniGeoSegConfig:
    """As ``nano``, narrower behind the backbone."""
    return replace(
        preset("nano"),
        name="tiny",
        query_head=QueryHeadConfig(width=32, heads=2, head_width=16),
        pixel_decoder=PixelDecoderConfig(width=32, layers=1, feedforward=32, heads=4, groups=8, lateral_relu=False),
        mask_decoder=MaskDecoderConfig(layers=2, heads=4, feedforward=64, presence=True),
    )
