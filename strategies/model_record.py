"""A model as one flat vector and as Flower's named arrays."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord

from rsdgc import ModelSpec
from rsdgc.arrays import Float32


def to_vector(record: ArrayRecord, spec: ModelSpec) -> Float32:
    """Join the arrays of a model into one vector.

    Parameters
    ----------
    record : ArrayRecord
        One array per layer, by name.
    spec : ModelSpec
        Order of the layers in the vector.

    Returns
    -------
    float32 [spec.size]
        A new vector. Its dtype and size are those of the arrays: check them if the record comes
        from elsewhere.
    """
    return np.concatenate([record[layer.name].numpy().reshape(-1) for layer in spec.layers])


def to_record(vector: Float32, spec: ModelSpec) -> ArrayRecord:
    """Cut a model vector, float32 [spec.size], into one named array per layer."""
    views = spec.views(vector)
    return ArrayRecord(
        {
            layer.name: Array(view.reshape(layer.shape))
            for layer, view in zip(spec.layers, views, strict=True)
        }
    )
