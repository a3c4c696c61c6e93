"""A model as one flat vector and as Flower's named arrays."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord

from rsdgc import ModelSpec
from rsdgc.arrays import Bools, Float32


def to_vector(record: ArrayRecord, spec: ModelSpec) -> Float32:
    """Join a model's arrays, one per layer, into one new vector, float32 [spec.size].

    Its dtype and size are those of the arrays: check them if the record comes from elsewhere.
    """
    return np.concatenate([record[layer.name].numpy().reshape(-1) for layer in spec.layers])


def to_record(vector: Float32, spec: ModelSpec, present: Bools | None = None) -> ArrayRecord:
    """Cut a model vector, float32 [spec.size], into one named array per layer that is present.

    ``present`` is bool [num_layers], all by default.
    """
    chosen = np.ones(len(spec.layers), np.bool_) if present is None else present
    layers = zip(spec.layers, spec.views(vector), chosen, strict=True)
    return ArrayRecord(
        {layer.name: Array(view.reshape(layer.shape)) for layer, view, kept in layers if kept}
    )
