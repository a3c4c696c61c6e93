from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from clients.normalization import _unpack
from data_prep.validity import all_valid, pack, packed_shape, unpack

MASKS = arrays(np.bool_, array_shapes(min_dims=1, max_dims=4, max_side=19))


@given(MASKS)
def test_masks_come_back_also_on_the_device(mask: np.ndarray) -> None:
    bits = pack(mask)
    assert bits.shape == packed_shape(mask.shape)
    np.testing.assert_array_equal(unpack(bits, mask.shape[-1]), mask)
    np.testing.assert_array_equal(_unpack(torch.from_numpy(bits), mask.shape[-1]).numpy(), mask)


@given(st.lists(st.integers(1, 17), min_size=1, max_size=4).map(tuple))
def test_all_valid_is_the_mask_of_ones(shape: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(all_valid(shape), pack(np.ones(shape, np.bool_)))
