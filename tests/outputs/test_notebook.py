"""What notebooks and the interpreter show of results."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rasterio import Affine

from terraprompt.errors import SceneError
from terraprompt.outputs import Result, Status
from terraprompt.prompt import Prompt

Paint = Callable[..., Result]
NASTY = '<script>alert(1)</script> & "quotes" \u202e<img src=x onerror=y>'


def test_a_result_prints_as_one_line(paint: Paint, squares: np.ndarray) -> None:
    assert repr(paint(squares)) == "Result(found, 2 objects, 121 m², 'the lakes, où ?', 80 x 60 px)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crs": None, "transform": Affine.identity()}, "2 objects, 'the lakes"),
        ({"provenance": {}}, "Result(found, 2 objects, 121 m², 80 x 60 px)"),
        ({"provenance": {"instruction": "very " * 500}}, "…'"),
        ({"provenance": {"instruction": "a\nb\x1b[31m"}}, "'a b[31m'"),
        ({"min_area_m2": 1e6}, "Result(no_target, "),
    ],
)
def test_other_results_print_shortly_too(paint: Paint, squares: np.ndarray, options: dict, said: str) -> None:
    shown = repr(paint(squares, **options))
    assert said in shown
    assert len(shown) < 160
    assert "\n" not in shown


def test_a_failure_prints_its_reason() -> None:
    failed = Result.failure("No reply.", width=9, height=8, crs=None, transform=Affine.identity(), provenance={})
    assert repr(failed) == "Result(failed, No reply., 9 x 8 px)"
    assert failed._repr_png_() is None
    assert "No reply." in failed._repr_html_()
    assert "<img" not in failed._repr_html_()


def test_objects_print_shortly(paint: Paint) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[::6, ::6] = mask[1::6, ::6] = mask[::6, 1::6] = mask[1::6, 1::6] = 1
    result = paint(mask)
    assert repr(result.objects[0]) == "SegmentedObject(1, 4 px, 1.0 m2, score 0.88, bbox (0, 0, 2, 2))"
    assert repr(result.objects).endswith("… 137 more)")
    assert len(repr(result.objects)) < 300
    assert result.objects == tuple(result.objects)


@pytest.mark.parametrize("text", [NASTY, "</strong><h1>x", "{{ 7 * 7 }}", "&lt;i&gt;", "<!-- "])
def test_texts_of_strangers_are_escaped(paint: Paint, squares: np.ndarray, text: str) -> None:
    result = replace(paint(squares, provenance={"instruction": text, "model": text}), remarks=(text,))
    html = result._repr_html_()
    plain = paint(squares, provenance={"instruction": "x", "model": "x"})
    plain = replace(plain, remarks=("x",))._repr_html_()
    assert html.count("<") == plain.count("<")
    assert "49" not in html.split("base64,")[0]


def test_a_card_holds_picture_facts_and_first_objects(paint: Paint, squares: np.ndarray) -> None:
    result = paint(squares)
    html = result._repr_html_()
    picture = Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0])))
    assert max(picture.size) <= 640
    assert Image.open(io.BytesIO(result._repr_png_() or b"")).size == picture.size
    assert "2 objects, 121 m²" in html
    assert "(5, 5, 25, 25)" in html
    result.close()
    assert "the result is closed" in result._repr_html_()
    assert result._repr_png_() is None


def test_a_scene_that_is_gone_is_said_in_the_card(paint: Paint, squares: np.ndarray) -> None:
    def gone(height: int, width: int) -> np.ndarray:
        raise SceneError("The scene is gone.")

    result = replace(paint(squares), backdrop=gone)
    assert "The scene is gone." in result._repr_html_()
    assert result._repr_png_() is None


def test_a_picture_uses_the_scene_and_the_prompt_of_the_result(paint: Paint, squares: np.ndarray, tmp_path) -> None:
    prompt = Prompt(points=((60.5, 50.5),))
    grey = np.full((60, 80, 3), 40, np.uint8)
    result = replace(paint(squares), backdrop=lambda height, width: grey, prompt=prompt)
    picture = np.asarray(Image.open(result.save_picture(tmp_path / "a.png")).convert("RGB"))
    assert picture[8 * 55, 8 * 5].tolist() == [40, 40, 40]
    assert picture[int(50.5 * 8), int(60.5 * 8)].tolist() == [90, 220, 255]
    given = np.full((60, 80, 3), 90, np.uint8)
    picture = np.asarray(Image.open(result.save_picture(tmp_path / "b.png", scene_rgb=given)).convert("RGB"))
    assert picture[8 * 55, 8 * 5].tolist() == [90, 90, 90]
    assert result.select([1]).backdrop is result.backdrop
    assert result.status is Status.FOUND


@pytest.mark.parametrize("ground", [20, 60, 110, 170, 235])
def test_what_is_masked_can_still_be_seen(paint: Paint, ground: int, tmp_path) -> None:
    """Below the mask three quarters of the contrast of a roof remain, on dark and on bright ground."""
    mask = np.zeros((40, 40), np.uint8)
    mask[5:35, 5:35] = 1
    scene = np.full((40, 40, 3), ground, np.uint8)
    scene[15:25, 15:25] = ground + 20
    picture = np.asarray(Image.open(paint(mask).save_picture(tmp_path / "p.png", scene_rgb=scene)).convert("RGB"))
    left = (picture.shape[1] - 320) // 2
    pixels = picture[: 8 * 40, left:].astype(int)
    contrast = pixels[8 * 20, 8 * 20] - pixels[8 * 10, 8 * 10]
    assert abs(contrast - 15).max() <= 1
    assert abs(pixels[8 * 10, 8 * 10] - ground).max() > 15, "the fill shows"
    edge = pixels[8 * 20, 8 * 5 - 4 : 8 * 5 + 5]
    assert abs(edge - ground).max() > 70, "the outline shows"
