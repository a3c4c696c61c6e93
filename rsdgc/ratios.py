"""Layer ratios: the share of each layer's neighborhoods to keep, inside a byte budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsdgc.errors import SettingError
from rsdgc.shares import uniform_shares, update_shares, weight_shares
from rsdgc.sizes import SizeModel, estimate_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsdgc.arrays import Float64
    from rsdgc.scheme import Scheme
    from rsdgc.spec import ModelSpec

    Bools = NDArray[np.bool_]

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
    bisection on :func:`rsdgc.sizes.estimate_bytes`. If layers with a share of 0 are all that is
    left to spend on, the rest is spread over them evenly.

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
    model = SizeModel.of(spec, scheme)
    everything = np.ones(shares.size)
    if budget_bytes >= min(spec.dense_bytes, model.total_bytes(everything)):
        return everything
    levels = scheme.values == "deadzone"
    whole = _whole_layers(spec, model, budget_bytes, dense_share, never=levels)
    return _fill(model, shares, whole, budget_bytes)


def _checked_shares(spec: ModelSpec, shares: Float64) -> Float64:
    shares = np.asarray(shares, dtype=np.float64)
    expected = (len(spec.layers),)
    if shares.shape != expected or not np.all(np.isfinite(shares) & (shares >= 0)):
        msg = f"shares of shape {shares.shape}: pass {expected[0]} finite numbers, 0 or more"
        raise SettingError(msg)
    return shares / shares.max() if shares.any() else np.ones(shares.size)


def _whole_layers(
    spec: ModelSpec, model: SizeModel, budget_bytes: float, dense_share: float, *, never: bool
) -> Bools:
    """Return which layers are sent whole.

    Raises
    ------
    SettingError
        If the budget is below the least feasible one.
    """
    one_hood = 1 / model.counts
    cheap: Bools = model.whole_bytes <= model.layer_bytes(one_hood * (1 - 1e-9))
    cheap &= not never
    least = model.total_bytes(np.where(cheap, 1.0, one_hood))
    if not budget_bytes >= least:
        msg = (
            f"a budget of {budget_bytes:.0f} bytes cannot carry one neighborhood of each layer: "
            f"allow at least {np.ceil(least):.0f} bytes ({spec.dense_bytes / least:.1f}x)"
        )
        raise SettingError(msg)
    if never:
        return cheap
    order = np.argsort(model.whole_bytes, kind="stable")
    fits = np.cumsum(model.whole_bytes[order]) <= dense_share * budget_bytes
    whole = cheap.copy()
    whole[order[fits]] = True
    feasible = model.total_bytes(np.where(whole, 1.0, one_hood)) <= budget_bytes
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
