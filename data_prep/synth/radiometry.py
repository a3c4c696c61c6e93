"""Reflectance of materials and classes, and the counts that a sensor records of it.

Reflectances are of blue, green, red and near infrared, 0 to 1. A pixel's color comes from the
materials in it (:func:`draw_spectra`). Then each patch's *mean* is pulled toward one drawn for the
patch's group of classes (:func:`pull_means`), so that the mean spectra of a group's classes
overlap widely, and it takes texture, geometry and context to tell them apart. Last come light,
haze, optics, noise and the edges of the swath (:func:`expose`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.synth.landscapes import Cover, Site
from data_prep.synth.random_fields import F32, FieldMaker
from data_prep.synth.terrain import hillshade

NODATA = 0
COUNTS_PER_UNIT = 10_000
#: Path radiance of full haze: it scatters blue most.
HAZE = np.array([0.030, 0.021, 0.015, 0.006], dtype=np.float32)
#: Exponent of :func:`pull_means`: 0 leaves the means, 1 makes them equal to the targets. At this
#: value the classes of a group overlap, but are not the same.
PULL = 0.42

MATERIALS: dict[str, tuple[float, float, float, float]] = {
    "canopy": (0.026, 0.050, 0.032, 0.330),
    "needles": (0.022, 0.038, 0.026, 0.240),
    "shade": (0.014, 0.019, 0.015, 0.075),
    "grass": (0.040, 0.080, 0.056, 0.330),
    "straw": (0.078, 0.118, 0.142, 0.260),
    "reeds": (0.044, 0.068, 0.062, 0.230),
    "soil": (0.085, 0.112, 0.145, 0.225),
    "gravel": (0.165, 0.200, 0.228, 0.285),
    "rock": (0.120, 0.142, 0.160, 0.200),
    "deep water": (0.034, 0.036, 0.022, 0.012),
    "shallow water": (0.062, 0.084, 0.066, 0.032),
    "red roof": (0.085, 0.105, 0.185, 0.235),
    "gray roof": (0.150, 0.158, 0.165, 0.185),
    "white roof": (0.330, 0.345, 0.350, 0.370),
    "asphalt": (0.075, 0.080, 0.086, 0.105),
    "young crop": (0.034, 0.075, 0.040, 0.420),
    "dense crop": (0.030, 0.058, 0.034, 0.370),
    "ripe crop": (0.085, 0.135, 0.165, 0.300),
    "blossom": (0.055, 0.150, 0.125, 0.380),
}
_GREEN = ("canopy", "grass", "reeds", "young crop", "dense crop")
_GROUND = ("soil", "gravel", "rock")
_STRAW = np.array(MATERIALS["straw"])

#: Mean spectra of the groups: woody plants, herbs, mineral ground, wetland.
_GROUP_MEANS = np.array(
    [
        (0.031, 0.053, 0.043, 0.225),
        (0.052, 0.088, 0.084, 0.280),
        (0.110, 0.133, 0.155, 0.215),
        (0.042, 0.062, 0.052, 0.160),
    ],
    dtype=np.float32,
)
#: Row of :data:`_GROUP_MEANS` of each class; water keeps its own color.
_GROUPS = {
    Cover.BROADLEAF: 0,
    Cover.CONIFER: 0,
    Cover.ORCHARD: 0,
    Cover.GRASSLAND: 1,
    Cover.CROPLAND: 1,
    Cover.BUILT_UP: 2,
    Cover.BARE: 2,
    Cover.QUARRY: 2,
    Cover.WETLAND: 3,
}
#: A tint where two classes of a group would be all but the same, within their spread.
_TINTS = {
    Cover.CONIFER: np.array([0.90, 0.85, 0.85, 0.71]),
    Cover.ORCHARD: np.array([1.05, 1.06, 1.10, 0.97]),
    Cover.QUARRY: np.array([1.15, 1.06, 0.92, 0.80]),
}


def withering(site: Site, season: float) -> float:
    """Return how far green plants have turned to straw, 0 to 0.6."""
    return float(np.clip(0.15 + 0.45 * season * site.landscape.aridity, 0, 0.6))


def draw_spectra(site: Site, season: float, rng: np.random.Generator) -> dict[str, F32]:
    """Draw the reflectance of each material at one site and date, float32 (4,) by name.

    ``season`` is 0 (spring) to 1 (late summer): green plants turn to straw.
    """
    tint = np.exp(rng.normal(0, 0.05) * np.array([-1.2, -0.3, 1.0, 0.9]))
    spectra: dict[str, F32] = {}
    for name, values in MATERIALS.items():
        spectrum = np.array(values) * np.exp(rng.normal(0, 0.03, size=4))
        if name in _GREEN:
            spectrum += 0.5 * withering(site, season) * (_STRAW - spectrum)
        if name in _GROUND:
            spectrum = spectrum * tint * (0.9 + 0.3 * site.landscape.aridity)
        spectra[name] = spectrum.astype(np.float32)
    return spectra


def draw_group_means(covers: NDArray[np.int64], withered: float, rng: np.random.Generator) -> F32:
    """Draw the mean spectrum that each patch is pulled toward, float32 (patches, 4); NaN for none.

    Brightness, vigor (near infrared against red) and a little of every band vary by patch.
    """
    groups = np.array([_GROUPS.get(Cover(c), -1) for c in covers])
    means = _GROUP_MEANS.astype(np.float64)
    green = np.array([0.35, 0.7, 0.0, 0.35])[:, None]
    means = means + withered * green * (_STRAW - means)
    brightness = rng.normal(0, 0.11, size=(len(covers), 1))
    vigor = rng.normal(0, 0.11, size=(len(covers), 1)) * np.array([-0.7, -0.3, -1.0, 0.9])
    jitter = np.exp(brightness + vigor + rng.normal(0, 0.04, size=(len(covers), 4)))
    tints = np.array([_TINTS.get(Cover(c), np.ones(4)) for c in covers])
    targets = np.where(groups[:, None] >= 0, means[groups] * jitter * tints, np.nan)
    return targets.astype(np.float32)


def pull_means(reflectance: F32, patch: NDArray[np.int32], targets: F32) -> F32:
    """Scale each patch's pixels (n, 4) so that their mean comes near its target (patches, 4).

    ``patch`` (n,) is the patch of each pixel. A target of NaN leaves a patch as it is.
    """
    counts = np.maximum(np.bincount(patch, minlength=len(targets)), 1)
    factors = np.ones_like(targets)
    for band in range(reflectance.shape[1]):
        sums = np.bincount(patch, weights=reflectance[:, band], minlength=len(targets))
        ratio = targets[:, band] / np.maximum(sums / counts, 1e-3)
        # a third to three: no patch may glare because a few of its pixels are dark
        factors[:, band] = np.clip(np.nan_to_num(ratio, nan=1.0), 1 / 3, 3) ** PULL
    return reflectance * factors[patch]


@dataclass(frozen=True)
class Acquisition:
    """The circumstances under which one scene was taken; they become tags of its files."""

    sun_azimuth_deg: float
    sun_altitude_deg: float
    haze: float  #: strength, about 0 to 1
    tilt: float  #: slope of the swath's edges against the grid (columns per row)
    margin: float  #: share of the scene's width outside the swath on each side
    season: float  #: 0 (spring) to 1 (late summer)


def draw_acquisition(site: Site, rng: np.random.Generator) -> Acquisition:
    """Draw the circumstances of one scene of a site; its scenes share a rough season."""
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
    covered: NDArray[np.bool_] = np.abs(x + acquisition.tilt * y) < reach + 0.1 * lean
    covered &= np.abs(y - acquisition.tilt * x) < reach + 0.35 * lean
    return covered


def expose(
    reflectance: F32, elevation: F32, acquisition: Acquisition, site: Site, maker: FieldMaker
) -> NDArray[np.uint16]:
    """Turn reflectance (4, px, px) under flat light into the counts that the sensor records of it.

    ``elevation`` (px, px) in meters shades the slopes; ``maker`` draws haze and noise. Counts are
    :data:`NODATA` outside the swath and at least 1 inside.
    """
    px = reflectance.shape[-1]
    light = hillshade(elevation, acquisition.sun_azimuth_deg, acquisition.sun_altitude_deg)
    light = 0.3 + 0.7 * light  # the sky lights slopes that face away from the sun
    # one edge of the swath looks brighter than the other
    across = np.linspace(-0.06, 0.06, px, dtype=np.float32)
    lit = spread_points(reflectance, 0.3) * (light * (1 + across * np.sign(acquisition.tilt)))
    haze = np.maximum(acquisition.haze * (1 + 0.55 * maker.smooth(160)), 0)
    hazy = lit * (1 - 0.12 * haze) + HAZE[:, None, None] * haze
    noise = np.stack([maker.white() for _ in hazy]) * (0.0012 + 0.012 * hazy)
    measured = (hazy + noise) * site.gain[:, None, None] + site.offset[:, None, None]
    rounded = np.clip(np.rint(measured * COUNTS_PER_UNIT), 1, 65_535)
    counts: NDArray[np.uint16] = rounded.astype(np.uint16)
    counts[:, ~swath(px, acquisition)] = NODATA
    return counts


def spread_points(image: F32, share: float) -> F32:
    """Blend each pixel with its four neighbors, whose weights add up to ``share`` (a small PSF)."""
    padded = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    around = (
        padded[..., :-2, 1:-1]
        + padded[..., 2:, 1:-1]
        + padded[..., 1:-1, :-2]
        + padded[..., 1:-1, 2:]
    )
    return image * np.float32(1 - share) + around * np.float32(share / 4)
