"""Run-length masks: round trip, counts against dense masks and against pycocotools' own IoU, damage."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from terraprompt.errors import DatasetError
from terraprompt.evaluation.metrics import Overlap
from terraprompt.io.rle import RunLengths, overlaps

sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))
bits = st.integers(0, 1)


def generated(rng, count, size=48):
    """Pairs of masks with several parts, some of them empty."""
    for i in range(count):
        both = np.zeros((2, size, size + i % 3), np.uint8)
        for _ in range(int(rng.integers(0, 12))):
            y, x, h, w = rng.integers(1, size // 2, 4)
            both[rng.integers(2), y : y + h, x : x + w] ^= 1
        yield both[0], both[1]


@given(arrays(np.uint8, sizes, elements=bits))
def test_round_trip(mask):
    rle = RunLengths.encode(mask)
    assert (rle.height, rle.width) == mask.shape
    assert rle.area == mask.sum()
    decoded = rle.load()
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert (decoded == mask).all()
    assert RunLengths.encode(decoded) == rle == pickle.loads(pickle.dumps(rle))  # noqa: S301
    assert len({rle, RunLengths.encode(mask)}) == 1


@given(arrays(np.int16, sizes, elements=st.integers(-3, 300)))
def test_any_value_but_zero_is_target(mask):
    assert (RunLengths.encode(mask).load() == (mask != 0)).all()


def test_what_others_write_can_be_read():
    mask = np.random.default_rng(0).random((300, 200)) < 0.4
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    rle = RunLengths(*theirs["size"], theirs["counts"].decode())
    assert rle == RunLengths.encode(mask)
    assert (coco.decode({"size": [rle.height, rle.width], "counts": rle.counts}) == mask).all()


def test_counts_of_many_pairs():
    masks = list(generated(np.random.default_rng(4), 300))
    pairs = [(RunLengths.encode(p), RunLengths.encode(t)) for p, t in masks]
    found = overlaps(iter(pairs))
    dense = [Overlap.of(p, t) for p, t in masks]
    assert found.intersection.tolist() == [o.intersection for o in dense]
    assert found.predicted.tolist() == [o.predicted for o in dense]
    assert found.truth.tolist() == [o.truth for o in dense]
    assert found.union.tolist() == [o.union for o in dense]
    shared = overlaps(iter(pairs * 8), processes=2)  # more than one portion
    assert shared.intersection.tolist() == found.intersection.tolist() * 8
    assert shared.truth.tolist() == found.truth.tolist() * 8
    theirs = [
        coco.iou(
            [{"size": [p.height, p.width], "counts": p.counts}],
            [{"size": [t.height, t.width], "counts": t.counts}],
            [0],
        )[0, 0]
        for p, t in pairs
    ]
    ours = [i / u if u else 0.0 for i, u in zip(found.intersection, found.union, strict=True)]
    assert ours == pytest.approx(theirs)


@given(
    st.lists(st.tuples(arrays(np.uint8, (6, 7), elements=bits), arrays(np.uint8, (6, 7), elements=bits)), max_size=4)
)
def test_counts_do_not_depend_on_which_side(pairs):
    there = overlaps((RunLengths.encode(p), RunLengths.encode(t)) for p, t in pairs)
    back = overlaps((RunLengths.encode(t), RunLengths.encode(p)) for p, t in pairs)
    assert there.intersection.tolist() == back.intersection.tolist()
    assert there.predicted.tolist() == back.truth.tolist()
    assert (there.intersection <= np.minimum(there.predicted, there.truth)).all()


def test_pairs_of_two_sizes():
    with pytest.raises(DatasetError, match=r"differ in size.*\(3, 4\).*\(4, 3\)"):
        overlaps([(RunLengths.encode(np.ones((3, 4))), RunLengths.encode(np.ones((4, 3))))])


@pytest.mark.parametrize(
    "counts",
    [b"", b"4", b"54", b"@@@", b"o" * 20, b"\xff\x00", b"P"],
    ids=["nothing", "short", "runs end early", "negative runs", "no end", "no ASCII", "unfinished"],
)
def test_damage_is_an_error_and_never_a_mask(counts):
    with pytest.raises(DatasetError, match="run-length"):
        RunLengths(4, 4, counts.decode("latin-1")).load()
