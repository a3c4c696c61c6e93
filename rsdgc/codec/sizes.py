"""How many bytes an update will take, before there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.codec.byte_stream import MAX_VARINT_BYTES
from rsdgc.codec.golomb_rice import MAX_RICE
from rsdgc.codec.header import HEADER_BYTES
from rsdgc.codec.values import ITEM_BITS, SCALE_BYTES
from rsdgc.neighborhoods import cut

if TYPE_CHECKING:
    from rsdgc.arrays import Float64
    from rsdgc.scheme import Scheme
    from rsdgc.spec import ModelSpec

LEVEL_BITS = 2.0
"""Bits of a kept value that ratios allow for where values are levels of the dead-zone quantiser.

The step makes up for what they really take. With fewer bits the budget carries more
neighborhoods of coarser values; on real updates 2.0 captures the most energy at 50× to 1000×.
"""
RAW_ID_BITS = 32.0


@dataclass(frozen=True, eq=False)
class SizeModel:
    """Expected encoded size of a model's layers; kept ids are taken as evenly random.

    Parameters
    ----------
    counts : float64 [num_layers]
        Neighborhoods of each layer.
    whole_bytes : float64 [num_layers]
        Bytes of each layer sent whole.
    neighborhood_bytes : float64 [num_layers]
        Value bytes of a mean neighborhood.
    scale_bytes : float
        Bytes of a sparse layer's scale.
    raw_ids : bool
        Whether ids are plain integers.
    levels : bool
        Whether values are levels, which layers are coded in unless the whole model is sent.
    """

    counts: Float64
    whole_bytes: Float64
    neighborhood_bytes: Float64
    scale_bytes: float
    raw_ids: bool
    levels: bool

    @classmethod
    def from_spec(cls, spec: ModelSpec, scheme: Scheme) -> SizeModel:
        """Measure a model under a scheme."""
        sizes = np.array([layer.size for layer in spec.layers], dtype=np.float64)
        counts = np.array([cut(layer.shape, scheme).count for layer in spec.layers], np.float64)
        levels = scheme.values == "deadzone"
        return cls(
            counts,
            SCALE_BYTES[scheme.dense_values] + sizes * ITEM_BITS[scheme.dense_values] / 8,
            sizes / counts * (LEVEL_BITS if levels else ITEM_BITS[scheme.values]) / 8,
            0.0 if levels else float(SCALE_BYTES[scheme.values]),
            scheme.indices == "int32",
            levels,
        )

    @property
    def fixed_bytes(self) -> float:
        """Bytes of header and layer codes."""
        return float(HEADER_BYTES + self.counts.size)

    def layer_bytes(self, ratios: Float64) -> Float64:
        """Return the expected bytes of each layer, its count included.

        Parameters
        ----------
        ratios : float64 [num_layers]
            0 to 1, as :meth:`rsdgc.compressor.Compressor.compress` takes them.

        Returns
        -------
        float64 [num_layers]
        """
        kept = np.clip(np.rint(ratios * self.counts), 1, self.counts)
        id_bits = RAW_ID_BITS if self.raw_ids else rice_bits(kept / self.counts)
        ids = np.where(kept < self.counts, kept * id_bits / 8 + _count_bytes(kept), 0.0)
        sparse = ids + kept * self.neighborhood_bytes + self.scale_bytes
        sparse = np.where(ratios > 0, sparse, 1.0)
        whole = ratios == 1
        if self.levels and not whole.all():
            return sparse
        return np.where(whole, self.whole_bytes, sparse)

    def total_bytes(self, ratios: Float64) -> float:
        """Return the expected bytes of the whole update."""
        return self.fixed_bytes + float(self.layer_bytes(ratios).sum())


def _count_bytes(kept: Float64) -> Float64:
    """Return the bytes of counts (:mod:`rsdgc.codec.byte_stream`)."""
    limits = 128.0 ** np.arange(1, MAX_VARINT_BYTES)
    found: Float64 = 1.0 + (kept[..., None] >= limits).sum(axis=-1)
    return found


def rice_bits(density: Float64) -> Float64:
    """Return the expected bits per id of the best Golomb-Rice code of evenly random ids.

    A gap is then geometric, so its expected quotient by ``2^r`` is ``a / (1 - a)`` with
    ``a = (1 - density)^(2^r)``.

    Parameters
    ----------
    density : float64 [n]
        Share of ids that is kept, above 0 and up to 1.

    Returns
    -------
    float64 [n]
        From 1 at density 1 upwards, within 4 % of the entropy at low densities.
    """
    rice = np.arange(MAX_RICE + 1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_skip = np.log1p(-np.asarray(density, dtype=np.float64))[..., None]
    power = log_skip * 2.0**rice
    quotient = np.exp(power) / -np.expm1(power)
    bits: Float64 = (rice + 1 + quotient).min(axis=-1)
    return bits


def estimate_bytes(spec: ModelSpec, scheme: Scheme, ratios: Float64) -> float:
    """Return the expected size of an encoded update.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scheme : Scheme
        How its layers are cut and coded.
    ratios : float64 [num_layers]
        0 to 1 each.

    Returns
    -------
    float
        Bytes: header, layer table, indices, scales and values.
    """
    return SizeModel.from_spec(spec, scheme).total_bytes(np.asarray(ratios, dtype=np.float64))
