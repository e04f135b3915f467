"""Published results: they load, name protocols that exist, and carry what must be said beside them."""

from __future__ import annotations

import pytest

from terraprompt.evaluation.protocols import PROTOCOLS
from terraprompt.evaluation.published import FAULTS, NOT_STATED, published, published_for


def test_rows_are_whole():
    rows = published()
    assert len(rows) == len({(r.dataset, r.split, r.task, r.level, r.title) for r in rows})
    for row in rows:
        assert row.protocol in PROTOCOLS or row.protocol == NOT_STATED
        assert row.values
        assert row.source
        assert set(row.values) <= {"gIoU", "cIoU", "dice", "Pr@0.3", "Pr@0.5", "Pr@0.7"}
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
    assert {r.level: r.values["gIoU"] for r in clicks} == {"box": 92.27, "point": 76.45, None: 84.36}


def test_unknown_sets_and_splits_have_none():
    assert published_for("nowhere") == published_for("earthreason", "train") == ()


def test_faults_are_said_beside_the_numbers():
    (row,) = [r for r in published_for("rrsis-d") if r.method == "GeoPixel"]
    assert "P@0.5" in row.note
    assert set(FAULTS) == {"SegEarth-R1, UniGeoSeg", "GeoPixel", "DiCoR"}


def of_table(number):
    return [row for row in published() if row.source.endswith(f"Table {number}")]


@pytest.mark.parametrize(("table", "rows", "values"), [(2, 45, 90), (3, 23, 46), (4, 15, 30), (5, 9, 36), (13, 6, 12)])
def test_every_row_and_column_of_the_tables_is_there(table, rows, values):
    found = of_table(table)
    assert (len(found), sum(len(row.values) for row in found)) == (rows, values)


def test_printed_averages_are_those_of_the_printed_columns():
    """Table 4 prints box, point and average; where they do not fit in print, the row says so."""
    part = {(row.method, row.level): row.values["gIoU"] for row in of_table(4)}
    notes = {row.method: row.note for row in of_table(4) if row.level is None}
    for method, note in notes.items():
        mean = (part[method, "box"] + part[method, "point"]) / 2
        assert (abs(part[method, None] - mean) <= 0.011) == (f"{mean:.2f}" not in note)
    assert [method for method, note in notes.items() if "As printed" in note] == ["HQ-SAM", "PSALM"]


def test_printed_gains_are_the_differences_of_the_printed_rows():
    """Table 13 prints (+4.04), (+3.85), (+6.01), (+4.94), (+3.60), (+5.73) beside its second row."""
    first, last = ([r for r in of_table(13) if ("without" in r.method) is plain] for plain in (True, False))
    gains = [round(b.values[m] - a.values[m], 2) for a, b in zip(first, last, strict=True) for m in ("cIoU", "gIoU")]
    assert gains == [4.04, 3.85, 6.01, 4.94, 3.6, 5.73]


def test_grounding_is_printed_and_scored_at_three_tenths():
    (row,) = [r for r in published_for("dior-rsvg") if r.method == "UniGeoSeg"]
    assert (row.values["Pr@0.3"], row.protocol) == (74.94, "unigeoseg-rsvg")
    assert 0.3 in PROTOCOLS[row.protocol].thresholds


def test_the_command_prints_them(capsys):
    from terraprompt.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "published", "--dataset", "geoseg-bench-1m"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert printed.count("\n| geoseg-bench-1m") == 45
    assert "LISAt (fine-tuned on GeoSeg-1M)" in printed
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "published", "--dataset", "nowhere"])
    assert ended.value.code == 1
    assert "No published result is known" in capsys.readouterr().err
