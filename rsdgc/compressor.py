"""The compressor: scores, selects and encodes an update, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.arrays import peak
from rsdgc.errors import RsdgcError, SettingError
from rsdgc.neighborhoods import cut
from rsdgc.selection import kept_count, top_k
from rsdgc.wire import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsdgc.arrays import Float32, Float64, Int64
    from rsdgc.indicator import Indicator
    from rsdgc.scheme import Scheme
    from rsdgc.sparse import Stamp
    from rsdgc.spec import Layer, ModelSpec


@dataclass(frozen=True)
class Compressor:
    """Keeps each layer's best neighborhoods and encodes them.

    ::

        compressor = Compressor(spec, Scheme(), make_indicator("nsi"))
        payload = compressor.compress(update, ratios, Stamp(run=1, round=3))
        same_shape = decode(payload, spec).to_dense()

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scheme : Scheme
        How its layers are cut and coded.
    indicator : Indicator
        What ranks the neighborhoods.
    """

    spec: ModelSpec
    scheme: Scheme
    indicator: Indicator

    def compress(self, update: Float32, ratios: Float64 | Sequence[float], stamp: Stamp) -> bytes:
        """Encode the best neighborhoods of an update.

        Parameters
        ----------
        update : float32 [spec.size]
            Left as it is.
        ratios : float [num_layers]
            Share of each layer's neighborhoods to keep: 1 sends the layer whole, 0 nothing of
            it, anything between at least one neighborhood.
        stamp : Stamp
            Run, round and base version; also the key of random scores.

        Returns
        -------
        bytes
            What :func:`rsdgc.wire.decode` reads.

        Raises
        ------
        SettingError
            If the ratios or the update's shape do not fit the model.
        RsdgcError
            If the update holds NaN or infinity; the message names the layer.
        """
        ratios = self._checked(ratios)
        kept = [
            self._select(index, layer, view, ratio, stamp)
            for index, (layer, view, ratio) in enumerate(
                zip(self.spec.layers, self.spec.views(update), ratios.tolist(), strict=True)
            )
        ]
        return encode(self.spec, self.scheme, stamp, update, kept)

    def _checked(self, ratios: Float64 | Sequence[float]) -> Float64:
        ratios = np.asarray(ratios, dtype=np.float64)
        expected = (len(self.spec.layers),)
        if ratios.shape != expected or not np.all((ratios >= 0) & (ratios <= 1)):
            msg = f"ratios of shape {ratios.shape}: pass {expected[0]} numbers from 0 to 1"
            raise SettingError(msg)
        return ratios

    def _select(
        self, index: int, layer: Layer, view: Float32, ratio: float, stamp: Stamp
    ) -> Int64 | None:
        """Return the ids to keep, None for the whole layer."""
        largest = peak(view)
        if not math.isfinite(largest):
            msg = (
                f"the update of layer {layer.name!r} holds {largest}: "
                "lower the learning rate or clip the gradients"
            )
            raise RsdgcError(msg)
        if ratio == 1:
            return None
        hoods = cut(layer.shape, self.scheme)
        kept = kept_count(ratio, hoods.count)
        if kept in (0, hoods.count):
            return np.arange(kept, dtype=np.int64)
        scores = self.indicator.score(view, hoods, (stamp.run, stamp.round, index))
        return top_k(scores, kept)
