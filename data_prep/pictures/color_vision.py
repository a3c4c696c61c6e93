"""How far apart two colors look, to readers with normal and with color-deficient vision."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Linear RGB as a reader without one kind of cone sees it: Machado, Oliveira and Fernandes,
#: "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1.0.
DEFICIENCIES = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
VISIONS = ("normal", *DEFICIENCIES)

# From linear sRGB to CIE XYZ under D65 (IEC 61966-2-1); the rows sum to the white point.
_XYZ = np.array(
    (
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    )
)


def simulate(colors: ArrayLike, vision: str) -> NDArray[np.float64]:
    """Return sRGB colors, uint8 [..., 3], as a reader sees them: linear RGB from 0 to 1.

    ``vision`` is one of :data:`VISIONS`.
    """
    srgb = np.asarray(colors, np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if vision != "normal":
        linear = linear @ np.array(DEFICIENCIES[vision]).T
    return linear.clip(0, 1)


def to_lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert linear RGB [..., 3] to CIELAB under D65."""
    ratio = linear @ _XYZ.T / _XYZ.sum(axis=1)
    # The straight part near black keeps the cube root's slope finite (CIE 15).
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def least_difference(colors: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Return the differences of sRGB colors [n, 3] and [m, 3], as ΔE*ab (CIE 1976) [n, m].

    Each is that in the vision that tells the two apart worst. Below about 10, areas that touch are
    hard to tell apart.
    """
    lab, other_lab = (
        np.array([to_lab(simulate(rgb, vision)) for vision in VISIONS]) for rgb in (colors, others)
    )
    differences = np.linalg.norm(lab[:, :, None] - other_lab[:, None], axis=-1)
    least: NDArray[np.float64] = differences.min(axis=0)
    return least
