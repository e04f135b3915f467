"""What the public GeoSeg release returned for our inputs, to the integer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from terraprompt.engines.clicks import clicks
from terraprompt.engines.fusion import fuse
from terraprompt.models.clip_surgery import feature_surgery
from terraprompt.vlm.answer_parser import Verdict, official_target, parse_phrases
from terraprompt.vlm.box_refinement import refine

CASES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "geoseg" / "cases.json").read_text()
)


def _named(kind: str) -> Any:
    return pytest.mark.parametrize("case", CASES[kind], ids=lambda c: c.get("name", c.get("response", "")[:40]))


def test_all_kinds_of_cases_are_read() -> None:
    assert {kind: len(cases) for kind, cases in CASES.items()} == {
        "points": 12,
        "points_degenerate": 1,
        "boxes": 14,
        "fusion": 10,
        "surgery": 2,
    }


@_named("boxes")
def test_answers_and_boxes(case: dict[str, Any]) -> None:
    width, height = case["image_wh"]
    target = official_target(case["response"], (height, width))
    if case["bbox"] is None:
        assert target is None
        assert parse_phrases(case["response"]).verdict is Verdict.UNREADABLE
        return
    assert target is not None
    assert target.box is not None
    assert target.center is not None
    assert list(target.box) == case["bbox"]
    assert list(target.center) == case["center"]
    assert target.name == case["prompt"]
    refined = refine(target.box, (height, width), mode="official")
    assert list(refined.plain) == case["bbox"]
    assert list(refined.expanded) == case["expanded_bbox"]
    assert list(refined.crop) == case["crop_used"]
    sent = [["points", list(refined.expanded)], ["text", list(refined.expanded)], ["points", list(refined.plain)]]
    assert sent == case["boxes_sent_to_segmenters"]


@_named("points")
def test_points(case: dict[str, Any]) -> None:
    side = round(len(case["similarity"]) ** 0.5)
    similarity = np.array(case["similarity"], np.float32).reshape(side, side)
    found = clicks(similarity, case["image_hw"], threshold=case["t"], mode="official")
    assert found.points.tolist() == case["points"]
    assert found.labels.tolist() == case["labels"]


@_named("points_degenerate")
def test_points_of_a_constant_map(case: dict[str, Any]) -> None:
    flat = np.full((8, 8), 0.25, np.float32)
    official = clicks(flat, case["image_hw"], threshold=case["t"], mode="official")
    assert (len(official.points), len(official.labels)) == (case["n_points"], case["n_labels"])
    assert len(official.inside) == 0
    ours = clicks(flat, case["image_hw"], threshold=case["t"])
    assert (len(ours.points), len(ours.labels)) == (0, 0)


@_named("fusion")
def test_fusion(case: dict[str, Any]) -> None:
    routes = [None if case[k] is None else np.array(case[k], np.uint8) for k in ("mask_points", "mask_text")]
    fused = fuse(routes[0], routes[1], size=case["image_hw"], mode="official").mask
    if case["fused"] is None:
        assert fused is None
    else:
        assert fused is not None
        assert fused.tolist() == np.array(case["fused"], bool).tolist()


@_named("surgery")
def test_feature_surgery(case: dict[str, Any]) -> None:
    redundant = case["redundant_features"]
    found = feature_surgery(
        torch.tensor(case["image_features"]),
        torch.tensor(case["text_features"]),
        None if redundant is None else torch.tensor(redundant),
    )
    torch.testing.assert_close(found, torch.tensor(case["similarity"]), atol=1e-5, rtol=0)
