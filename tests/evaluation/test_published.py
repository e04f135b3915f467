"""Published results: they load, name protocols that exist, and carry what must be said beside them."""

from __future__ import annotations

import pytest

from terraprompt.evaluation.protocols import PROTOCOLS
from terraprompt.evaluation.published import FAULTS, NOT_STATED, published, published_for


def test_rows_are_whole():
    rows = published()
    assert len(rows) == len({(r.dataset, r.split, r.task, r.level, r.method) for r in rows})
    for row in rows:
        assert row.protocol in PROTOCOLS or row.protocol == NOT_STATED
        assert row.values
        assert set(row.values) <= {"gIoU", "cIoU", "dice"}
        assert all(0 < value < 100 for value in row.values.values())


@pytest.mark.parametrize("name", ["RRSIS-D", "rrsisd", "rrsis_d"])
def test_a_data_set_by_any_spelling(name):
    assert {r.method for r in published_for(name, "test")} >= {"UniGeoSeg", "GeoPixel", "RemoteSAM"}


def test_values_and_parts():
    (row,) = [r for r in published_for("earthreason") if r.method == "Think2Seg-RS"]
    assert row.values == {"gIoU": 73.36, "cIoU": 75.6}
    assert (row.protocol, row.split) == ("think2seg", "test")
    bench = [r for r in published_for("geoseg-bench-1m") if r.method == "UniGeoSeg"]
    assert {r.task: r.values["gIoU"] for r in bench} == {"interactive": 76.37, "referring": 74.25, "reasoning": 52.96}
    clicks = [r for r in published_for("sior") if r.method == "SAM2"]
    assert {r.level: r.values["gIoU"] for r in clicks} == {"box": 92.27, "point": 76.45}


def test_unknown_sets_and_splits_have_none():
    assert published_for("nowhere") == published_for("earthreason", "val") == ()


def test_faults_are_said_beside_the_numbers():
    (row,) = [r for r in published_for("rrsis-d") if r.method == "GeoPixel"]
    assert "P@0.5" in row.note
    assert set(FAULTS) == {"SegEarth-R1, UniGeoSeg", "GeoPixel", "DiCoR"}
