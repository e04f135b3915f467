"""Coordinate conventions: exact both ways, found out from answers, never guessed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from terraprompt.errors import ConfigError
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.conventions import (
    Convention,
    Units,
    View,
    family_convention,
    smart_size,
)

VIEWS = [View("square", side=840), View("smart"), View("smart", factor=32), View("fit", side=700)]
UNITS = [Units.PIXELS, Units.UNIT, Units.THOUSAND]
sides = st.integers(20, 2000)
share = st.floats(-0.2, 1.2)


@given(st.sampled_from(UNITS), st.sampled_from(VIEWS), sides, sides, st.tuples(*[share] * 4), st.tuples(*[share] * 2))
def test_there_and_back(
    units: Units, view: View, height: int, width: int, box: tuple[float, ...], point: tuple[float, float]
) -> None:
    convention = Convention(units, view)
    x1, y1, x2, y2 = box
    there = Instance((x1 * width, y1 * height, x2 * width, y2 * height), ((point[0] * width, point[1] * height),), (0,))
    (answered,) = convention.from_source([there], (height, width))
    (back,) = convention.to_source([answered], (height, width))
    np.testing.assert_allclose(back.box, there.box, atol=1e-8)
    np.testing.assert_allclose(back.points, there.points, atol=1e-8)
    assert back.labels == (0,)
    shown = view.size((height, width))
    extent = {Units.UNIT: (1, 1), Units.THOUSAND: (1000, 1000), Units.PIXELS: shown[::-1]}[units]
    np.testing.assert_allclose(answered.points[0], [point[0] * extent[0], point[1] * extent[1]], atol=1e-6)


@given(st.integers(10, 3000), st.integers(10, 3000), st.sampled_from([28, 32]))
def test_smart_size_is_that_of_the_stock_processor(height: int, width: int, factor: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ConfigError, match="narrow"):
            smart_size((height, width), factor=factor, min_pixels=4 * 28 * 28, max_pixels=1280 * 28 * 28)
        return
    ours = smart_size((height, width), factor=factor, min_pixels=4 * 28 * 28, max_pixels=1280 * 28 * 28)
    assert ours == smart_resize(height, width, factor=factor, min_pixels=4 * 28 * 28, max_pixels=1280 * 28 * 28)


def test_what_is_shown() -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 500, 3), np.uint8)
    assert View("square", side=840).shown(image).shape == (840, 840, 3)
    assert View("fit", side=250).shown(image).shape == (150, 250, 3)
    assert View("fit", side=5000).shown(image) is image
    assert View("smart").shown(image).shape == (308, 504, 3)
    for bad in (image[..., 0], image.astype(np.float32), image[:0]):
        with pytest.raises(ConfigError, match="uint8"):
            View("square").shown(bad)
    with pytest.raises(ConfigError, match="view"):
        View("round")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="positive"):
        View("square", side=0)
    with pytest.raises(ConfigError, match="at least 1"):
        View("square").size((0, 4))


@pytest.mark.parametrize(
    ("model", "units", "side"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", Units.PIXELS, 840),
        ("qwen2.5vl:7b", Units.PIXELS, 840),
        ("Qwen/Qwen3-VL-32B-Instruct-FP8", Units.THOUSAND, 1280),
        ("Qwen/Qwen2-VL-7B-Instruct", Units.THOUSAND, 1280),
        ("OpenGVLab/InternVL3-8B-hf", Units.THOUSAND, 896),
        ("llava:13b", Units.UNIT, 672),
        ("someone/Think2Seg-RS-3B", Units.PIXELS, 840),
        ("someone/think2seg-internvl3-8b", Units.PIXELS, 896),
        ("my-own-model", Units.AUTO, 1280),
    ],
)
def test_families(model: str, units: Units, side: int) -> None:
    convention = family_convention(model)
    assert (convention.units, convention.view.side) == (units, side)


def test_units_by_name_and_in_words() -> None:
    convention = family_convention("qwen2.5-vl")
    assert "840 wide and 840 high" in convention.describe((100, 200))
    assert "0 to 1000" in convention.with_units("0..1000").describe((100, 200))
    with pytest.raises(ConfigError, match=r"Known: pixels, 0\.\.1, 0\.\.1000, auto"):
        convention.with_units("metres")
    with pytest.raises(ConfigError, match="calibrate"):
        convention.with_units("auto").frame((10, 10))
