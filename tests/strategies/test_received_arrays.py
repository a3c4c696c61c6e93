from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array

from rsdgc.errors import WireError
from strategies.received_arrays import rebuilt_array, received_bytes, received_floats

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_an_array_is_read_without_a_copy() -> None:
    array = Array(FLOATS)
    values = received_floats(array, (2, 3))
    np.testing.assert_array_equal(values, FLOATS)
    assert values.base is not None
    assert rebuilt_array(values, array.data) == array
    assert bytes(received_bytes(Array(np.arange(3, dtype=np.uint8)))) == b"\0\1\2"


@pytest.mark.parametrize(
    "changes",
    [
        {"stype": "torch.Tensor"},
        {"dtype": "float64"},
        {"dtype": "x" * 100_000},
        {"shape": (3, 2)},
        {"shape": (2**70,)},
        {"shape": ()},
    ],
)
def test_a_description_that_differs_is_an_error(changes: dict[str, object]) -> None:
    with pytest.raises(WireError, match="is described as") as caught:
        received_floats(replace(Array(FLOATS), **changes), (2, 3))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


def test_bytes_are_neither_floats_nor_of_two_dimensions() -> None:
    for values in (FLOATS, np.zeros((2, 2), np.uint8), np.zeros(2, np.int8), np.zeros(2, bool)):
        with pytest.raises(WireError):
            received_bytes(Array(values))
