"""From reflectance on the ground to the counts of a sensor: light, haze, optics, noise, collar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.synth.random_fields import soften
from data_prep.synth.terrain import hillshade

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.synth.random_fields import F32, FieldMaker
    from data_prep.synth.sites import Site

NODATA = 0
COUNTS_PER_UNIT = 10_000
_HAZE = np.array([0.030, 0.021, 0.015, 0.006], dtype=np.float32)


@dataclass(frozen=True)
class Acquisition:
    """The circumstances under which one scene was taken.

    Attributes
    ----------
    sun_azimuth_deg, sun_altitude_deg : float
        Where the sun stood.
    haze : float
        Strength of the haze, about 0 to 1.
    tilt : float
        Slope of the swath's edges against the grid (columns per row).
    margin : float
        Share of the scene's width that the collar takes on each side.
    season : float
        0 (spring) to 1 (late summer).
    """

    sun_azimuth_deg: float
    sun_altitude_deg: float
    haze: float
    tilt: float
    margin: float
    season: float


def draw_acquisition(site: Site, rng: np.random.Generator) -> Acquisition:
    """Draw the circumstances of one scene of `site`; its scenes share a rough season."""
    return Acquisition(
        sun_azimuth_deg=float(rng.uniform(120, 165)),
        sun_altitude_deg=float(rng.uniform(40, 60)),
        haze=float(rng.uniform(0.05, 0.8)),
        tilt=float(rng.choice([-1, 1]) * rng.uniform(0.05, 0.12)),
        margin=float(rng.uniform(0.005, 0.025)),
        season=float(np.clip(site.season + rng.normal(0, 0.08), 0, 1)),
    )


def swath(px: int, acquisition: Acquisition) -> NDArray[np.bool_]:
    """Return which pixels of the grid the sensor's tilted swath covers, bool (px, px)."""
    y, x = (np.mgrid[:px, :px] + 0.5) / px - 0.5
    reach = 0.5 - acquisition.margin
    lean = abs(acquisition.tilt)
    turned_x = x + acquisition.tilt * y
    turned_y = y - acquisition.tilt * x
    covered: NDArray[np.bool_] = np.abs(turned_x) < reach + 0.1 * lean
    covered &= np.abs(turned_y) < reach + 0.35 * lean
    return covered


def expose(
    reflectance: F32,
    elevation: F32,
    acquisition: Acquisition,
    site: Site,
    maker: FieldMaker,
) -> NDArray[np.uint16]:
    """Turn reflectance into the counts that the site's sensor would have recorded.

    Parameters
    ----------
    reflectance : float32 array, (4, px, px)
        Of the ground under flat light.
    elevation : float32 array, (px, px)
        Metres; shades the slopes.
    acquisition : Acquisition
        Sun, haze and swath.
    site : Site
        Gain and offset.
    maker : FieldMaker
        Draws haze and noise.

    Returns
    -------
    uint16 array, (4, px, px)
        Counts, `NODATA` outside the swath and at least 1 inside.
    """
    light = hillshade(elevation, acquisition.sun_azimuth_deg, acquisition.sun_altitude_deg)
    light = 0.3 + 0.7 * light
    across = np.linspace(-0.06, 0.06, reflectance.shape[-1], dtype=np.float32)
    lit = soften(reflectance, 0.3) * (light * (1 + across * np.sign(acquisition.tilt)))
    veil = np.maximum(acquisition.haze * (1 + 0.55 * maker.smooth(160)), 0)
    hazy = lit * (1 - 0.12 * veil) + _HAZE[:, None, None] * veil
    noise = np.stack([maker.white() for _ in hazy]) * (0.0012 + 0.012 * hazy)
    measured = (hazy + noise) * site.gain[:, None, None] + site.offset[:, None, None]
    rounded = np.clip(np.rint(measured * COUNTS_PER_UNIT), 1, 65_535)
    counts: NDArray[np.uint16] = rounded.astype(np.uint16)
    counts[:, ~swath(reflectance.shape[-1], acquisition)] = NODATA
    return counts
