"""What a texture is painted from: the pixels of one class with coordinates, patch and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.synth.landcover import Patches
    from data_prep.synth.random_fields import F32, FieldMaker
    from data_prep.synth.spectra import Palette


@dataclass(frozen=True)
class Brush:
    """The n pixels of one class in a scene.

    Attributes
    ----------
    x, y : float32 arrays, (n,)
        Column and row.
    fine, grain, mottle, broad : float32 arrays, (n,)
        Unit noise of about 3, 6, 14 and 45 pixels' wavelength.
    inside : float32 array, (n,)
        Distance from the border with another class in pixels.
    angle, scale : float32 arrays, (n,)
        The patch's direction (radians) and its random number in [0, 1).
    from_centre : float32 array, (n,)
        Distance from the patch's seed in pixels.
    patch : int32 array, (n,)
        The patch's number.
    palette : Palette
        Spectra of the materials.
    seed : int
        For hashes.
    pivots : float
        Share of fields watered by a centre pivot.
    """

    x: F32
    y: F32
    fine: F32
    grain: F32
    mottle: F32
    broad: F32
    inside: F32
    angle: F32
    scale: F32
    from_centre: F32
    patch: NDArray[np.int32]
    palette: Palette
    seed: int
    pivots: float

    def mix(self, share: NDArray[Any], first: str, second: str) -> F32:
        """Blend two materials: `share` (n,) of the second, the rest of the first; (n, 4)."""
        return self.palette[first] + _opacity(share) * (self.palette[second] - self.palette[first])

    def cover(self, below: F32, share: NDArray[Any], material: str) -> F32:
        """Lay a material over `below` (n, 4) with opacity `share` (n,)."""
        return below + _opacity(share) * (self.palette[material] - below)


def _opacity(share: NDArray[Any]) -> F32:
    """Clip shares (n,) to 0 to 1 and make them a column, float32 (n, 1)."""
    column: F32 = np.clip(share, 0, 1).astype(np.float32)[:, None]
    return column


class Canvas:
    """Holds a scene's noise and coordinates, and cuts brushes out of them.

    Parameters
    ----------
    maker : FieldMaker
        Draws the four noises.
    patches : Patches
        The scene's patches.
    palette : Palette
        The scene's materials.
    pivots : float
        Share of fields watered by a centre pivot.
    """

    def __init__(
        self, maker: FieldMaker, patches: Patches, palette: Palette, pivots: float
    ) -> None:
        self._patches, self._palette, self._pivots = patches, palette, pivots
        self._noise = {
            "fine": maker.band(3.2, 0.35),
            "grain": maker.band(6.5, 0.35),
            "mottle": maker.band(15, 0.4),
            "broad": maker.band(45, 0.5),
        }
        self._seed = int(maker.rng.integers(2**31))

    def brush(self, chosen: NDArray[np.bool_]) -> Brush:
        """Cut out the brush for the pixels where `chosen` (px, px) is true."""
        row, column = np.nonzero(chosen)
        patches = self._patches
        number = patches.number[chosen]
        x, y = column.astype(np.float32), row.astype(np.float32)
        centre = patches.centres[number]
        return Brush(
            x=x,
            y=y,
            **{name: field[chosen] for name, field in self._noise.items()},
            inside=patches.inside[chosen],
            angle=patches.angles[number],
            scale=patches.scales[number],
            from_centre=np.hypot(x - centre[:, 0], y - centre[:, 1]),
            patch=number,
            palette=self._palette,
            seed=self._seed,
            pivots=self._pivots,
        )
