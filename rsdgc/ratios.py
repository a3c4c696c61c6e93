"""Layer ratios inside a byte budget (the paper's dynamic layer-wise compression).

In two steps. A policy, a pure function, gives every layer a *share* of 0 or more, of which only the
proportions matter: :func:`uniform_shares`, :func:`weight_shares`, :func:`update_shares`. Then
:func:`fit_ratios` turns shares into *ratios*, the part of each layer's neighborhoods to keep, so
that an update takes the budgeted bytes.
"""

from __future__ import annotations

import numpy as np

from rsdgc.arrays import Bools, Float32, Float64
from rsdgc.codec.sizes import SizeModel
from rsdgc.errors import SettingError
from rsdgc.indicators import L1, RMS
from rsdgc.neighborhoods import Neighborhoods
from rsdgc.scheme import Scheme
from rsdgc.selection import top_k
from rsdgc.spec import ModelSpec

_BISECTIONS = 80  # more than enough for the last digit of a float64


def uniform_shares(spec: ModelSpec) -> Float64:
    """Return the same share for every layer, float64 [num_layers]."""
    return np.ones(len(spec.layers))


def weight_shares(
    spec: ModelSpec, weights: Float32, top_share: float = 0.5, floor: float = 0.0
) -> Float64:
    """Rank all neurons of the model together by their mean weight magnitude (the paper's policy).

    A neuron is an output row of a layer with at least two dimensions; its importance is the
    mean of ``|w|`` over the row. The share of a layer is the part of its neurons that are in the
    global top. Layers with fewer dimensions have no neurons and get the mean share.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    weights : float32 [spec.size]
        Its current weights.
    top_share : float
        Part of all neurons that counts as the top; above 0, up to 1. The mean weight of a
        neuron falls with its fan-in, so a small top holds only neurons of the first layers
        and starves all others. The default of one half, the median split, leaves most layers
        a share, and gives none more than twice the mean.
    floor : float
        Part of the budget that is spread evenly, so that no layer starves; 0 to 1.

    Returns
    -------
    float64 [num_layers]
        From 0 to 1.

    Raises
    ------
    SettingError
        An argument is out of range.
    RsdgcError
        A weight is NaN or infinite.
    """
    scores = []
    for layer, view in zip(spec.layers, spec.views(weights), strict=True):
        if len(layer.shape) > 1:
            rows, row_length = layer.shape[0], layer.size // layer.shape[0]
            # A neuron's row is one neighborhood as wide as the layer.
            scores.append(L1().score(view, Neighborhoods(rows, row_length, 1, row_length)))
        else:
            scores.append(np.empty(0, dtype=np.float32))
    return _shares_of_top(scores, top_share, floor, only_positive=False)


def update_shares(
    spec: ModelSpec, scheme: Scheme, update: Float32, top_share: float = 0.05, floor: float = 0.1
) -> Float64:
    """Rank all neighborhoods of the model together by the RMS of the aggregated update.

    The share of a layer is the part of its neighborhoods that are in the global top: what one
    global threshold on the update would keep of it. An aggregate of sparse updates is zero where no
    site sent anything, and zeros never count as the top, so by itself a layer of which little was
    sent could not rise again. The floor makes that possible: every layer sends some of its
    residual, which grows while it waits and therefore ranks high when it arrives.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scheme : Scheme
        How its layers are cut.
    update : float32 [spec.size]
        The last aggregated update.
    top_share : float
        Part of all neighborhoods that counts as the top; above 0, up to 1. The density that the
        budget allows is about best: a far larger top contains everything that was sent and only
        repeats the last ratios. The default suits int8 kernel slices at 50× to 100×.
    floor : float
        Part of the budget that is spread evenly, so that no layer starves; 0 to 1.

    Returns
    -------
    float64 [num_layers]
        From 0 to 1; all equal if the update is zero.

    Raises
    ------
    SettingError
        An argument is out of range.
    RsdgcError
        The update holds NaN or infinity.
    """
    scores = [
        RMS().score(view, scheme.cut(layer.shape))
        for layer, view in zip(spec.layers, spec.views(update), strict=True)
    ]
    return _shares_of_top(scores, top_share, floor, only_positive=True)


def _shares_of_top(
    scores: list[Float32], top_share: float, floor: float, *, only_positive: bool
) -> Float64:
    """Return the part of each layer's scores in the global top, mixed with the mean share."""
    if not 0 < top_share <= 1:
        raise SettingError(f"top_share is {top_share}: choose above 0, up to 1")
    if not 0 <= floor <= 1:
        raise SettingError(f"floor is {floor}: choose 0 to 1")
    counts = np.array([part.size for part in scores], dtype=np.int64)
    joined = np.concatenate(scores)
    candidates = int(np.count_nonzero(joined > 0)) if only_positive else joined.size
    top = min(max(1, round(top_share * joined.size)), candidates)
    if top == 0:
        return np.ones(counts.size)
    # The ids of the top increase, so where each layer ends among them gives its number.
    ends = np.searchsorted(top_k(joined, top), np.cumsum(counts))
    mean = top / joined.size
    shares = np.where(counts > 0, np.diff(ends, prepend=0) / np.maximum(counts, 1), mean)
    mixed: Float64 = (1 - floor) * shares + floor * mean
    return mixed


def fit_ratios(
    spec: ModelSpec, scheme: Scheme, shares: Float64, budget_bytes: float, dense_share: float = 0.1
) -> Float64:
    """Turn layer shares into ratios so that an update takes the budgeted bytes.

    The smallest layers are sent whole, in order of size, while their values take no more than
    ``dense_share`` of the budget, and so is every layer that is cheaper whole than with one
    neighborhood. (With dead-zone levels no layer is: a level takes an eighth of a float16.) The
    others get ``min(1, c · share)``, at least one neighborhood each, with one ``c`` for all that
    is found by bisection on the expected size (:mod:`rsdgc.codec.sizes`). If budget remains when
    all layers with a share are complete, it is spread evenly over those with a share of 0.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scheme : Scheme
        How its layers are cut and coded.
    shares : float64 [num_layers]
        0 or more; only proportions matter. All 0 counts as uniform.
    budget_bytes : float
        Bytes of the complete update, header and tables included.
    dense_share : float
        Part of the budget for small layers that are sent whole; 0 to 1.

    Returns
    -------
    float64 [num_layers]
        1 for layers that are sent whole, or completely as levels. All 1 if the budget reaches the
        float32 bytes of the model or its expected size with all layers whole.

    Raises
    ------
    SettingError
        The budget is too small for one neighborhood of each layer (the message names the smallest
        that is not), or another argument is out of range.
    """
    shares = np.asarray(shares, dtype=np.float64)
    num_layers = len(spec.layers)
    if shares.shape != (num_layers,) or not np.all(np.isfinite(shares) & (shares >= 0)):
        msg = f"shares of shape {shares.shape}: pass {num_layers} finite numbers, 0 or more"
        raise SettingError(msg)
    shares = shares / shares.max() if shares.any() else np.ones(num_layers)
    if not 0 <= dense_share <= 1:
        raise SettingError(f"dense_share is {dense_share}: choose 0 to 1")
    model = SizeModel.from_spec(spec, scheme)
    everything = np.ones(shares.size)
    if budget_bytes >= min(spec.dense_bytes, model.total_bytes(everything)):
        return everything
    whole = _whole_layers(spec, model, budget_bytes, dense_share)
    return _fill(model, shares, whole, budget_bytes)


def least_bytes(spec: ModelSpec, scheme: Scheme) -> float:
    """Return the expected size of an update of one neighborhood of each layer: the least budget."""
    model = SizeModel.from_spec(spec, scheme)
    return _least_bytes(model, _cheaper_whole(model))


def share_of_layers(spec: ModelSpec, scheme: Scheme, ratios: Float64, present: Bools) -> float:
    """Return the expected size of an update of some layers, as a share of one of all layers.

    A site that lacks a modality has that share of the budget of the others: it does not spend on
    other layers what those of the modality's branch would take.

    Parameters
    ----------
    spec, scheme
        The model, and how its layers are cut and coded.
    ratios : float64 [num_layers]
        Of the complete update.
    present : bool [num_layers]
        The layers that the site has.
    """
    if present.all():
        return 1.0
    model = SizeModel.from_spec(spec, scheme)
    return model.total_bytes(np.where(present, ratios, 0.0)) / model.total_bytes(ratios)


def _cheaper_whole(model: SizeModel) -> Bools:
    """Return which layers are cheaper whole than with one neighborhood."""
    # Just below the ratio of one neighborhood, which is 1 in a layer that has only one: the sparse
    # size is needed there too.
    cheap: Bools = model.whole_bytes <= model.layer_bytes((1 - 1e-9) / model.counts)
    return cheap & (not model.joint)


def _least_bytes(model: SizeModel, whole: Bools) -> float:
    """Return the size with some layers whole, and one neighborhood of each of the others."""
    return model.total_bytes(np.where(whole, 1.0, 1 / model.counts))


def _whole_layers(
    spec: ModelSpec, model: SizeModel, budget_bytes: float, dense_share: float
) -> Bools:
    """Return which layers are sent whole; :class:`SettingError` if no ratios fit the budget."""
    cheap = _cheaper_whole(model)
    least = _least_bytes(model, cheap)
    if not budget_bytes >= least:
        raise SettingError(
            f"a budget of {budget_bytes:.0f} bytes cannot carry one neighborhood of each layer: "
            f"allow at least {np.ceil(least):.0f} bytes ({spec.dense_bytes / least:.1f}x)"
        )
    if model.joint:
        return cheap
    order = np.argsort(model.whole_bytes, kind="stable")
    fits = np.cumsum(model.whole_bytes[order]) <= dense_share * budget_bytes
    whole = cheap.copy()
    whole[order[fits]] = True
    # Sending small layers whole must not push the others below one neighborhood each.
    return whole if _least_bytes(model, whole) <= budget_bytes else cheap


def _fill(model: SizeModel, shares: Float64, whole: Bools, budget_bytes: float) -> Float64:
    """Return the ratios for the largest common factor of the shares that the budget allows."""

    def ratios(factor: float) -> Float64:
        wanted = np.maximum(factor * shares, 1 / model.counts)
        filled: Float64 = np.where(whole, 1.0, np.minimum(1.0, wanted))
        return filled

    spendable = ~whole & (shares > 0)
    low, high = 0.0, 1.0 / shares[spendable].min() if spendable.any() else 0.0
    if model.total_bytes(ratios(high)) <= budget_bytes:
        # All layers with a share are complete. Spend the rest on those without one.
        starved = ~whole & (shares == 0)
        if not starved.any():
            return ratios(high)
        return _fill(model, starved.astype(np.float64), whole | spendable, budget_bytes)
    # The size is a step function of the factor (whole neighborhoods), so bisect instead of solving.
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if model.total_bytes(ratios(middle)) <= budget_bytes:
            low = middle
        else:
            high = middle
    return ratios(low)
