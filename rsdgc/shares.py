"""Layer shares: how a budget is spread over layers (the paper's dynamic layer-wise compression).

A policy is a pure function that gives every layer a share of 0 or more; only their proportions
matter. :func:`rsdgc.ratios.fit_ratios` turns them into ratios inside a budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsdgc.cutting import cut
from rsdgc.errors import SettingError
from rsdgc.indicator import L1, RMS
from rsdgc.neighborhoods import Neighborhoods
from rsdgc.selection import top_k

if TYPE_CHECKING:
    from rsdgc.arrays import Float32, Float64
    from rsdgc.scheme import Scheme
    from rsdgc.spec import ModelSpec


def uniform_shares(spec: ModelSpec) -> Float64:
    """Return the same share for every layer, float64 [num_layers]."""
    return np.ones(len(spec.layers))


def weight_shares(
    spec: ModelSpec, weights: Float32, top_share: float = 0.5, floor: float = 0.0
) -> Float64:
    """Rank all neurons of the model at once by their mean magnitude of weight (the paper's idea).

    A neuron is an output row of a layer with at least two dimensions; its importance is the
    mean of ``|w|`` over the row. The share of a layer is the share of its neurons in the
    global top. Layers of fewer dimensions have no neurons and get the mean share.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    weights : float32 [spec.size]
        Its present weights.
    top_share : float
        Part of all neurons that counts as the top; above 0, up to 1. The mean weight of a
        neuron falls with its fan-in, so a small top holds the neurons of the first layers alone
        and starves all others. The default of one half, the median split, leaves most layers
        a share, and none more than twice the mean.
    floor : float
        0 to 1: part of the budget that is spread evenly, so that no layer starves.

    Returns
    -------
    float64 [num_layers]
        From 0 to 1.

    Raises
    ------
    SettingError
        If an argument is out of range.
    RsdgcError
        If a weight is NaN or infinite.
    """
    _check(top_share, floor)
    scores = [
        L1().score(view, Neighborhoods(rows, layer.size // rows, 1, layer.size // rows))
        if (rows := layer.shape[0] if len(layer.shape) > 1 else 0)
        else np.empty(0, dtype=np.float32)
        for layer, view in zip(spec.layers, spec.views(weights), strict=True)
    ]
    return _ranked(scores, top_share, floor, only_positive=False)


def update_shares(
    spec: ModelSpec, scheme: Scheme, update: Float32, top_share: float = 0.05, floor: float = 0.1
) -> Float64:
    """Rank all neighborhoods of the model at once by the RMS of the aggregated update.

    The share of a layer is the share of its neighborhoods in the global top: what one global
    threshold on the update would keep of it. An aggregate of sparse updates is zero wherever no
    site sent anything, and zeros never count as the top; so a layer of which little was sent
    cannot rise by more than was sent. The floor brings it back: with it every layer sends some of
    its residual, which grows while it waits, and what arrives of it then ranks high.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scheme : Scheme
        How its layers are cut.
    update : float32 [spec.size]
        The last aggregated update.
    top_share : float
        Part of all neighborhoods that counts as the top; above 0, up to 1. About the density
        that the budget allows is best, since a far larger top takes in all that was sent and
        only repeats the last ratios. The default suits int8 kernel slices at 50× to 100×.
    floor : float
        0 to 1: part of the budget that is spread evenly, so that no layer starves.

    Returns
    -------
    float64 [num_layers]
        From 0 to 1; even if the update is zero.

    Raises
    ------
    SettingError
        If an argument is out of range.
    RsdgcError
        If the update holds NaN or infinity.
    """
    _check(top_share, floor)
    scores = [
        RMS().score(view, cut(layer.shape, scheme))
        for layer, view in zip(spec.layers, spec.views(update), strict=True)
    ]
    return _ranked(scores, top_share, floor, only_positive=True)


def _ranked(
    scores: list[Float32], top_share: float, floor: float, *, only_positive: bool
) -> Float64:
    """Return each layer's share of the global top, mixed with the mean share."""
    counts = np.array([part.size for part in scores], dtype=np.int64)
    joined = np.concatenate(scores)
    top = max(1, round(top_share * joined.size))
    if only_positive:
        top = min(top, int(np.count_nonzero(joined > 0)))
    top = min(top, joined.size)
    if top == 0:
        return np.ones(counts.size)
    ends = np.searchsorted(top_k(joined, top), np.cumsum(counts))
    mean = top / joined.size
    shares = np.where(counts > 0, np.diff(ends, prepend=0) / np.maximum(counts, 1), mean)
    mixed: Float64 = (1 - floor) * shares + floor * mean
    return mixed


def _check(top_share: float, floor: float) -> None:
    if not 0 < top_share <= 1:
        msg = f"top_share is {top_share}: choose above 0, up to 1"
        raise SettingError(msg)
    if not 0 <= floor <= 1:
        msg = f"floor is {floor}: choose 0 to 1"
        raise SettingError(msg)
