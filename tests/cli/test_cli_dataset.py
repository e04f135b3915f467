"""``terraprompt dataset`` as a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layout_copies as copies
from terraprompt.datasets.index import open_index
from terraprompt.datasets.registry import dataset_names


def test_the_list_names_every_data_set(run: Callable[..., Any]) -> None:
    plain = run("dataset", "list")
    assert plain.code == 0
    assert all(name in plain.out for name in dataset_names())
    listed = run("dataset", "list", "--json").json
    assert [entry["name"] for entry in listed] == list(dataset_names())
    assert all(entry["where"] and entry["tree"] and entry["splits"] for entry in listed)


def test_a_whole_copy_is_code_0_and_a_broken_one_code_1(run: Callable[..., Any], tmp_path: Path) -> None:
    root = copies.refsegrs(tmp_path / "my copy")
    done = run("dataset", "check", root, "--dataset", "refsegrs", "-j", "2")
    assert (done.code, done.out) == (0, "")
    assert "test: 4 samples" in done.err
    assert "val: not in this copy" in done.err
    (root / "masks/0003.tif").write_bytes(b"II*\0 cut")
    (root / "images/0001.tif").unlink()
    done = run("dataset", "check", root, "--dataset", "refsegrs")
    assert done.code == 1
    assert "0003.tif: " in done.out
    assert "0001" in done.out
    found = run("dataset", "check", root, "--dataset", "refsegrs", "--split", "test", "--json")
    assert found.code == 1
    assert found.json["samples"] == {"test": 3}
    assert len(found.json["problems"]) == 2


def test_an_index_stops_at_a_broken_item_or_leaves_it_out(run: Callable[..., Any], tmp_path: Path) -> None:
    root, output = copies.earthreason(tmp_path / "data"), tmp_path / "index.parquet"
    command = ("dataset", "index", root, "--dataset", "earthreason", "-o", output)
    assert run(*command).code == 0
    assert [sample.id for sample in open_index(output)] == ["airport 1", "b_2", "c.3"]
    before = output.read_bytes()
    (root / "test/QAs/b_2.json").unlink()
    assert run(*command).code == 1
    done = run(*command, "--overwrite")
    assert (done.code, output.read_bytes() == before) == (1, True)
    assert "b_2.json" in done.said
    done = run(*command, "--overwrite", "--keep-going")
    assert done.code == 0
    assert "2 samples, 1 left out" in done.said
    assert [sample.id for sample in open_index(output)] == ["airport 1", "c.3"]
    assert run("dataset", "index", root, "--dataset", "earthreason", "-o", tmp_path / "i.csv").code == 1


def test_what_cannot_be_downloaded_says_where_it_is(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("dataset", "download", "rrsis-d", tmp_path / "copy")
    assert (done.code, done.out) == (1, "")
    assert "github.com/Lsan2401/RMSIN" in done.said
    done = run("dataset", "check", tmp_path, "--dataset", "rrsisd")
    assert done.code == 1
    assert "rrsis-d" in done.said
    assert run("dataset", "check", tmp_path).code == 2
