"""Levels of the dead-zone quantizer, as bit planes in Golomb-Rice code.

The levels of a group of values are coded plane by plane:

1. which of the values have a magnitude above 0, above 1 and above 2, each plane over the values
   that the plane before it marks;
2. the magnitudes above 2, less 3, in Golomb-Rice code;
3. the signs of the magnitudes above 0, a bit each.

A plane of flags is coded in the way that takes the fewest bits: as it is, or as the gaps between
its ones or between its zeros. On real updates this takes a few per cent more than the entropy, as
an arithmetic coder would, but in whole-array operations, without a loop over values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsdgc.arrays import Bools, UInt16, extract
from rsdgc.codec.golomb_rice import MAX_RICE, RiceReader, RiceWriter, best_rice, gaps_in, rice_cost
from rsdgc.errors import WireError

PLANES = 3
"""Planes of flags; larger magnitudes follow as numbers. At the usual steps few values are above
2, and Golomb-Rice code fits their long tail better than further planes."""
MAX_LEVEL = 2**16 - 1
INCOMPRESSIBLE_SHARE = 0.4
"""If the share of ones is above this and below one minus this, gaps of evenly spread ones cost more
than a bit per flag (from 0.382 on), so the search for their best code is skipped."""
RAW_FLAGS = 255
"""Code of a plane whose flags are sent as they are."""
ZEROS = MAX_RICE + 1
"""Added to the Rice parameter of a plane whose zeros are coded instead of its ones."""


class PlaneCode(NamedTuple):
    """How a plane is coded: :data:`RAW_FLAGS`, or its ids' Rice parameter (plus :data:`ZEROS`)."""

    code: int
    num_ids: int = 0


class Levels(NamedTuple):
    """Levels of a group of n values, of which n₁, n₂, n₃ have magnitudes above 0, 1, 2."""

    flags: list[Bools]  #: list of bool [n], [n₁], [n₂]: the planes
    large: NDArray[np.int64]  #: int64 [n₃]: magnitudes of 3 and more
    negative: Bools  #: bool [n₁]: signs

    @classmethod
    def from_magnitudes(cls, outside: Bools, pieces: Iterable[tuple[UInt16, Bools]]) -> Levels:
        """Split into planes.

        Parameters
        ----------
        outside : bool [n]
            Which magnitudes are above 0.
        pieces : iterable of (uint16 [k], bool [k])
            Those magnitudes and whether they are negative, in pieces that fit into a cache.
        """
        signs = [np.empty(0, np.bool_)]
        planes = [[np.empty(0, np.bool_)] for _ in range(1, PLANES)]
        large = [np.empty(0, np.uint16)]
        for magnitudes, negative in pieces:
            signs.append(negative)
            remaining = magnitudes
            for plane, flags in enumerate(planes, start=1):
                flags.append(remaining > plane)
                remaining = extract(remaining, flags[-1])
            large.append(remaining)
        flags = [outside, *map(np.concatenate, planes)]
        return cls(flags, np.concatenate(large).astype(np.int64), np.concatenate(signs))

    def write(self, writer: RiceWriter) -> list[PlaneCode]:
        """Append these levels to the streams; return the codes that :meth:`read` needs."""
        codes = [_write_flags(flags, writer) for flags in self.flags]
        numbers = self.large - PLANES
        rice = best_rice(numbers) if numbers.size else 0
        writer.write_numbers(numbers, rice)
        writer.write_bits(self.negative)
        return [*codes, PlaneCode(rice)]

    @classmethod
    def read(cls, codes: list[PlaneCode], size: int, reader: RiceReader) -> Levels:
        """Read the levels of ``size`` values that a peer sent; :class:`WireError` on any fault."""
        flags: list[Bools] = []
        for code in codes[:-1]:
            flags.append(_read_flags(code, size, reader))
            size = int(np.count_nonzero(flags[-1]))
        large = reader.read_numbers(size, codes[-1].code) + PLANES
        if size and int(large.max()) > MAX_LEVEL:
            raise WireError(f"a level is {int(large.max())}, above {MAX_LEVEL}")
        signs = reader.read_bits(int(np.count_nonzero(flags[0])))
        return cls(flags, large, signs.view(np.bool_))


def _write_flags(flags: Bools, writer: RiceWriter) -> PlaneCode:
    ones = int(np.count_nonzero(flags))
    if INCOMPRESSIBLE_SHARE < ones / max(1, flags.size) < 1 - INCOMPRESSIBLE_SHARE:
        writer.write_bits(flags)
        return PlaneCode(RAW_FLAGS)
    of_zeros = 2 * ones > flags.size
    gaps = gaps_in(~flags if of_zeros else flags)
    rice = best_rice(gaps) if gaps.size else 0
    # The sampled parameter may miss the optimum. Raw flags win a tie: they are faster to read.
    if rice_cost(gaps, rice) >= flags.size > 0:
        writer.write_bits(flags)
        return PlaneCode(RAW_FLAGS)
    writer.write_numbers(gaps, rice)
    return PlaneCode(rice + ZEROS * of_zeros, gaps.size)


def _read_flags(plane: PlaneCode, size: int, reader: RiceReader) -> Bools:
    if plane.code == RAW_FLAGS:
        return reader.read_bits(size).view(np.bool_)
    of_zeros, rice = divmod(plane.code, ZEROS)
    if of_zeros > 1:
        raise WireError(f"a plane of levels has the unknown code {plane.code}")
    ids = reader.read_ids(plane.num_ids, rice, size)
    flags = np.full(size, of_zeros, dtype=np.uint8)
    flags[ids] = 1 - of_zeros
    return flags.view(np.bool_)
