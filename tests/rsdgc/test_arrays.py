import math

import numpy as np
import pytest

from rsdgc.arrays import CHUNK, check_flat, chunks, peak
from rsdgc.errors import SettingError


def test_chunks_cover_the_range_in_order():
    found = np.concatenate([np.arange(100)[part] for part in chunks(100, 7)])
    assert np.array_equal(found, np.arange(100))
    assert list(chunks(0)) == []


@pytest.mark.parametrize("where", [0, CHUNK - 1, CHUNK, CHUNK + 5])
def test_peak_finds_what_is_anywhere(where):
    values = np.zeros(CHUNK + 6, np.float32)
    for wanted in (3.0, -3.0):
        values[where] = wanted
        assert peak(values) == 3.0
    values[where] = np.nan
    assert math.isnan(peak(values))
    values[where] = -np.inf
    assert peak(values) == math.inf


def test_peak_of_nothing_is_zero():
    assert peak(np.empty(0, np.float32)) == 0.0


@pytest.mark.parametrize(
    "values",
    [np.zeros(3, np.float64), np.zeros(4, np.float32), np.zeros((3, 1), np.float32), [0.0] * 3],
)
def test_check_flat_refuses_other_arrays(values):
    with pytest.raises(SettingError, match="pass a contiguous float32 vector"):
        check_flat(values, 3, "the change")


def test_check_flat_refuses_strided_vectors():
    with pytest.raises(SettingError):
        check_flat(np.zeros(6, np.float32)[::2], 3, "the change")
