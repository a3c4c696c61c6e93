from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsdgc.errors import WireError
from rsdgc.statistics_codec import decode_statistics, encode_statistics

FLOATS = st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=5)
ARRAYS = st.lists(
    SHAPES.flatmap(
        lambda shape: hnp.arrays(
            np.float32,
            shape,
            elements=FLOATS,
        )
    ),
    min_size=1,
    max_size=12,
)


def named(arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"layer{number}.running_mean": array for number, array in enumerate(arrays)}


@given(ARRAYS, st.data())
def test_what_differs_comes_back_to_eleven_bits(
    arrays: list[np.ndarray], data: st.DataObject
) -> None:
    reference = named(arrays)
    changed = data.draw(st.sets(st.sampled_from(sorted(reference))))
    after = {
        name: np.float32(3) * array + np.float32(1) if name in changed else array
        for name, array in reference.items()
    }
    differing = {n for n, array in reference.items() if not np.array_equal(after[n], array)}
    packed = encode_statistics(after, reference)
    assert bool(packed) == bool(differing)
    decoded = decode_statistics(packed, reference) if packed else {}
    assert set(decoded) == differing
    for name, array in decoded.items():
        largest = np.abs(after[name]).max()
        np.testing.assert_allclose(array, after[name], rtol=2**-11, atol=largest * 2**-38)
        assert array.shape == after[name].shape
    values = sum(array.size for array in decoded.values())
    assert len(packed) <= 8 + (len(arrays) + 7) // 8 + len(decoded) + 2 * values


@given(st.binary(max_size=60))
def test_other_bytes_are_refused(content: bytes) -> None:
    reference = {"a.running_var": np.ones(3, np.float32), "b.running_mean": np.ones(2, np.float32)}
    try:
        decoded = decode_statistics(content, reference)
    except WireError:
        return
    assert decoded.keys() <= reference.keys()
    assert all(np.isfinite(array).all() for array in decoded.values())


def damaged() -> dict[str, tuple[bytes, str]]:
    reference = {"a.running_var": np.zeros(3, np.float32)}
    good = encode_statistics({"a.running_var": np.ones(3, np.float32)}, reference)
    negative = encode_statistics({"a.running_var": -np.ones(3, np.float32)}, reference)
    infinite = good[:-2] + b"\x00\x7c"
    return {
        "empty": (b"", "are not the statistics"),
        "short": (good[:-1], "bytes are expected"),
        "long": (good + b"\0", "bytes are expected"),
        "other": (b"XXXX" + good[4:], "are not the statistics"),
        "more arrays": (good[:8] + b"\x03" + good[9:], "more than 1"),
        "negative variance": (negative, "is negative"),
        "infinite": (infinite, "not finite"),
        "overflow": (good[:9] + b"\x7f" + b"\xff\x7b" * 3, "not finite"),
    }


@pytest.mark.parametrize("kind", damaged())
def test_damaged_statistics_are_refused(kind: str) -> None:
    content, message = damaged()[kind]
    with pytest.raises(WireError, match=message):
        decode_statistics(content, {"a.running_var": np.zeros(3, np.float32)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_encoded(value: float) -> None:
    with pytest.raises(WireError, match="lower the learning rate"):
        encode_statistics({"a": np.float32([1, value])}, {"a": np.zeros(2, np.float32)})
