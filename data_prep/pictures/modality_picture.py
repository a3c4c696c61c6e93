"""One modality of a scene as a picture: natural or false color, gray, or colors of elevation."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from data_prep.common_statistics import scaling
from data_prep.pictures.band_choice import composite_name, picture_bands
from data_prep.pictures.images import photo_uri, stretch
from data_prep.pictures.mosaic import mosaic
from data_prep.pictures.scene_grid import SceneGrid
from data_prep.schema import ModalityMeta
from data_prep.store import Store

#: Names of modalities and bands that hold heights.
_ELEVATION = re.compile(r"(^|[\W_])(elevation|dem|dsm|dtm|srtm|height|altitude|relief)([\W_]|$)")
#: Even in lightness, and the same to color-blind readers: Nuñez, Anderton and Renslow, "Optimizing
#: colormaps with consideration for color vision deficiency", PLOS ONE, 2018.
_ELEVATION_COLORS = "cividis"
_STEPS = 5


@dataclass(frozen=True)
class ColorBar:
    """What the colors of a picture of one band mean."""

    gradient: str  #: CSS
    low: str
    high: str
    unit: str


@dataclass(frozen=True)
class ModalityPicture:
    """A picture ready to be put in a page."""

    caption: str  #: the modality, and which bands are shown how
    uri: str
    bar: ColorBar | None  #: None for a picture of three bands


def picture(store: Store, grid: SceneGrid, number: int, max_px: int) -> ModalityPicture:
    """Draw a modality of a scene, with at most ``max_px`` a side."""
    meta = store.meta.modalities[number]
    pixels = mosaic(store, grid, number)
    shown = composite_name(meta.bands)
    caption = meta.name if shown == meta.name else f"{meta.name}: {shown}"
    if len(set(picture_bands(meta.bands))) > 1:
        return ModalityPicture(caption, photo_uri(stretch(pixels), max_px), None)
    elevation = is_elevation(meta)
    gray = stretch(pixels)
    if elevation:
        colors = (colormaps[_ELEVATION_COLORS](gray[..., 0])[..., :3] * 255).astype(np.uint8)
        gray = np.concatenate([colors, gray[..., 3:]], axis=-1)
    bar = _color_bar(meta, pixels, elevation=elevation)
    return ModalityPicture(caption, photo_uri(gray, max_px), bar)


def is_elevation(meta: ModalityMeta) -> bool:
    """Tell by its name, or its only band's, whether a modality holds heights."""
    return any(_ELEVATION.search(name.lower()) for name in (meta.name, *meta.bands[:1]))


def _color_bar(
    meta: ModalityMeta, pixels: NDArray[np.float32], *, elevation: bool
) -> ColorBar | None:
    known = pixels[..., 0][np.isfinite(pixels[..., 0])]
    if not known.size:
        return None
    scale, offset = scaling(meta)
    band = picture_bands(meta.bands)[0]
    low, high = (
        float(value) * scale[band] + offset[band] for value in np.percentile(known, (2, 98))
    )
    shades = np.linspace(0, 1, _STEPS)
    if elevation:
        rgb = [tuple(int(255 * c) for c in colormaps[_ELEVATION_COLORS](s)[:3]) for s in shades]
    else:
        rgb = [(int(255 * s),) * 3 for s in shades]
    stops = ", ".join("#" + bytes(color).hex() for color in rgb)
    unit = meta.units[band] if meta.units else ""
    if not unit:
        unit = "physical units" if meta.scale else "stored values"
        unit = "unit not recorded" if elevation else unit
    return ColorBar(f"linear-gradient(90deg, {stops})", f"{low:.4g}", f"{high:.4g}", unit)
