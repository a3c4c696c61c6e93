"""Expected size of an encoded update, from the ratios alone.

Kept ids are taken as evenly random, which is the worst case for the coding of their gaps: real
ones cluster and take a little less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsdgc.arrays import Float64
from rsdgc.codec.byte_stream import MAX_VARINT_BYTES
from rsdgc.codec.golomb_rice import expected_id_bits
from rsdgc.codec.header import HEADER_BYTES
from rsdgc.codec.indices import RAW_ID_BITS
from rsdgc.codec.values import JointCoding
from rsdgc.scheme import Scheme
from rsdgc.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class SizeModel:
    """Expected encoded size of a model's layers."""

    counts: Float64  #: float64 [num_layers]: neighborhoods of each layer
    whole_bytes: Float64  #: float64 [num_layers]: bytes of each layer sent whole
    neighborhood_bytes: Float64  #: float64 [num_layers]: value bytes of a mean neighborhood
    overhead_bytes: int  #: bytes of a sparse layer beside ids and values, such as a scale
    raw_ids: bool  #: whether ids are plain integers
    #: whether the value coding is a joint one. Then a layer with ratio 1 is coded like the
    #: others, unless all layers that are sent have ratio 1.
    joint: bool

    @classmethod
    def from_spec(cls, spec: ModelSpec, scheme: Scheme) -> SizeModel:
        """Return the size model of a model under a scheme."""
        sizes = np.array([layer.size for layer in spec.layers], dtype=np.float64)
        counts = np.array([scheme.cut(layer.shape).count for layer in spec.layers], np.float64)
        sparse, dense = scheme.value_coding, scheme.dense_coding
        return cls(
            counts,
            dense.overhead_bytes + sizes * dense.bits_per_value / 8,
            sizes / counts * sparse.bits_per_value / 8,
            sparse.overhead_bytes,
            scheme.indices == "int32",
            isinstance(sparse, JointCoding),
        )

    def layer_bytes(self, ratios: Float64) -> Float64:
        """Return the expected bytes of each layer at these ratios, its count included."""
        kept = np.clip(np.rint(ratios * self.counts), 1, self.counts)
        id_bits = RAW_ID_BITS if self.raw_ids else expected_id_bits(kept / self.counts)
        # The count is a varint: a byte, and one more for each limit that it reaches.
        limits = 128.0 ** np.arange(1, MAX_VARINT_BYTES)
        count_bytes = 1.0 + (kept[..., None] >= limits).sum(axis=-1)
        ids = np.where(kept < self.counts, kept * id_bits / 8 + count_bytes, 0.0)
        sparse = ids + kept * self.neighborhood_bytes + self.overhead_bytes
        sparse = np.where(ratios > 0, sparse, 1.0)  # a layer that keeps nothing has a count of 0
        whole = ratios == 1
        if self.joint and not (whole | (ratios == 0)).all():
            return sparse
        return np.where(whole, self.whole_bytes, sparse)

    def total_bytes(self, ratios: Float64) -> float:
        """Return the expected bytes of the whole update: header, layer codes, and layers."""
        return HEADER_BYTES + self.counts.size + float(self.layer_bytes(ratios).sum())


def estimate_bytes(spec: ModelSpec, scheme: Scheme, ratios: Float64) -> float:
    """Return the expected bytes of an encoded update.

    Parameters
    ----------
    spec, scheme
        The model, and how its layers are cut and coded.
    ratios : float64 [num_layers]
        0 to 1, as :meth:`rsdgc.Compressor.compress` takes them.
    """
    return SizeModel.from_spec(spec, scheme).total_bytes(np.asarray(ratios, dtype=np.float64))
