"""RoIAlign against its definition, one sample after the other."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roi_align_definition import one_by_one
from terraprompt.models.sam.roi import roi_align

side = st.floats(-4, 14, width=32)


@settings(max_examples=40)
@given(st.lists(st.tuples(side, side, side, side), min_size=1, max_size=3), st.integers(1, 4))
def test_every_bin_is_the_mean_of_its_samples(corners, size):
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners])
    features = np.random.default_rng(0).normal(size=(2, 9, 11)).astype(np.float32)
    got = roi_align(torch.from_numpy(features), torch.from_numpy(boxes), size)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), one_by_one(features, boxes, size), atol=1e-5)
