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
from rsdgc.spec import ModelSpec
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
        # A value of a whole layer takes eight times the bits of a level, at the cost of all other
        # layers. So with a joint coding layers are sent whole only if all that are sent fit.
        may_be_whole = not isinstance(self.scheme.value_coding, JointCoding) or (
            bool(((ratios == 1) | (ratios == 0)).all())
            and not 0 < budget_bytes < estimate_bytes(self.spec, self.scheme, ratios)
        )
        kept: list[Int64 | None] = []
        views = self.spec.views(update)
        for index, (layer, view) in enumerate(zip(self.spec.layers, views, strict=True)):
            grid, ratio = self.scheme.cut(layer.shape), float(ratios[index])
            count = kept_count(ratio, grid.count)
            scores = None
            try:
                if 0 < count < grid.count:
                    scores = self.indicator.score(view, grid, (stamp.run, stamp.round, index))
                else:  # indicators check the values that they score; nothing has checked these
                    check_finite(max_magnitude(view))
            except RsdgcError as error:
                raise RsdgcError(f"layer {layer.name!r}: {error}") from None
            if scores is not None:
                kept.append(top_k(scores, count))
            else:
                kept.append(None if ratio == 1 and may_be_whole else np.arange(count))
        return encode(self.spec, self.scheme, stamp, update, kept, budget_bytes)
