"""Cut a layer into neighborhoods, as a scheme says.

Every kind is one grid. The layer is read as a matrix of ``rows × cols`` (its first dimension
by all others; one row if it has fewer than two dimensions) and cut into rectangles of
``height × width``, numbered row by row:

========== ================================ ======== ==========
kind       layer                            height   width
========== ================================ ======== ==========
kernel     convolution, kernel over 1 px    1        kernel px
kernel     anything else                    1        about tile_px²
tile       two or more dimensions           tile_px  tile_px
tile       fewer                            1        about tile_px²
element    any                              1        1
========== ================================ ======== ==========

Rectangles at the right and lower edges are ragged: smaller, never padded. A run of *about*
``tile_px²`` elements is as long as the divisor of the row nearest to that, within a third of it,
so that the usual widths (512 and 4096 with runs of 8) have no ragged edge; ``tile_px²`` if there
is none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rsdgc.neighborhoods import Neighborhoods

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsdgc.scheme import Scheme


def cut(shape: Sequence[int], scheme: Scheme) -> Neighborhoods:
    """Cut a layer of the given shape into neighborhoods (paper: gradient neighborhoods).

    Parameters
    ----------
    shape : sequence of int
        The layer's shape, output channels first; ``()`` is a single number.
    scheme : Scheme
        Which kind of neighborhood, and how large.

    Returns
    -------
    Neighborhoods
        The grid over the layer.
    """
    rows = shape[0] if len(shape) > 1 else 1
    cols = math.prod(shape) // rows
    run = _run_length(cols, scheme.tile_px**2)
    if scheme.neighborhood == "element":
        return Neighborhoods(rows, cols, 1, 1)
    if scheme.neighborhood == "tile" and len(shape) > 1:
        return Neighborhoods(rows, cols, scheme.tile_px, scheme.tile_px)
    kernel_px = math.prod(shape[2:]) if len(shape) > 2 else 1
    if scheme.neighborhood == "kernel" and kernel_px > 1:
        return Neighborhoods(rows, cols, 1, kernel_px)
    return Neighborhoods(rows, cols, 1, run)


def _run_length(cols: int, wanted: int) -> int:
    """Return the divisor of ``cols`` nearest to ``wanted``, if one is within a third of it."""
    near = range(math.ceil(wanted * 2 / 3), wanted * 4 // 3 + 1)
    divisors = [length for length in near if cols % length == 0]
    return min(divisors, key=lambda length: abs(length - wanted), default=wanted)
