"""Arrays as pictures inside the page: contrast, data URIs, outlines."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, features

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0


def stretch(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Spread each band's 2 to 98 % over the brightness range.

    Parameters
    ----------
    pixels : float32[..., 3]
        NaN where there is no data.

    Returns
    -------
    uint8[..., 4]
        RGBA, transparent where any band is NaN.
    """
    valid = np.isfinite(pixels).all(axis=-1)
    rgba = np.zeros((*pixels.shape[:-1], 4), dtype=np.uint8)
    if not valid.any():
        return rgba
    inside = pixels[valid]
    low, high = np.percentile(inside, (_LOW_PERCENT, _HIGH_PERCENT), axis=0)
    shares = np.clip((inside - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    rgba[valid, :3] = np.round(255 * shares).astype(np.uint8)
    rgba[valid, 3] = 255
    return rgba


def photo_uri(rgba: NDArray[np.uint8], max_px: int) -> str:
    """Return a data URI of a photograph, brought down to ``max_px`` on its longer side.

    Parameters
    ----------
    rgba : uint8[H, W, 4]
    max_px : int
        Longest side of what is stored.
    """
    image = Image.fromarray(np.ascontiguousarray(rgba))
    scale = max_px / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX)
    if features.check("webp"):  # a tenth of the PNG's size, and transparent where PNG is
        return _uri(image, "webp", quality=86, method=4)
    return _uri(image, "png", optimize=True)


def cells_uri(rgba: NDArray[np.uint8]) -> str:
    """Return a data URI of a map with one pixel per cell, exact in colour.

    Parameters
    ----------
    rgba : uint8[H, W, 4]
    """
    return _uri(Image.fromarray(np.ascontiguousarray(rgba)), "png", optimize=True)


def outline_path(inside: NDArray[np.bool_]) -> str:
    """SVG path along the edge of a region of cells, straight runs drawn as one stroke.

    Parameters
    ----------
    inside : bool[H, W]

    Returns
    -------
    str
        In cell units, from (0, 0) at the top left; empty for an empty region.
    """
    padded = np.pad(inside, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]
    down = (padded[1:-1, 1:] != padded[1:-1, :-1]).T
    parts = [f"M{x} {y}h{length}" for y, x, length in _runs(across)]
    parts += [f"M{x} {y}v{length}" for x, y, length in _runs(down)]
    return "".join(parts)


def _runs(edges: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Line, start and length of each run of true values along the second axis."""
    steps = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    lines, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    return [
        (int(line), int(start), int(end - start))
        for line, start, end in zip(lines, starts, ends, strict=True)
    ]


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
