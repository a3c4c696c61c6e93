import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsdgc import SettingError, kept_count, top_k

few_values = hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([0, 1, 2.5, 3]))
any_values = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False)
)


def reference(scores, k):
    order = sorted(range(scores.size), key=lambda i: (-scores[i], i))
    return sorted(order[:k])


@given(st.one_of(few_values, any_values), st.data())
def test_exact_with_ties_to_the_lower_id(scores, data):
    k = data.draw(st.integers(0, scores.size))
    found = top_k(scores, k)
    assert found.dtype == np.int64
    assert found.tolist() == reference(scores, k)


@pytest.mark.parametrize("k", [1, 10, 2000, 20_000, 100_000, 199_999])
@pytest.mark.parametrize("kind", ["normal", "ties", "periodic", "sorted", "equal"])
def test_exact_on_large_layers(k, kind):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(200_000).astype(np.float32)
    if kind == "ties":
        scores = np.round(scores)
    elif kind == "periodic":  # the sample sees the large values only
        scores[:: 200_000 // (1 << 14)] += 100
    elif kind == "sorted":
        scores.sort()
    elif kind == "equal":
        scores[:] = 1
    expected = np.sort(np.argsort(-scores, kind="stable")[:k])
    assert np.array_equal(top_k(scores, k), expected)


def test_bad_arguments_are_refused():
    scores = np.array([1, np.nan, 2], np.float32)
    with pytest.raises(SettingError, match="NaN"):
        top_k(scores, 1)
    for k in (-1, 4):
        with pytest.raises(SettingError, match="choose 0 to 3"):
            top_k(scores, k)


@pytest.mark.parametrize(
    ("ratio", "count", "kept"),
    [(0, 10, 0), (1e-9, 10, 1), (0.26, 10, 3), (0.999, 10, 10), (1, 10, 10), (0.5, 1, 1)],
)
def test_kept_count(ratio, count, kept):
    assert kept_count(ratio, count) == kept
