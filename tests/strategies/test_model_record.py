import numpy as np
from flwr.app import Array, ArrayRecord

from rsdgc import ModelSpec
from strategies.model_record import to_record, to_vector

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
    assert to_vector(record, SPEC).dtype == np.float64
