"""An engine that points: an overview with the text, then each proposal through its own window at native resolution."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from flow_engines import BoxFilterEngine, PointedEngine
from terraprompt.engines.base import Embedding, Proposals, Proposer, TileSpec
from terraprompt.errors import BudgetError, EngineError, ReasonerError, SceneError
from terraprompt.flow.session import Session, segment
from terraprompt.outputs import Status
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene

Propose = Callable[[np.ndarray, str], Proposals]


class Pointing(PointedEngine):
    """Proposes what it is told to; draws the bright region under a prompt."""

    name = "pointing"

    def __init__(self, propose: Propose, *, view: tuple[int, int] | None = None, tile: TileSpec | None = None) -> None:
        super().__init__()
        self.tile = tile or self.tile
        self._propose, self.view = propose, view
        self.shown: list[tuple[np.ndarray, str]] = []

    def overview(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.view or size

    def propose(self, image: np.ndarray, instruction: str) -> Proposals:
        self.shown.append((image, instruction))
        return self._propose(image, instruction)


def found(*prompts: Prompt, **notes: Any) -> Propose:
    return lambda image, text: Proposals("found", prompts, notes=notes)


def write(path: Path, grey: np.ndarray, **profile: Any) -> Path:
    profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": from_origin(5e5, 54e5, 0.5, 0.5)} | profile
    with rasterio.open(
        path, "w", width=grey.shape[1], height=grey.shape[0], count=3, dtype=grey.dtype, **profile
    ) as out:
        out.write(np.stack([grey] * 3))
    return path


BOXES = ((60, 50, 80, 66), (40, 400, 80, 430), (600, 460, 645, 500))


@pytest.fixture
def roofs(tmp_path: Path) -> Path:
    """600 x 800 pixels with three bright rectangles."""
    grey = np.full((600, 800), 20, np.uint8)
    for x0, y0, x1, y1 in BOXES:
        grey[y0:y1, x0:x1] = 240
    return write(tmp_path / "roofs.tif", grey)


def bright(image: np.ndarray, text: str) -> Proposals:
    """Boxes round what is bright in the overview."""
    from scipy import ndimage

    labels, _ = ndimage.label(image[..., 0] > 120)
    boxes = [(xs.start, ys.start, xs.stop, ys.stop) for ys, xs in ndimage.find_objects(labels)]
    return Proposals("found", tuple(Prompt(boxes=(b,)) for b in boxes), notes={"think": "bright"})


def test_it_is_told_from_other_engines() -> None:
    assert isinstance(Pointing(bright), Proposer)
    assert not isinstance(PointedEngine(), Proposer)


@pytest.mark.parametrize("view", [None, (300, 400), (150, 400), (600, 200), (900, 1200)])
def test_seen_small_and_drawn_at_native_resolution(roofs: Path, view: tuple[int, int] | None) -> None:
    engine = Pointing(bright, view=view)
    with segment(roofs, "the roofs", engine=engine) as result:
        assert result.status is Status.FOUND
        assert sorted(o.bbox for o in result.objects) == sorted(BOXES), "to the pixel, though seen reduced"
        assert result.notes["think"] == "bright"
        assert len(result.notes["boxes"]) == 3
        height, width = min(view[0], 600) if view else 600, min(view[1], 800) if view else 800
        assert result.notes["overview"] == {"width": width, "height": height}
        json.dumps(dict(result.notes), allow_nan=False)
    (image, text) = engine.shown[0]
    assert image.shape == (height, width, 3), "never enlarged"
    assert text == "the roofs"
    assert all(max(grid) <= 96 for grid in engine.encoded), "windows, not the scene"
    assert len(engine.encoded) == 3


def test_proposals_are_moved_to_the_scene(roofs: Path) -> None:
    proposed = Prompt(points=((30, 29), (10, 10)), labels=(1, 0), boxes=((29, 24, 41, 34),))
    with segment(roofs, "x", engine=Pointing(found(proposed), view=(300, 400))) as result:
        assert result.notes["boxes"] == [[58, 48, 82, 68]]
        assert result.notes["points"] == [[60, 58, 1], [20, 20, 0]]
        assert [o.bbox for o in result.objects] == [BOXES[0]]


def test_targets_keep_their_own_points(roofs: Path) -> None:
    """Joined in one prompt, a point in two boxes would belong to both."""
    one = Prompt(boxes=((30, 390, 90, 440),), points=((50, 410),))
    two = Prompt(boxes=((35, 395, 85, 435),), points=((60, 420),), labels=(0,))
    engine = Pointing(found(one, two))
    segment(roofs, "x", engine=engine).close()
    assert [p.labels for p in engine.asked] == [(1,), (0,)]


def test_a_bbox_is_the_whole_scene(roofs: Path) -> None:
    engine = Pointing(bright)
    with segment(roofs, "x", engine=engine, bbox=(480, 340, 700, 600), bbox_crs="pixel") as result:
        assert [o.bbox for o in result.objects] == [(120, 120, 165, 160)]
    assert engine.shown[0][0].shape == (260, 220, 3)


def test_points_and_boxes_skip_it(roofs: Path) -> None:
    engine = Pointing(bright)
    for prompt in (Prompt(points=((65, 55),)), Prompt("the roof", boxes=((55, 45, 85, 70),))):
        with segment(roofs, prompt, engine=engine) as result:
            assert [o.bbox for o in result.objects] == [BOXES[0]]
            assert result.notes == {}
    assert engine.shown == []


def test_words_of_size_go_to_it_as_they_are(roofs: Path) -> None:
    engine = Pointing(bright)
    with segment(roofs, "the largest building", engine=engine) as result:
        assert len(result.objects) == 3, "it did not say otherwise"
        assert "selector" not in result.provenance["settings"]
    assert engine.shown[0][1] == "the largest building"


def test_evidence_survives_a_selection(roofs: Path) -> None:
    with segment(roofs, "x", engine=Pointing(bright)) as result, result.select([1]) as part:
        assert part.notes == result.notes != {}


def test_no_target_is_an_answer_with_words(roofs: Path, tmp_path: Path) -> None:
    engine = Pointing(lambda image, text: Proposals("no_target", reason="No water here.", notes={"think": "No water."}))
    with segment(roofs, "the lakes", engine=engine) as result:
        assert (result.status, result.reason, result.objects) == (Status.NO_TARGET, "No water here.", ())
        assert not result.mask().any()
        assert result.notes["think"] == "No water."
        result.save_mask(tmp_path / "m.tif")
    assert engine.encoded == []


def test_a_failure_has_a_reason_and_no_mask(roofs: Path) -> None:
    engine = Pointing(lambda image, text: Proposals("failed", reason="It talks nonsense.", notes={"replies": ["?"]}))
    with segment(roofs, "the lakes", engine=engine) as result:
        assert (result.status, result.reason) == (Status.FAILED, "It talks nonsense.")
        assert result.notes["replies"] == ["?"]
        assert result.provenance["instruction"] == "the lakes"
        with pytest.raises(Exception, match="It talks nonsense"):
            result.mask()


def test_nothing_drawn_is_said(roofs: Path) -> None:
    with segment(roofs, "x", engine=Pointing(found(Prompt(boxes=((300, 100, 340, 140),))))) as result:
        assert result.status is Status.NO_TARGET
        assert "1 target proposed, nothing drawn" in (result.reason or "")
        assert result.notes["boxes"] == [[300, 100, 340, 140]]


def test_a_proposal_where_there_is_no_data(tmp_path: Path) -> None:
    grey = np.full((400, 600), 20, np.uint8)
    grey[:, 300:] = 0
    grey[40:60, 40:60] = 240
    path = write(tmp_path / "half.tif", grey, nodata=0)
    engine = Pointing(found(Prompt(boxes=((500, 100, 520, 120),))))
    with segment(path, "x", engine=engine) as result:
        assert result.status is Status.FAILED
        assert "no data" in (result.reason or "")
    both = Pointing(found(Prompt(boxes=((500, 100, 520, 120),)), Prompt(boxes=((38, 38, 62, 62),))))
    with segment(path, "x", engine=both) as result:
        assert [o.bbox for o in result.objects] == [(40, 40, 60, 60)]
    with pytest.raises(SceneError, match="No pixel within the extent"):
        segment(path, "x", engine=engine, bbox=(400, 0, 600, 400), bbox_crs="pixel")
    assert len(engine.shown) == 1, "a scene without data is not asked about"


@pytest.mark.parametrize(
    ("error", "kind", "match"),
    [
        (ReasonerError("Nobody there.", hint="Start it."), EngineError, "Nobody there.*x 0..800.*Start it"),
        (ValueError("odd"), EngineError, "ValueError: odd"),
        (BudgetError("The token budget is used up.", received="9 of 9"), BudgetError, "^The token budget is used up"),
    ],
)
def test_errors_name_the_scene_but_a_spent_budget_stays_one(
    roofs: Path, error: Exception, kind: type[Exception], match: str
) -> None:
    def fails(image: np.ndarray, text: str) -> Proposals:
        raise error

    with pytest.raises(kind, match=match) as caught:
        segment(roofs, "x", engine=Pointing(fails))
    assert type(caught.value) is kind


def test_a_spent_budget_stays_one_in_tiles_too(roofs: Path) -> None:
    class Spent(PointedEngine):
        def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> Any:
            raise BudgetError("The token budget is used up.")

    with pytest.raises(BudgetError):
        segment(roofs, "x", engine=Spent())


def test_proposals_outside_the_overview_are_the_engines_fault(roofs: Path) -> None:
    engine = Pointing(found(Prompt(boxes=((390, 100, 450, 120),)), Prompt(points=((401, 3),))), view=(300, 400))
    with pytest.raises(EngineError, match="outside the scene"):
        segment(roofs, "x", engine=engine)


@pytest.mark.parametrize(
    ("status", "prompts", "reason"),
    [
        ("found", (), ""),
        ("no_target", (Prompt(points=((1, 1),)),), ""),
        ("failed", (), ""),
        ("perhaps", (), "x"),
        ("found", (Prompt("words"),), ""),
        ("found", (Prompt(points=((1, 1),), crs="EPSG:4326"),), ""),
        ("found", (Prompt(boxes=((1, 1, 2, 2), (3, 3, 4, 4))),), ""),
    ],
)
def test_contradicting_proposals(status: Any, prompts: tuple[Prompt, ...], reason: str) -> None:
    with pytest.raises(EngineError):
        Proposals(status, prompts, reason)


# Shared windows


SHARED = TileSpec(size=128, overlap=32, multiple=1, batch=4, shared=True)


def test_neighbours_share_a_window(roofs: Path) -> None:
    near = [Prompt(boxes=((x, 400, x + 10, 410),)) for x in range(40, 80, 4)]
    engine = Pointing(found(*near, Prompt(boxes=((560, 420, 690, 550),))), tile=SHARED)
    with segment(roofs, "x", engine=engine) as result:
        near_one, large = sorted(o.bbox for o in result.objects)
        assert near_one == BOXES[1]
        assert np.abs(np.subtract(large, BOXES[2])).max() <= 1, "seen reduced"
    assert engine.encoded == [(128, 128), (128, 128)], "one for ten, and one, reduced, for the large one"
    assert len(engine.asked) == 11
    x0, y0, x1, y1 = engine.asked[-1].boxes[0]
    assert (x1 - x0, y1 - y0) == pytest.approx((96, 96), abs=0.5)


def test_a_scene_that_fits_is_seen_once(tmp_path: Path) -> None:
    grey = np.full((90, 110), 20, np.uint8)
    boxes = [(x, y, x + 6, y + 5) for x in range(5, 100, 20) for y in range(4, 80, 20)]
    for x0, y0, x1, y1 in boxes:
        grey[y0:y1, x0:x1] = 240
    whole = Prompt(boxes=((0, 0, 110, 90),))
    one_by_one = [Prompt(boxes=(b,)) for b in boxes]
    engine = Pointing(found(*one_by_one), tile=SHARED)
    with segment(write(tmp_path / "a.tif", grey), "x", engine=engine) as result:
        assert sorted(o.bbox for o in result.objects) == sorted(boxes)
    assert engine.encoded == [(90, 110)], "at native resolution, once"
    assert len(engine.asked) == len(boxes)
    engine = Pointing(found(*one_by_one, whole, Prompt(points=((8, 6),))), tile=SHARED)
    segment(write(tmp_path / "b.tif", grey), "x", engine=engine).close()
    assert engine.encoded == [(90, 110)]


def test_windows_side_by_side_are_painted_in_order(tmp_path: Path) -> None:
    """Looks of one window stand together, also where another window begins in the same row."""
    grey = np.full((1300, 1000), 20, np.uint8)
    boxes = [(x, y, x + 12, y + 9) for y in range(20, 1280, 47) for x in range(10, 980, 43)]
    for x0, y0, x1, y1 in boxes:
        grey[y0:y1, x0:x1] = 240
    engine = Pointing(found(*(Prompt(boxes=(b,)) for b in boxes)), tile=SHARED)
    steps: list[tuple[int, int]] = []
    with segment(
        write(tmp_path / "a.tif", grey), "x", engine=engine, progress=lambda a, b: steps.append((a, b))
    ) as result:
        assert sorted(o.bbox for o in result.objects) == sorted(boxes)
    assert len(engine.asked) == len(boxes) == 621
    # 96 x 96 of a window's 128 x 128 are for targets: two by two of these.
    assert len(engine.encoded) <= 14 * 12
    assert steps[-1] == (621, 621)
    assert steps == sorted(steps)


def test_points_in_shared_windows(roofs: Path) -> None:
    engine = Pointing(bright, tile=SHARED)
    with open_scene(roofs) as scene:
        session = Session(engine, scene)
        with session.segment(Prompt(points=((65, 55),))) as result:
            assert [o.bbox for o in result.objects] == [BOXES[0]]
        with session.segment(Prompt(points=((70, 60), (62, 52)), labels=(1, 1))) as result:
            assert [o.bbox for o in result.objects] == [BOXES[0]]
    assert engine.encoded == [(128, 128)], "no second, closer look, and the same window for both"


# The picture


def test_the_picture_shows_what_was_proposed_and_thought(roofs: Path, tmp_path: Path) -> None:
    notes = {"think": "Roofs are bright, " * 80}
    asked = Prompt(boxes=((56, 46, 84, 70),), points=((70, 58),))
    with segment(roofs, "x", engine=Pointing(found(asked, **notes))) as result:
        picture = np.asarray(Image.open(result.save_picture(tmp_path / "p.png"))).astype(int)
        bare = replace(result, notes={})
        bare = np.asarray(Image.open(bare.save_picture(tmp_path / "q.png"))).astype(int)
    scale = picture.shape[1] // 800
    assert picture[58 * scale, 56 * scale + 1].tolist() == [90, 220, 255], "the left side of the box"
    assert picture[int(58.5 * scale), int(70.5 * scale)].tolist() == [90, 220, 255], "the point"
    assert picture.shape[0] > bare.shape[0], "lines of reasoning"
    assert picture.shape[0] - bare.shape[0] < 200, "but not all of them"
    strip = picture[bare.shape[0] :]
    assert (strip.max(-1) > 120).any()


def test_marks_of_the_picture_without_evidence(roofs: Path, tmp_path: Path) -> None:
    """Those of the prompt alone; a text has none."""
    for name, prompt in (("box", Prompt(boxes=(BOXES[0],))), ("text", "the bright roofs")):
        engine = PointedEngine() if name == "box" else BoxFilterEngine()
        with segment(roofs, prompt, engine=engine) as result:
            result.save_picture(tmp_path / f"{name}.png")
        marks = (np.asarray(Image.open(tmp_path / f"{name}.png")) == [90, 220, 255]).all(-1).any()
        assert marks == (name == "box")
