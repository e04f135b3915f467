"""The Parquet index: what comes out is what went in, at any place, from threads and processes, after a move."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import layout_copies as copies
from terraprompt.datasets.coding import decode_sample
from terraprompt.datasets.index import ROW_GROUP, Index, open_index, write_index
from terraprompt.datasets.layouts import LAYOUTS
from terraprompt.datasets.registry import open_dataset
from terraprompt.datasets.sample import Sample
from terraprompt.errors import DatasetError
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Task


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_index_holds_the_data_set(tmp_path: Path, name: str) -> None:
    make, split = copies.MAKERS[name]
    root = make(tmp_path / "data")
    found = open_dataset(name, root, split=split)
    path = tmp_path / "index.parquet"
    assert write_index(path, found.samples, root, name=name, split=split) == len(found.samples)
    index = open_dataset(name, path, split=split)
    assert isinstance(index.samples, Index)
    assert (index.name, index.split, index.problems) == (name, split, ())
    assert len(index.samples) == len(found.samples)
    for theirs, ours in zip(index.samples, found.samples, strict=True):
        assert theirs == replace(ours, image=ours.image, truth=theirs.truth)
        if ours.truth is not None:
            assert (theirs.load_mask() == ours.load_mask()).all()
        assert (theirs.load_image() == ours.load_image()).all()


def many(count: int, root: Path) -> list[Sample]:
    truth = RunLengths.encode(np.eye(4))
    return [
        Sample(f"s{i}", root / f"{i % 7} é.png", Task.REFERRING, (f"roof {i}",), truth, category=("a", None)[i % 2])
        for i in range(count)
    ]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    write_index(tmp_path / "i.parquet", iter(many(3 * ROW_GROUP + 5, tmp_path)), tmp_path, name="x", split="val")
    return open_index(tmp_path / "i.parquet")


def test_every_place_can_be_reached(tmp_path: Path, index: Index) -> None:
    samples = many(3 * ROW_GROUP + 5, tmp_path)
    count = len(samples)
    assert (len(index), index.name, index.split, index.root) == (count, "x", "val", tmp_path)
    for i in (0, ROW_GROUP - 1, ROW_GROUP, 2 * ROW_GROUP, count - 1, -1, -count, 17):
        assert index[i] == samples[i]
    assert list(index) == samples
    assert list(index[ROW_GROUP - 2 : ROW_GROUP + 2]) == samples[ROW_GROUP - 2 : ROW_GROUP + 2]
    assert list(index[::-100]) == samples[::-100]
    for i in (count, -count - 1):
        with pytest.raises(IndexError):
            index[i]
    assert index.column("category") == [s.category for s in samples]
    with pytest.raises(DatasetError, match="no such column"):
        index.column("record")


def test_small_row_groups_are_what_makes_a_random_record_cheap(tmp_path: Path, index: Index) -> None:
    meta = pq.ParquetFile(index.path).metadata
    assert meta.num_row_groups == 4
    assert meta.row_group(0).num_rows == ROW_GROUP


def test_threads_and_processes_share_an_index(tmp_path: Path, index: Index) -> None:
    places = np.random.default_rng(0).integers(len(index), size=300).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert [s.id for s in pool.map(lambda i: index[i], places)] == [f"s{i}" for i in places]
    again = pickle.loads(pickle.dumps(index))  # noqa: S301 - our own bytes
    assert (again[5], len(again)) == (index[5], len(index))


def test_an_index_moves_with_its_data_set(tmp_path: Path) -> None:
    root = copies.refsegrs(tmp_path / "here/data")
    write_index(tmp_path / "here/i.parquet", open_dataset("refsegrs", root).samples, root)
    shutil.move(tmp_path / "here", tmp_path / "there")
    index = open_index(tmp_path / "there/i.parquet")
    assert index.root == tmp_path / "there/data"
    assert index[0].load_mask().any()
    shutil.move(tmp_path / "there/i.parquet", tmp_path / "i.parquet")
    with pytest.raises(DatasetError, match="not where it was"):
        open_index(tmp_path / "i.parquet")
    assert open_index(tmp_path / "i.parquet", root=tmp_path / "there/data")[0].load_mask().any()


def test_what_is_no_index(tmp_path: Path, index: Index) -> None:
    with pytest.raises(DatasetError, match="missing"):
        open_index(tmp_path / "nobody.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DatasetError, match="not an index"):
        open_index(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DatasetError, match="not an index"):
        open_index(tmp_path / "other.parquet")
    with pytest.raises(DatasetError, match="not a sample"):
        decode_sample({"id": "a"}, tmp_path)
    data = index.path.read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(data[:400] + bytes(len(data) // 2 - 400) + data[len(data) // 2 :])
    with pytest.raises(DatasetError, match="damaged|not an index"):  # noqa: RUF043 - either
        open_index(cut)[0]


def test_an_index_of_something_else_is_not_taken(tmp_path: Path) -> None:
    root = copies.refsegrs(tmp_path / "data")
    path = tmp_path / "i.parquet"
    write_index(path, open_dataset("refsegrs", root).samples, root, name="refsegrs", split="test")
    with pytest.raises(DatasetError, match="another data set or split") as caught:
        open_dataset("refsegrs", path, split="train")
    assert "refsegrs, test" in str(caught.value)
    with pytest.raises(DatasetError, match="another data set"):
        open_dataset("risbench", path)
    with pytest.raises(DatasetError, match="takes no options"):
        open_dataset("refsegrs", path, prompts=3)
