"""Pickles of strangers: plain data is read, and nothing in them runs."""

from __future__ import annotations

import codecs
import datetime
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layout_copies as copies
from terraprompt.datasets.layouts.reading import BrokenItemError, unpickled
from terraprompt.datasets.registry import open_dataset


def write(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    data = [{"ref_id": 1, "split": "test", "raw": b"\xff\0", "box": (1.5, None, True)}, {1, 2}, OrderedDict(a=1)]
    assert unpickled(write(tmp_path / "p", data, protocol)) == data


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.array([7], ">i4"), np.array([["a", "bc"]])])
def test_arrays_and_numbers_of_numpy(tmp_path: Path, protocol: int, array: np.ndarray) -> None:
    data = {
        "box": array,
        "t": np.asfortranarray(array),
        "id": np.int64(-5),
        "score": np.float32(0.5),
        "ok": np.bool_(True),
    }
    found = unpickled(write(tmp_path / "p", data, protocol))
    for key in ("box", "t"):
        back = np.asarray(found[key])
        assert (back.shape, back.dtype.kind) == (array.shape, array.dtype.kind)
        assert (back == array).all()
    assert (found["id"], found["score"], found["ok"]) == (-5, 0.5, True)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Byte strings as Python 2 wrote them, with the array's module of the time."""
    content = (
        b"\x80\x02}q\x00(U\x04sentq\x01U\x08the caf\xe9q\x02U\x02idq\x03cnumpy.core.multiarray\nscalar\nq\x04cnumpy\n"
        b"dtype\nq\x05U\x02i8q\x06K\x00K\x01\x87q\x07Rq\x08(K\x03U\x01<q\tNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\n"
        b"bU\x08\x2a\x00\x00\x00\x00\x00\x00\x00q\x0b\x86q\x0cRq\ru."
    )
    assert unpickled(write(tmp_path / "p", content)) == {"sent": "the café", "id": 42}


class Calls:
    """Calls something when it is unpickled."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what, self.arguments


@pytest.mark.parametrize(
    "call",
    [
        lambda mark: (os.system, f"touch {mark}"),
        lambda mark: (eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: (exec, f"open({str(mark)!r}, 'w')"),
        lambda mark: (open, str(mark), "w"),
        lambda mark: (getattr, datetime.date, "today"),
        lambda mark: (np.save, str(mark), 1),
        lambda mark: (np.load, str(mark)),
        lambda mark: (codecs.decode, b"", "zlib"),
        lambda mark: (datetime.date, 2024, 1, 1),
        lambda mark: (Path.touch, mark),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_refused_and_nothing_runs(tmp_path: Path, call: Any, protocol: int) -> None:
    mark = tmp_path / "ran.npy"
    content = pickle.dumps([{"ref_id": 1}, Calls(*call(mark))], protocol)
    with pytest.raises(BrokenItemError, match="refused") as caught:
        unpickled(write(tmp_path / "refs.p", content))
    assert "refs.p" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["refs.p"]


def test_a_data_set_with_such_a_pickle_is_refused(tmp_path: Path) -> None:
    root = copies.rrsis_d(tmp_path / "copy")
    mark = tmp_path / "ran"
    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps([Calls(os.system, f"touch {mark}")], 2))
    for keep_going in (False, True):
        with pytest.raises(BrokenItemError, match=r"posix\.system|nt\.system"):
            open_dataset("rrsis-d", root, keep_going=keep_going)
    assert not mark.exists()


def test_a_pickle_in_the_middle_that_runs_code_is_left_out(tmp_path: Path) -> None:
    root, mark = copies.sior(tmp_path / "copy"), tmp_path / "ran"
    (root / "ins/00000.pkl").write_bytes(pickle.dumps([Calls(os.system, f"touch {mark}")], 4))
    found = open_dataset("sior", root, keep_going=True)
    assert [sample.id for sample in found.samples] == ["00001/0/box", "00001/0/point"]
    assert [Path(problem.file).name for problem in found.problems] == ["00000.pkl"]
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        np.array([{"a": 1}, None], object),  # objects would be built from a list
        np.zeros(2, [("a", "i4"), ("b", "f8")]),
        np.zeros(2, "V8"),
        np.datetime64("2024-01-01"),
    ],
)
def test_arrays_that_are_not_plain_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(BrokenItemError, match=r"refused|damaged"):
        unpickled(write(tmp_path / "p", content))


def test_an_array_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    honest = pickle.dumps(np.zeros((2, 3), np.uint8), 2)
    lie = honest.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86")
    assert lie != honest
    with pytest.raises(BrokenItemError, match="do not fill its shape"):
        unpickled(write(tmp_path / "p", lie))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80\x02]q\x00(", b"\x80\x63.", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f"]
)
def test_a_damaged_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BrokenItemError, match=r"damaged|refused") as caught:
        unpickled(write(tmp_path / "refs.p", content))
    assert "refs.p" in str(caught.value)
    with pytest.raises(BrokenItemError, match="missing"):
        unpickled(tmp_path / "nobody.p")
