"""Which bands of a modality make a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from data_prep.schema import ModalityMeta

#: Names of red, green and blue bands: plain ones, Sentinel-2's and Landsat's.
_FAMILIAR = (("red", "green", "blue"), ("b04", "b03", "b02"), ("b4", "b3", "b2"))
#: Wavelengths of a display's red, green and blue, roughly.
_VISIBLE_NM = (650.0, 550.0, 470.0)
#: How far a band may be from these and still show natural colors.
_VISIBLE_TOLERANCE_NM = 50.0
#: From this many unnamed bands on, the first three are too close together to show any color.
_HYPERSPECTRAL = 24
#: Where red, green and blue lie among the bands of a spectrometer from 400 to 2500 nm.
_SPECTRUM_SHARES = (0.135, 0.085, 0.04)


def picture_modality(modalities: Sequence[ModalityMeta]) -> int:
    """Return the number of the modality that makes the best picture: the first with three bands."""
    return next((i for i, modality in enumerate(modalities) if len(modality.bands) >= 3), 0)


def picture_bands(names: Sequence[str]) -> tuple[int, int, int]:
    """Return the bands of a modality to show as red, green and blue.

    The names decide where they can: ``red``, ``B4``, ``landsat_b4``, ``650 nm``. Of many bands
    without such names, the choice is three from the visible part of a 400–2500 nm spectrum; of
    few, the first three. One or two bands make a gray picture of the first.
    """
    lower = [name.lower().strip() for name in names]
    for words in _FAMILIAR:
        red, green, blue = (_position(lower, word) for word in words)
        if red is not None and green is not None and blue is not None:
            return red, green, blue
    wavelengths = np.array([_wavelength_nm(name) for name in lower])
    if not np.isnan(wavelengths).any():
        red, green, blue = (int(np.abs(wavelengths - nm).argmin()) for nm in _VISIBLE_NM)
        # Infrared bands alone are all nearest to red: one of them thrice would hide the others.
        if len({red, green, blue}) == 3:
            return red, green, blue
    if len(names) >= _HYPERSPECTRAL:
        red, green, blue = (round(share * len(names)) for share in _SPECTRUM_SHARES)
        return red, green, blue
    return (0, 1, 2) if len(names) >= 3 else (0, 0, 0)


def composite_name(names: Sequence[str]) -> str:
    """Say which bands :func:`picture_bands` shows, and as which colors.

    ``natural color (B4, B3, B2)``, ``false color (nir, red, green)``, or the name of a single band.
    """
    red, green, blue = (names[band] for band in picture_bands(names))
    if red == green == blue:
        return red
    lower = [name.lower().strip() for name in names]
    bands = picture_bands(names)
    visible = any(
        tuple(_position(lower, word) for word in words) == bands for words in _FAMILIAR
    ) or all(
        abs(_wavelength_nm(lower[band]) - nm) < _VISIBLE_TOLERANCE_NM
        for band, nm in zip(bands, _VISIBLE_NM, strict=True)
    )
    kind = "natural color" if visible else "false color"
    return f"{kind} ({red}, {green}, {blue})"


def _position(names: list[str], word: str) -> int | None:
    """Return which band is called ``word``, or is the only one to end in it (``landsat_b4``)."""
    if word in names:
        return names.index(word)
    endings = [i for i, name in enumerate(names) if re.split(r"[\W_]+", name)[-1] == word]
    return endings[0] if len(endings) == 1 else None


def _wavelength_nm(name: str) -> float:
    """Return the wavelength in a band's name in nanometers; NaN where there is none."""
    match = re.search(r"(\d+(?:\.\d+)?)\s*(nm|um|µm|micro\w*|nano\w*)", name)
    if not match:
        return np.nan
    return float(match[1]) * (1.0 if match[2].startswith("n") else 1000.0)
