"""The compressor: scores, selects and encodes an update, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsdgc.arrays import Float32, Float64, Int64, check_finite, max_magnitude
from rsdgc.codec.sizes import estimate_bytes
from rsdgc.codec.values import JointCoding
from rsdgc.codec.wire import encode
from rsdgc.errors import RsdgcError, SettingError
from rsdgc.indicators import Indicator
from rsdgc.scheme import Scheme
from rsdgc.selection import kept_count, top_k
from rsdgc.spec import Layer, ModelSpec
from rsdgc.update import SparseUpdate, Stamp


@dataclass(frozen=True)
class Compressor:
    """Keeps the best neighborhoods of each layer and encodes them.

    ::

        compressor = Compressor(spec, Scheme(), make_indicator("nsi"))
        sent = compressor.compress(update, ratios, Stamp(run=1, round=3), budget_bytes=50_000)
        buffer, decoded = sent.payload, sent.to_dense()

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

    def compress(
        self,
        update: Float32,
        ratios: Float64 | Sequence[float],
        stamp: Stamp,
        budget_bytes: float = 0.0,
    ) -> SparseUpdate:
        """Encode the best neighborhoods of an update.

        Parameters
        ----------
        update : float32 [spec.size]
            Not changed.
        ratios : float [num_layers]
            Share of each layer's neighborhoods to keep. 1 sends the layer whole, 0 nothing of it,
            and any other ratio at least one neighborhood.
        stamp : Stamp
            Run, round and base version; also the key of random scores.
        budget_bytes : float
            Size that a joint coding, such as the dead-zone levels, fits the upload to. With other
            codings the ratios alone decide the size.

        Returns
        -------
        SparseUpdate
            What was kept, as a decoder finds it in the ``payload``.

        Raises
        ------
        SettingError
            The ratios or the update do not fit the model, or the budget is too small.
        RsdgcError
            The update holds NaN or infinity. The message names the layer.
        """
        ratios = np.asarray(ratios, dtype=np.float64)
        num_layers = len(self.spec.layers)
        if ratios.shape != (num_layers,) or not np.all((ratios >= 0) & (ratios <= 1)):
            msg = f"ratios of shape {ratios.shape}: pass {num_layers} numbers from 0 to 1"
            raise SettingError(msg)
        whole = self._may_be_whole(ratios, budget_bytes)
        kept = [
            self._select(index, layer, view, ratio, stamp, whole=whole)
            for index, (layer, view, ratio) in enumerate(
                zip(self.spec.layers, self.spec.views(update), ratios.tolist(), strict=True)
            )
        ]
        return encode(self.spec, self.scheme, stamp, update, kept, budget_bytes)

    def _may_be_whole(self, ratios: Float64, budget_bytes: float) -> bool:
        """Return whether layers with a ratio of 1 are sent whole, or coded like the others.

        With a joint coding they are coded like the others unless the complete model fits: a value
        of a whole layer takes eight times the bits of a level, at the cost of all other layers.
        """
        if not isinstance(self.scheme.value_coding, JointCoding):
            return True
        size = estimate_bytes(self.spec, self.scheme, np.ones(ratios.size))
        return bool((ratios == 1).all()) and not 0 < budget_bytes < size

    def _select(
        self, index: int, layer: Layer, view: Float32, ratio: float, stamp: Stamp, *, whole: bool
    ) -> Int64 | None:
        """Return the ids to keep, or None for the whole layer."""
        grid = self.scheme.cut(layer.shape)
        kept = kept_count(ratio, grid.count)
        is_choice = 0 < kept < grid.count
        try:
            if is_choice:
                scores = self.indicator.score(view, grid, (stamp.run, stamp.round, index))
            else:  # indicators check the values that they score; nothing has checked these
                check_finite(max_magnitude(view))
        except RsdgcError as error:
            raise RsdgcError(f"layer {layer.name!r}: {error}") from None
        if is_choice:
            return top_k(scores, kept)
        return None if ratio == 1 and whole else np.arange(kept, dtype=np.int64)
