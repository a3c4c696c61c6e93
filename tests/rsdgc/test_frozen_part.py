from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc.errors import WireError
from rsdgc.frozen_part import FrozenPart

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4)


def part(shapes: list[tuple[int, ...]], seed: int) -> FrozenPart:
    rng = np.random.default_rng(seed)
    arrays = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return FrozenPart({f"layer{i}": np.asarray(array) for i, array in enumerate(arrays)})


@given(SHAPES, st.integers(0, 3))
def test_a_part_is_what_was_packed(shapes: list[tuple[int, ...]], seed: int) -> None:
    sent, own = part(shapes, seed), part(shapes, seed + 10)
    received = own.unpack(sent.pack(), sent.digest)
    assert received.digest == sent.digest
    assert len(sent.digest) == 16
    for name, array in sent.arrays.items():
        assert np.array_equal(received.arrays[name], array)
    assert (own.digest == sent.digest) == (sent.size == 0)


def test_the_digest_tells_names_shapes_and_bits_apart() -> None:
    values = np.arange(6, dtype=np.float32)
    parts = [
        FrozenPart({"a": values}),
        FrozenPart({"b": values}),
        FrozenPart({"a": values.reshape(2, 3)}),
        FrozenPart({"a": values[:3], "b": values[3:]}),
        FrozenPart({"a": -values}),
        FrozenPart({"a": values + np.float32(1e-7)}),
    ]
    assert len({part.digest for part in parts}) == len(parts)


def test_values_of_other_types_travel_as_their_bytes() -> None:
    order, mask = np.arange(4, dtype=np.int64), np.array([-np.inf, 1], np.float32)
    floats = {"a": np.ones(3, np.float32)}
    sent = FrozenPart({**floats, "order": order.view(np.uint8), "mask": mask.view(np.uint8)})
    own = FrozenPart({name: np.zeros_like(array) for name, array in sent.arrays.items()})
    assert sent.num_bytes == len(sent.pack()) == 12 + 32 + 8
    received = own.unpack(sent.pack(), sent.digest)
    assert np.array_equal(received.arrays["order"].view(np.int64), order)
    assert np.array_equal(received.arrays["mask"].view(np.float32), mask)
    assert FrozenPart(floats).digest != sent.digest != own.digest


@pytest.mark.parametrize(
    ("buffer", "words"),
    [
        (b"", "24 bytes is expected, and 0 arrived"),
        (bytes(28), "24 bytes is expected, and 28 arrived"),
        (bytes(24), "its digest is not the server's"),
        (np.array([1, 2, 3, np.nan, 5, 6], "<f4").tobytes(), "layer1 of .* not finite"),
    ],
)
def test_hostile_parts_are_refused(buffer: bytes, words: str) -> None:
    own = part([(3,), (3,)], 0)
    with pytest.raises(WireError, match=words):
        own.unpack(buffer, part([(3,), (3,)], 1).digest)
