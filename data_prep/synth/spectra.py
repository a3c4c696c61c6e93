"""Spectra of the materials that pixels are mixed from, and of groups of classes that look alike.

Reflectances of blue, green, red and near infrared, 0 to 1. A pixel's colour comes from its
materials; then each patch's *mean* is pulled towards one drawn for the patch's group of
classes. The mean spectra of a group's classes therefore overlap widely, and it takes texture,
geometry and context to tell them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data_prep.synth.cover_classes import Cover

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.synth.random_fields import F32
    from data_prep.synth.sites import Site

_MATERIALS: dict[str, tuple[float, float, float, float]] = {
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
    "grey roof": (0.150, 0.158, 0.165, 0.185),
    "white roof": (0.330, 0.345, 0.350, 0.370),
    "asphalt": (0.075, 0.080, 0.086, 0.105),
    "young crop": (0.034, 0.075, 0.040, 0.420),
    "dense crop": (0.030, 0.058, 0.034, 0.370),
    "ripe crop": (0.085, 0.135, 0.165, 0.300),
    "blossom": (0.055, 0.150, 0.125, 0.380),
}
_GREEN = ("canopy", "grass", "reeds", "young crop", "dense crop")
_GROUND = ("soil", "gravel", "rock")

WOODY, HERBS, MINERAL, WET = range(4)
_GROUPS: dict[Cover, int] = {
    Cover.BROADLEAF: WOODY,
    Cover.CONIFER: WOODY,
    Cover.ORCHARD: WOODY,
    Cover.GRASSLAND: HERBS,
    Cover.CROPLAND: HERBS,
    Cover.BUILT_UP: MINERAL,
    Cover.BARE: MINERAL,
    Cover.QUARRY: MINERAL,
    Cover.WETLAND: WET,
}
_GROUP_MEANS = np.array(
    [
        (0.031, 0.053, 0.043, 0.225),
        (0.052, 0.088, 0.084, 0.280),
        (0.110, 0.133, 0.155, 0.215),
        (0.042, 0.062, 0.052, 0.160),
    ],
    dtype=np.float32,
)
# Where two classes of a group would be all but the same, a tint within their spread.
_TINTS = {
    Cover.CONIFER: np.array([0.90, 0.85, 0.85, 0.71]),
    Cover.ORCHARD: np.array([1.05, 1.06, 1.10, 0.97]),
    Cover.QUARRY: np.array([1.15, 1.06, 0.92, 0.80]),
}


class Palette:
    """The materials' spectra at one site and date.

    Parameters
    ----------
    site : Site
        Aridity, season and the ground's colour come from it.
    season : float
        0 (spring) to 1 (late summer): green things turn towards straw.
    rng : numpy.random.Generator
        Draws the ground's tint and small differences between acquisitions.
    """

    def __init__(self, site: Site, season: float, rng: np.random.Generator) -> None:
        self.withering = float(np.clip(0.15 + 0.45 * season * site.landscape.aridity, 0, 0.6))
        tint = np.exp(rng.normal(0, 0.05) * np.array([-1.2, -0.3, 1.0, 0.9]))
        straw = np.array(_MATERIALS["straw"])
        self._spectra: dict[str, F32] = {}
        for name, values in _MATERIALS.items():
            spectrum = np.array(values) * np.exp(rng.normal(0, 0.03, size=4))
            if name in _GREEN:
                spectrum += 0.5 * self.withering * (straw - spectrum)
            if name in _GROUND:
                spectrum = spectrum * tint * (0.9 + 0.3 * site.landscape.aridity)
            self._spectra[name] = spectrum.astype(np.float32)

    def __getitem__(self, name: str) -> F32:
        """Return the reflectance of a material, float32 (4,)."""
        return self._spectra[name]

    def table(self, *names: str) -> F32:
        """Return several materials as one table to index, float32 (len(names), 4)."""
        return np.stack([self._spectra[name] for name in names])


def group_targets(covers: NDArray[np.int64], withering: float, rng: np.random.Generator) -> F32:
    """Draw the mean spectrum that each patch is pulled towards.

    Parameters
    ----------
    covers : int64 array, (patches,)
        Class code of each patch; water keeps its own colour.
    withering : float
        Turns vegetation towards straw.
    rng : numpy.random.Generator
        Brightness, vigour (near infrared against red) and a little of every band vary by patch.

    Returns
    -------
    float32 array, (patches, 4)
        Reflectance; NaN where a patch keeps its own colour.
    """
    groups = np.array([_GROUPS.get(Cover(c), -1) for c in covers])
    straw = np.array(_MATERIALS["straw"])
    means = _GROUP_MEANS.astype(np.float64)
    green = np.array([0.35, 0.7, 0.0, 0.35])[:, None]
    means = means + withering * green * (straw - means)
    brightness = rng.normal(0, 0.11, size=(len(covers), 1))
    vigour = rng.normal(0, 0.11, size=(len(covers), 1)) * np.array([-0.7, -0.3, -1.0, 0.9])
    jitter = np.exp(brightness + vigour + rng.normal(0, 0.04, size=(len(covers), 4)))
    tints = np.array([_TINTS.get(Cover(c), np.ones(4)) for c in covers])
    targets = np.where(groups[:, None] >= 0, means[groups] * jitter * tints, np.nan)
    return targets.astype(np.float32)


def pull_means(
    reflectance: F32, patch: NDArray[np.int32], targets: F32, strength: float = 0.42
) -> F32:
    """Scale each patch so that its mean spectrum comes near its target.

    Parameters
    ----------
    reflectance : float32 array, (n, 4)
        Pixels.
    patch : int32 array, (n,)
        Patch number of each pixel; negative for pixels that are in none.
    targets : float32 array, (patches, 4)
        From `group_targets`; NaN leaves a patch as it is.
    strength : float
        0 leaves the means, 1 makes them equal to the targets.

    Returns
    -------
    float32 array, (n, 4)
        Scaled reflectance; factors stay within a third to three.
    """
    inside = patch >= 0
    members = patch[inside]
    counts = np.maximum(np.bincount(members, minlength=len(targets)), 1)
    factors = np.ones((len(targets) + 1, reflectance.shape[1]), dtype=np.float32)
    for band in range(reflectance.shape[1]):
        sums = np.bincount(members, weights=reflectance[inside, band], minlength=len(targets))
        ratio = targets[:, band] / np.maximum(sums / counts, 1e-3)
        factors[:-1, band] = np.clip(np.nan_to_num(ratio, nan=1.0), 1 / 3, 3) ** strength
    return reflectance * factors[patch]
