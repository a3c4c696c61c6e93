"""Layer shares: how a budget is spread over layers (the paper's dynamic layer-wise compression).

A policy is a pure function that gives every layer a share of 0 or more; only their proportions
matter. :func:`rsdgc.ratios.fit_ratios` turns them into ratios inside a budget.

Layer ratios: the share of each layer's neighborhoods to keep, inside a byte budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsdgc.codec.sizes import SizeModel, estimate_bytes
from rsdgc.errors import SettingError
from rsdgc.indicators import L1, RMS
from rsdgc.neighborhoods import Neighborhoods, cut
from rsdgc.selection import top_k

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsdgc.arrays import Float32, Float64
    from rsdgc.scheme import Scheme
    from rsdgc.spec import ModelSpec

    Bools = NDArray[np.bool_]


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


__all__ = ["estimate_bytes", "fit_ratios", "uniform_shares", "update_shares", "weight_shares"]

_BISECTIONS = 80


def fit_ratios(
    spec: ModelSpec,
    scheme: Scheme,
    shares: Float64,
    budget_bytes: float,
    dense_share: float = 0.1,
) -> Float64:
    """Turn layer shares into ratios so that an update takes the budgeted bytes.

    The smallest layers are sent whole, in order of size, while their values take no more than
    ``dense_share`` of the budget (and wherever that is no dearer than one neighborhood); none of
    them where values are levels, which cost an eighth of a float16. The others get
    ``min(1, c · share)``, at least one neighborhood each, with one ``c`` for all, found by
    bisection on :func:`rsdgc.codec.sizes.estimate_bytes`. If layers with a share of 0 are all that
    is left to spend on, the rest is spread over them evenly.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scheme : Scheme
        How its layers are cut and coded.
    shares : float64 [num_layers]
        0 or more; only proportions matter. All 0 counts as uniform.
    budget_bytes : float
        Bytes of the whole update, header and table included.
    dense_share : float
        0 to 1.

    Returns
    -------
    float64 [num_layers]
        1 for layers sent whole (or, of levels, all of whose neighborhoods are sent). All 1 if the
        budget reaches the model's float32 bytes, or what it takes with all layers whole.

    Raises
    ------
    SettingError
        If the budget cannot carry one neighborhood of each layer (the message names the least
        that can), or another argument is out of range.
    """
    shares = _checked_shares(spec, shares)
    if not 0 <= dense_share <= 1:
        msg = f"dense_share is {dense_share}: choose 0 to 1"
        raise SettingError(msg)
    model = SizeModel.from_spec(spec, scheme)
    everything = np.ones(shares.size)
    if budget_bytes >= min(spec.dense_bytes, model.total_bytes(everything)):
        return everything
    whole = _whole_layers(spec, model, budget_bytes, dense_share)
    return _fill(model, shares, whole, budget_bytes)


def _checked_shares(spec: ModelSpec, shares: Float64) -> Float64:
    shares = np.asarray(shares, dtype=np.float64)
    expected = (len(spec.layers),)
    if shares.shape != expected or not np.all(np.isfinite(shares) & (shares >= 0)):
        msg = f"shares of shape {shares.shape}: pass {expected[0]} finite numbers, 0 or more"
        raise SettingError(msg)
    return shares / shares.max() if shares.any() else np.ones(shares.size)


def _whole_layers(
    spec: ModelSpec, model: SizeModel, budget_bytes: float, dense_share: float
) -> Bools:
    """Return which layers are sent whole.

    Raises
    ------
    SettingError
        If the budget is below the least feasible one.
    """
    one_neighborhood = 1 / model.counts
    cheap: Bools = model.whole_bytes <= model.layer_bytes(one_neighborhood * (1 - 1e-9))
    cheap &= not model.joint
    least = model.total_bytes(np.where(cheap, 1.0, one_neighborhood))
    if not budget_bytes >= least:
        msg = (
            f"a budget of {budget_bytes:.0f} bytes cannot carry one neighborhood of each layer: "
            f"allow at least {np.ceil(least):.0f} bytes ({spec.dense_bytes / least:.1f}x)"
        )
        raise SettingError(msg)
    if model.joint:
        return cheap
    order = np.argsort(model.whole_bytes, kind="stable")
    fits = np.cumsum(model.whole_bytes[order]) <= dense_share * budget_bytes
    whole = cheap.copy()
    whole[order[fits]] = True
    feasible = model.total_bytes(np.where(whole, 1.0, one_neighborhood)) <= budget_bytes
    return whole if feasible else cheap


def _fill(model: SizeModel, shares: Float64, whole: Bools, budget_bytes: float) -> Float64:
    """Return the ratios for the largest common factor that the budget allows."""

    def ratios(factor: float) -> Float64:
        least = np.maximum(factor * shares, 1 / model.counts)
        filled: Float64 = np.where(whole, 1.0, np.minimum(1.0, least))
        return filled

    spendable = ~whole & (shares > 0)
    low, high = 0.0, 1.0 / shares[spendable].min() if spendable.any() else 0.0
    if model.total_bytes(ratios(high)) <= budget_bytes:
        starved = ~whole & (shares == 0)
        if not starved.any():
            return ratios(high)
        return _fill(model, starved.astype(np.float64), whole | spendable, budget_bytes)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if model.total_bytes(ratios(middle)) <= budget_bytes:
            low = middle
        else:
            high = middle
    return ratios(low)
