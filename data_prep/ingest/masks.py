"""Rasters that mark invalid pixels, such as clouds: by values, or by bits."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.rasters import RasterFile


@dataclass(frozen=True)
class MaskRule:
    """Which files are masks, and which of their values (or bits) mean invalid."""

    pattern: str
    values: tuple[int, ...]
    bits: bool = False

    def matches(self, name: str) -> bool:
        """Tell by its name whether a file is such a mask; the suffix may be left out."""
        path = PurePosixPath(name)
        return any(fnmatch.fnmatch(text, self.pattern) for text in (path.name, path.stem))

    def valid(self, codes: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the pixels that the mask leaves."""
        if not self.bits:
            return ~np.isin(codes, self.values)
        flags = sum(1 << bit for bit in self.values)
        clear: NDArray[np.bool_] = (codes.astype(np.int64) & flags) == 0
        return clear


@dataclass(frozen=True)
class MaskFile:
    """A scene's mask and how it is read."""

    file: RasterFile
    rule: MaskRule


def parse_mask(text: str) -> MaskRule:
    """Read ``glob=3,8,9`` or ``glob=bits:3,4``.

    Raises
    ------
    SettingError
        The text is neither.
    """
    match = re.fullmatch(r"([^=]+)=(bits:)?(\d+(?:,\d+)*)", text)
    if match is None:
        raise SettingError(f"mask {text!r} is not glob=values: write *_SCL=3,8,9 or *QA=bits:3,4")
    values = tuple(int(number) for number in match[3].split(","))
    return MaskRule(match[1], values, bits=match[2] is not None)
