"""A model as one flat vector and as Flower's named arrays."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord

from rsdgc import ModelSpec
from rsdgc.arrays import Bools, Float32
from rsdgc.errors import WireError
from rsdgc.npy_format import read_npy_floats
from strategies import messages
from strategies.received_arrays import received_floats


def received_model(record: ArrayRecord, spec: ModelSpec) -> Float32:
    """Return a model that a peer sent, packed or layer by layer, as a vector, float32 [spec.size].

    Raises
    ------
    WireError
        It is not a model of this shape.
    """
    if messages.PACKED in record:
        return received_floats(record[messages.PACKED], (spec.size,))
    absent = [layer.name for layer in spec.layers if layer.name not in record]
    if absent:
        raise WireError(f"layer {absent[0]!r} is absent")
    layers = [received_floats(record[layer.name], layer.shape) for layer in spec.layers]
    return np.concatenate([values.reshape(-1) for values in layers])


def array_values(array: Array) -> Float32:
    """Return the values of one of the server's own float32 arrays, read-only, without a copy.

    ``Array.numpy()`` copies them, and parses the header as Python. Before Python 3.11.8 that fails
    with a SystemError if another thread, such as a tracker's, parses something in that moment
    (https://github.com/python/cpython/issues/106905).
    """
    return read_npy_floats(array.data, array.shape)


def to_vector(record: ArrayRecord, spec: ModelSpec) -> Float32:
    """Join a model's arrays, one per layer, into one new vector, float32 [spec.size].

    Its size is that of the arrays: for a record from a peer there is :func:`received_model`.
    """
    return np.concatenate([array_values(record[layer.name]).reshape(-1) for layer in spec.layers])


def to_record(vector: Float32, spec: ModelSpec, present: Bools | None = None) -> ArrayRecord:
    """Cut a model vector, float32 [spec.size], into one named array per layer that is present.

    ``present`` is bool [num_layers], all by default.
    """
    chosen = np.ones(len(spec.layers), np.bool_) if present is None else present
    layers = zip(spec.layers, spec.views(vector), chosen, strict=True)
    return ArrayRecord(
        {layer.name: Array(view.reshape(layer.shape)) for layer, view, kept in layers if kept}
    )
