"""Indicators: how much a neighborhood matters, as one number.

An indicator is a class with one method. It is registered by a name, or given by its path::

    @INDICATORS.register("max")
    class Largest(Indicator):
        def score(self, values, grid, key=()):
            ids = np.arange(grid.count)
            return grid.peaks(grid.gather(values, ids), ids)

    make_indicator("max")
    make_indicator("my_package.my_module:Largest")

Every indicator is a pure function of a layer's values (the random one of its seed and the key).
Scores are compared within one layer. Those of :class:`RMS` and :class:`L1` are in the units of the
values, so they can be compared across layers too.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rsdgc.arguments import check_whole
from rsdgc.arrays import CHUNK, Float32, add_scaled, check_finite, chunks, max_magnitude
from rsdgc.errors import SettingError
from rsdgc.neighborhoods import Neighborhoods
from rsdgc.registry import Registry

_SAFE_MAGNITUDES = (1e-15, 1e14)
"""Range of the largest mean magnitude in which squares are safe in float32: at the lower end the
squares that matter do not vanish, at the upper end their sum over 2³¹ neighborhoods is finite."""

_SAFE_WEIGHTS = (1e-6, 1e6)
"""Range of the larger weight of NSI that is used as it is."""


class Indicator(ABC):
    """Scores neighborhoods; those with higher scores are kept first."""

    @abstractmethod
    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Score every neighborhood of one layer.

        Parameters
        ----------
        values : float32 [grid.size]
            The flat layer; finite.
        grid : Neighborhoods
            The layer's neighborhoods.
        key : tuple of int
            Run, round and layer, so that random scores differ from call to call.

        Returns
        -------
        float32 [grid.count]
            Finite scores, 0 or more.

        Raises
        ------
        RsdgcError
            A value is NaN or infinite.
        """


INDICATORS: Registry[type[Indicator]] = Registry("indicator")


@INDICATORS.register("nsi")
@dataclass(frozen=True)
class NSI(Indicator):
    """Neighborhood statistics indicator (the paper's NSI).

    ``mean_weight · mean|v| / ‖mean|v|‖₂ + std_weight · std(v) / ‖std(v)‖₂``, where the norms
    run over the neighborhoods of the layer. Variances that rounding makes negative count as 0.
    """

    mean_weight: float = 0.8
    std_weight: float = 0.2

    def __post_init__(self) -> None:
        weights = (self.mean_weight, self.std_weight)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) == 0:
            msg = f"NSI weights are {weights}: choose finite ones, 0 or more, not both 0"
            raise SettingError(msg)

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Return the NSI of every neighborhood."""
        (mean, std), _ = _scaled_if_unsafe(_mean_and_std, values, grid)  # the scale cancels out
        largest = max(self.mean_weight, self.std_weight)
        # Only their proportion matters; beyond the range of float32 all scores would be equal.
        scale = 1.0 if _SAFE_WEIGHTS[0] <= largest <= _SAFE_WEIGHTS[1] else largest
        mean *= np.float32(_over_norm(self.mean_weight / scale, mean))
        add_scaled(mean, std, _over_norm(self.std_weight / scale, std))
        return mean


@INDICATORS.register("rms")
@dataclass(frozen=True)
class RMS(Indicator):
    """Root mean square of a neighborhood; of equally large ones it keeps the most energy."""

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Return the root mean square of every neighborhood."""
        return _means(values, grid, np.square, np.sqrt)


@INDICATORS.register("l1")
@dataclass(frozen=True)
class L1(Indicator):
    """Mean magnitude of a neighborhood."""

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Return the mean magnitude of every neighborhood."""
        return _means(values, grid, np.abs, np.positive)


@INDICATORS.register("random")
@dataclass(frozen=True)
class Random(Indicator):
    """Uniform random scores that depend on the seed and the key alone, never on the values."""

    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("seed", self.seed, 0)

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Return a random number for every neighborhood."""
        # The other indicators find NaN while they compute; this one has to look for it.
        check_finite(max_magnitude(values))
        rng = np.random.default_rng([self.seed, *key])
        return rng.random(grid.count, dtype=np.float32)


def make_indicator(
    name: str, *, mean_weight: float = 0.8, std_weight: float = 0.2, seed: int = 0
) -> Indicator:
    """Make an indicator by its name, with those of the settings that its constructor names.

    Parameters
    ----------
    name : str
        ``"nsi"``, ``"rms"``, ``"l1"``, ``"random"``, or one from outside by its registered name or
        as ``package.module:Class``. (Single elements are a neighborhood kind, not an indicator: on
        them ``nsi``, ``rms`` and ``l1`` all rank by magnitude.)
    mean_weight, std_weight : float
        Weights of NSI; 0 or more.
    seed : int
        Seed of the random scores; 0 or more.

    Raises
    ------
    SettingError
        The name is unknown, or a setting is out of range.
    """
    indicator: object = INDICATORS[name]  # a path may lead to anything
    if not (isinstance(indicator, type) and issubclass(indicator, Indicator)):
        raise SettingError(f"{name!r} is not an indicator: choose a subclass of Indicator")
    settings = {"mean_weight": mean_weight, "std_weight": std_weight, "seed": seed}
    wanted = inspect.signature(indicator).parameters
    return indicator(**{key: value for key, value in settings.items() if key in wanted})


def _mean_and_std(values: Float32, grid: Neighborhoods) -> tuple[Float32, Float32]:
    """Return mean |v| and standard deviation of every neighborhood."""
    mean, std = _empty_scores(grid), _empty_scores(grid)
    for where, members, weights, scratch in _blocks(values, grid):
        center = np.dot(members, weights)
        _dot(np.abs(members, out=scratch), weights, mean[where])
        # In place in std: first the mean square, then the variance, then its root.
        variance = _dot(np.square(scratch, out=scratch), weights, std[where])
        variance -= np.square(center, out=center).reshape(variance.shape)
        np.sqrt(np.maximum(variance, 0.0, out=variance), out=variance)
    return mean.reshape(-1), std.reshape(-1)


def _means(values: Float32, grid: Neighborhoods, inner: np.ufunc, outer: np.ufunc) -> Float32:
    """Return ``outer(mean(inner(v)))`` of every neighborhood, in the values' own units."""

    def means(values: Float32, grid: Neighborhoods) -> tuple[Float32]:
        out = _empty_scores(grid)
        for where, members, weights, scratch in _blocks(values, grid):
            _dot(inner(members, out=scratch), weights, out[where])
        return (outer(out, out=out).reshape(-1),)

    (scores,), scale = _scaled_if_unsafe(means, values, grid)
    return scores if scale == 1 else scores / scale


def _scaled_if_unsafe(
    statistics: Callable[[Float32, Neighborhoods], tuple[Float32, ...]],
    values: Float32,
    grid: Neighborhoods,
) -> tuple[tuple[Float32, ...], np.float32]:
    """Return statistics, and the factor by which the values had to be scaled to compute them.

    The factor is 1 unless squares may have left the range of float32; then it is the power of two
    that brings the largest value near 1, which changes no digit of a value.
    """
    # Compute first, check afterwards: the check is one maximum over the scores, whereas finding
    # the largest value first would cost a pass over the layer. NaN fails the comparison as well.
    with np.errstate(over="ignore", invalid="ignore"):
        results = statistics(values, grid)
    if _SAFE_MAGNITUDES[0] <= float(results[0].max()) <= _SAFE_MAGNITUDES[1]:
        return results, np.float32(1)
    largest = max_magnitude(values)
    check_finite(largest)
    scale = np.float32(math.ldexp(1.0, min(126, -math.frexp(largest)[1])))
    return statistics(values * scale, grid), scale


def _empty_scores(grid: Neighborhoods) -> Float32:
    """Return memory for a score per neighborhood, in the shape that :func:`_blocks` indexes."""
    return np.empty(grid.count if grid.is_flat else grid.grid_shape, dtype=np.float32)


def _blocks(
    values: Float32, grid: Neighborhoods
) -> Iterator[tuple[slice | tuple[slice, slice], Float32, Float32, Float32]]:
    """Yield (where, members [n, m], weights [m], scratch memory [n, m]) block by block.

    ``members @ weights`` are the means of rows. Rows have some nine elements, for which a
    matrix product takes a fifth of the time of a mean along the axis.
    """
    buffer = np.empty(min(values.size, max(CHUNK, grid.height * grid.width)), dtype=np.float32)
    weights = np.empty(0, dtype=np.float32)
    for where, rows in _rows(values, grid):
        # Only blocks at a ragged edge have neighborhoods of another size.
        if weights.size != rows.shape[1]:
            weights = np.full(rows.shape[1], 1.0 / rows.shape[1], dtype=np.float32)
        yield where, rows, weights, buffer[: rows.size].reshape(rows.shape)


def _rows(
    values: Float32, grid: Neighborhoods
) -> Iterator[tuple[slice | tuple[slice, slice], Float32]]:
    """Yield (where, neighborhoods as rows) block by block, without a copy if they are flat."""
    if grid.is_flat:
        rows = values.reshape(-1, grid.width)
        for part in chunks(grid.count, max(1, CHUNK // grid.width)):
            yield part, rows[part]
        return
    for down, across, members in grid.blocks(values):
        yield (down, across), members.reshape(members.shape[0] * members.shape[1], -1)


def _dot(members: Float32, weights: Float32, out: Float32) -> Float32:
    """Write ``members @ weights`` to ``out``; directly, without a copy, if it is contiguous."""
    if out.flags.c_contiguous:
        np.dot(members, weights, out=out.reshape(-1))
    else:
        out[...] = np.dot(members, weights).reshape(out.shape)
    return out


def _over_norm(weight: float, scores: Float32) -> float:
    """Return the factor that scales scores to an L2 norm of ``weight``; 0 if all are zero."""
    norm = math.sqrt(float(np.vdot(scores, scores)))
    return weight / norm if norm > 0 else 0.0
