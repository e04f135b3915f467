"""Pictures turned over, and back."""

from __future__ import annotations

import numpy as np
import pytest

from terraprompt.geometry.flip import Flip, FlippedFrame
from terraprompt.geometry.frame import Frame
from terraprompt.prompt import Prompt

FLIPS = [Flip(a, b) for a in (False, True) for b in (False, True)]


@pytest.mark.parametrize("flip", FLIPS)
def test_marks_stay_on_what_they_mark(flip: Flip) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[4:9, 10:12] = 7
    shown = flip.array(image)
    y, x = np.argwhere(shown[..., 0] == 7).min(axis=0)
    prompt = flip.prompt(Prompt(points=((10.5, 4.5),), boxes=((10, 4, 12, 9),)), (20, 30))
    assert prompt.boxes == ((x, y, x + 2, y + 5),)
    px, py = map(int, prompt.points[0])
    assert shown[py, px, 0] == 7
    assert flip.prompt(prompt, (20, 30)).boxes == ((10, 4, 12, 9),)
    np.testing.assert_array_equal(flip.array(shown), image)
    assert flip.prompt(Prompt("x"), (20, 30)) == Prompt("x")


@pytest.mark.parametrize("flip", FLIPS)
def test_back_to_the_source(flip: Flip) -> None:
    frame = Frame.crop((100, 100), (20.0, 30.0, 40.0, 20.0), (40, 80))
    box = frame.boxes([25, 32, 31, 40])
    np.testing.assert_allclose(FlippedFrame(frame, flip).boxes_back(flip.boxes(box, frame.grid)), [25, 32, 31, 40])
    np.testing.assert_allclose(FlippedFrame(frame, flip).points_back(flip.points(box[:2], frame.grid)), [25, 32])
