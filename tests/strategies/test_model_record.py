import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from rsdgc import ModelSpec
from rsdgc.errors import WireError
from strategies import messages
from strategies.model_record import received_model, to_record, to_vector

SPEC = ModelSpec.from_shapes({"conv": (2, 3, 1, 1), "scalar": (), "bias": (4,)})


def test_a_model_vector_becomes_named_arrays_and_back() -> None:
    vector = np.arange(SPEC.size, dtype=np.float32)
    record = to_record(vector, SPEC)
    assert {name: tuple(array.shape) for name, array in record.items()} == {
        "conv": (2, 3, 1, 1),
        "scalar": (),
        "bias": (4,),
    }
    joined = to_vector(record, SPEC)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, vector)


def test_the_order_is_that_of_the_specification() -> None:
    vector = np.arange(SPEC.size, dtype=np.float32)
    record = ArrayRecord(dict(reversed(list(to_record(vector, SPEC).items()))))
    np.testing.assert_array_equal(to_vector(record, SPEC), vector)


def test_other_dtypes_are_not_converted_silently() -> None:
    record = ArrayRecord({layer.name: Array(np.zeros(layer.shape)) for layer in SPEC.layers})
    with pytest.raises(WireError, match="float32"):
        to_vector(record, SPEC)


def test_a_received_model_is_read_packed_or_by_layer() -> None:
    vector = np.arange(SPEC.size, dtype=np.float32)
    for record in (to_record(vector, SPEC), ArrayRecord({messages.PACKED: Array(vector)})):
        np.testing.assert_array_equal(received_model(record, SPEC), vector)


def test_a_received_model_of_another_shape_is_an_error() -> None:
    vector = np.arange(SPEC.size, dtype=np.float32)
    layers = dict(to_record(vector, SPEC))
    for record in (
        ArrayRecord({messages.PACKED: Array(vector[1:])}),
        ArrayRecord({messages.PACKED: Array(vector.astype(np.float64))}),
        ArrayRecord({name: array for name, array in layers.items() if name != "bias"}),
        ArrayRecord(layers | {"bias": Array(np.zeros((1, 4), np.float32))}),
    ):
        with pytest.raises(WireError):
            received_model(record, SPEC)
