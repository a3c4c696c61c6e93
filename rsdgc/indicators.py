"""Indicators: how much a neighborhood matters, as one number.

Every indicator is a pure function of a layer's values (and, for the random one, of its seed
and the key). Scores are compared within one layer; those of :class:`RMS` and :class:`L1` are in
the values' own units and may be compared across layers too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rsdgc.arrays import CHUNK, check_finite, chunks, max_magnitude
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rsdgc.arrays import Float32
    from rsdgc.neighborhoods import Neighborhoods

INDICATORS = ("nsi", "rms", "l1", "random")

_SAFE = (1e-15, 1e14)
"""Largest mean magnitude with which squares of what matters, and their sum over 2³¹ neighborhoods,
stay within float32."""


class Indicator(Protocol):
    """Scores neighborhoods; higher means kept first."""

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Score every neighborhood of one layer.

        Parameters
        ----------
        values : float32 [grid.size]
            The flat layer; finite.
        grid : Neighborhoods
            The layer's grid.
        key : tuple of int
            What tells this call from others (run, round, layer); only random scores use it.

        Returns
        -------
        float32 [grid.count]
            Finite scores, 0 or more.

        Raises
        ------
        RsdgcError
            If a value is NaN or infinite.
        """
        ...


@dataclass(frozen=True)
class NSI:
    """Neighborhood statistics indicator (the paper's NSI).

    ``mean_weight · mean|v| / ‖mean|v|‖₂ + std_weight · std(v) / ‖std(v)‖₂``, where the norms
    run over the neighborhoods of the layer. Variances below zero by rounding count as 0.
    """

    mean_weight: float = 0.8
    std_weight: float = 0.2

    def __post_init__(self) -> None:
        weights = (self.mean_weight, self.std_weight)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) == 0:
            msg = f"NSI weights are {weights}: choose finite ones, 0 or more, not both 0"
            raise SettingError(msg)

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Score every neighborhood; see :class:`Indicator`."""
        del key
        (mean, std), _ = _safely(_mean_and_std, values, grid)  # a common scale cancels
        factors = _over_norm(self.mean_weight, mean), _over_norm(self.std_weight, std)
        for part in chunks(mean.size):
            mean[part] *= factors[0]
            mean[part] += np.multiply(std[part], factors[1], out=std[part])
        return mean


@dataclass(frozen=True)
class RMS:
    """Root of the mean square of a neighborhood; of equal-sized ones it keeps the most energy."""

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Score every neighborhood; see :class:`Indicator`."""
        del key
        return _means(values, grid, np.square, np.sqrt)


@dataclass(frozen=True)
class L1:
    """Mean magnitude of a neighborhood."""

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Score every neighborhood; see :class:`Indicator`."""
        del key
        return _means(values, grid, np.abs, np.positive)


@dataclass(frozen=True)
class Random:
    """Uniform random scores that depend on the seed and the key alone, never on the values."""

    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            msg = f"seed is {self.seed}: choose 0 or more"
            raise SettingError(msg)

    def score(self, values: Float32, grid: Neighborhoods, key: tuple[int, ...] = ()) -> Float32:
        """Score every neighborhood; see :class:`Indicator`."""
        check_finite(max_magnitude(values))
        rng = np.random.default_rng([self.seed, *key])
        return rng.random(grid.count, dtype=np.float32)


def make_indicator(
    name: str, *, mean_weight: float = 0.8, std_weight: float = 0.2, seed: int = 0
) -> Indicator:
    """Make an indicator by its name.

    Parameters
    ----------
    name : {"nsi", "rms", "l1", "random"}
        Which one. (Single elements are a neighborhood kind, not an indicator: on them ``nsi``,
        ``rms`` and ``l1`` all rank by magnitude.)
    mean_weight, std_weight : float
        Weights of NSI; 0 or more.
    seed : int
        Seed of the random scores; 0 or more.

    Raises
    ------
    SettingError
        If the name is unknown or a setting is out of range.
    """
    makers: dict[str, Callable[[], Indicator]] = {
        "nsi": lambda: NSI(mean_weight, std_weight),
        "rms": RMS,
        "l1": L1,
        "random": lambda: Random(seed),
    }
    if name not in makers:
        msg = f"indicator is {name!r}: choose one of {', '.join(INDICATORS)}"
        raise SettingError(msg)
    return makers[name]()


def _mean_and_std(values: Float32, grid: Neighborhoods) -> tuple[Float32, Float32]:
    """Return mean |v| and standard deviation of every neighborhood."""
    mean, std = _grid(grid), _grid(grid)
    for at, members, weights, scratch in _blocks(values, grid):
        centre = np.dot(members, weights)
        _dot(np.abs(members, out=scratch), weights, mean[at])
        spread = _dot(np.square(scratch, out=scratch), weights, std[at])
        spread -= np.square(centre, out=centre).reshape(spread.shape)
        np.sqrt(np.maximum(spread, 0.0, out=spread), out=spread)
    return mean.reshape(-1), std.reshape(-1)


def _means(values: Float32, grid: Neighborhoods, inner: np.ufunc, outer: np.ufunc) -> Float32:
    """Return ``outer(mean(inner(v)))`` of every neighborhood, in the values' own units."""

    def means(values: Float32, grid: Neighborhoods) -> tuple[Float32]:
        out = _grid(grid)
        for at, members, weights, scratch in _blocks(values, grid):
            _dot(inner(members, out=scratch), weights, out[at])
        return (outer(out, out=out).reshape(-1),)

    (found,), scale = _safely(means, values, grid)
    return found if scale == 1 else found / scale


def _safely(
    statistics: Callable[[Float32, Neighborhoods], tuple[Float32, ...]],
    values: Float32,
    grid: Neighborhoods,
) -> tuple[tuple[Float32, ...], np.float32]:
    """Return statistics, and what the values were scaled by so that no square leaves float32.

    Where the first statistic shows that squares may have, that is the power of two that brings
    the largest value near 1, which changes no other bit; 1 elsewhere.

    Raises
    ------
    RsdgcError
        If a value is NaN or infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = statistics(values, grid)
    if _SAFE[0] <= float(found[0].max()) <= _SAFE[1]:
        return found, np.float32(1)
    largest = max_magnitude(values)
    check_finite(largest)
    scale = np.float32(math.ldexp(1.0, min(126, -math.frexp(largest)[1])))
    return statistics(values * scale, grid), scale


def _grid(grid: Neighborhoods) -> Float32:
    """Return room for a number a neighborhood, indexed by what :func:`_blocks` yields first."""
    return np.empty(grid.count if grid.is_flat else grid.grid_shape, dtype=np.float32)


def _blocks(
    values: Float32, grid: Neighborhoods
) -> Iterator[tuple[slice | tuple[slice, slice], Float32, Float32, Float32]]:
    """Yield (where, members [n, m], weights [m], scratch space [n, m]) block by block.

    ``members @ weights`` are the means of rows, in a fifth of a reduction's time.
    """
    buffer = np.empty(min(values.size, max(CHUNK, grid.height * grid.width)), dtype=np.float32)
    weights = np.empty(0, dtype=np.float32)
    for at, rows in _rows(values, grid):
        if weights.size != rows.shape[1]:
            weights = np.full(rows.shape[1], 1.0 / rows.shape[1], dtype=np.float32)
        yield at, rows, weights, buffer[: rows.size].reshape(rows.shape)


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
    """Write ``members @ weights`` to ``out``, straight to where it lies if it is contiguous."""
    if out.flags.c_contiguous:
        np.dot(members, weights, out=out.reshape(-1))
    else:
        out[...] = np.dot(members, weights).reshape(out.shape)
    return out


def _over_norm(weight: float, scores: Float32) -> np.float32:
    """Return the factor that brings the L2 norm of scores to the weight; 0 if all are zero."""
    norm = math.sqrt(float(np.vdot(scores, scores)))
    return np.float32(weight / norm if norm > 0 else 0.0)
