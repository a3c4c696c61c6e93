"""Arrays as images inside a page: contrast, and data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

# Haze and glint at the ends of a band's range would leave the rest of it gray.
_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
# Artifacts of WebP show below about 80; above 90 files grow fast.
_WEBP_QUALITY = 86


def stretch(
    pixels: NDArray[np.float32], limits: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Spread the values of each band, [..., 3], over the brightness of an RGBA image, [..., 4].

    It is transparent where a band is NaN. ``limits`` become black and white; by default they are
    the 2nd and 98th percentile of each band.
    """
    valid = np.isfinite(pixels).all(axis=-1)
    rgba = np.zeros((*pixels.shape[:-1], 4), np.uint8)
    if not valid.any():
        return rgba
    values = pixels[valid]
    low, high = limits or np.percentile(values, (_LOW_PERCENT, _HIGH_PERCENT), axis=0)
    brightness = np.clip((values - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    rgba[valid, :3] = np.round(255 * brightness).astype(np.uint8)
    rgba[valid, 3] = 255
    return rgba


def photo_uri(rgba: NDArray[np.uint8], max_px: int) -> str:
    """Return a photograph, [H, W, 4], as a data URI, averaged down to ``max_px`` a side."""
    image = Image.fromarray(np.ascontiguousarray(rgba))
    image.thumbnail((max_px, max_px), Image.Resampling.BOX, reducing_gap=None)
    # A tenth of the PNG's size and, unlike JPEG, with transparency; not every Pillow has it.
    if features.check("webp"):
        return _image_uri(image, "webp", quality=_WEBP_QUALITY, method=4)
    return _image_uri(image, "png", optimize=True)


def cells_uri(rgba: NDArray[np.uint8]) -> str:
    """Return a map of one pixel per cell, [H, W, 4], as a data URI with exact colors."""
    return _image_uri(Image.fromarray(np.ascontiguousarray(rgba)), "png", optimize=True)


def _image_uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind.upper(), **options)
    return data_uri(f"image/{kind}", buffer.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """Return a file's content as a URI that needs no file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
