"""How many bytes an update will take, before there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.indices import MAX_RICE
from rsdgc.neighborhoods import cut
from rsdgc.values import ITEM_BYTES, SCALE_BYTES
from rsdgc.wire import FIXED_BYTES, ROW_BYTES

if TYPE_CHECKING:
    from rsdgc.arrays import Float64
    from rsdgc.scheme import Scheme
    from rsdgc.spec import ModelSpec

_PADDING_BYTES = 7 / 16
"""Mean padding of a bit stream to whole bytes."""


@dataclass(frozen=True, eq=False)
class SizeModel:
    """Expected encoded size of a model's layers; kept ids are taken as evenly random.

    Parameters
    ----------
    counts : float64 [num_layers]
        Neighborhoods of each layer.
    whole_bytes : float64 [num_layers]
        Bytes of each layer sent whole.
    hood_bytes : float64 [num_layers]
        Value bytes of a mean neighborhood.
    scale_bytes : float
        Bytes of a sparse layer's scale.
    """

    counts: Float64
    whole_bytes: Float64
    hood_bytes: Float64
    scale_bytes: float

    @classmethod
    def of(cls, spec: ModelSpec, scheme: Scheme) -> SizeModel:
        """Measure a model under a scheme."""
        sizes = np.array([layer.size for layer in spec.layers], dtype=np.float64)
        counts = np.array([cut(layer.shape, scheme).count for layer in spec.layers], np.float64)
        return cls(
            counts,
            sizes * ITEM_BYTES[scheme.dense_values],
            sizes / counts * ITEM_BYTES[scheme.values],
            float(SCALE_BYTES[scheme.values]),
        )

    @property
    def fixed_bytes(self) -> float:
        """Bytes of header and layer codes."""
        return float(FIXED_BYTES + self.counts.size)

    def layer_bytes(self, ratios: Float64) -> Float64:
        """Return the expected bytes of each layer, its row of the table included.

        Parameters
        ----------
        ratios : float64 [num_layers]
            0 to 1, as :meth:`rsdgc.compressor.Compressor.compress` takes them.

        Returns
        -------
        float64 [num_layers]
        """
        kept = np.clip(np.rint(ratios * self.counts), 1, self.counts)
        index_bytes = kept * rice_bits(kept / self.counts) / 8 + _PADDING_BYTES
        sparse = index_bytes + kept * self.hood_bytes + self.scale_bytes
        sparse = np.where(ratios > 0, sparse, 0.0) + ROW_BYTES
        return np.where(ratios == 1, self.whole_bytes, sparse)

    def total_bytes(self, ratios: Float64) -> float:
        """Return the expected bytes of the whole update."""
        return self.fixed_bytes + float(self.layer_bytes(ratios).sum())


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
    return SizeModel.of(spec, scheme).total_bytes(np.asarray(ratios, dtype=np.float64))
