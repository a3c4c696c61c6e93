"""What a prediction has done so far, on disk beside the map: a process that is killed goes on.

::

    .map.tif.unfinished/key             of the model, the options and the scene's files
    .map.tif.unfinished/probabilities   float32 [rows of windows, windows in a row, classes]
    .map.tif.unfinished/valid           a byte for each window, 1 if it was classified
    .map.tif.unfinished/usable          bits for each row of pixels: those that the map has
    .map.tif.unfinished/rows            rows of windows that are done
"""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_app.predict.inference import RowOfWindows
from fl_app.predict.windows import WindowAxis
from rsdgc.durable import DRAFT, make_folder, replace_text
from rsdgc.errors import DataError

SAVE_INTERVAL_S = 5.0
_KEY, _ROWS = "key", "rows"
_ARRAYS = ("probabilities", "valid", "usable")
WORK_FILES = ("classes.tif", "probabilities.tif")
"""What the map and its probabilities are made of."""
_OWN = frozenset((_KEY, _ROWS, *_ARRAYS, *WORK_FILES))


class UnfinishedMap:
    """The folder of a map that is not complete; it is made, or what is there is continued."""

    def __init__(
        self, target: Path, key: str, axes: tuple[WindowAxis, WindowAxis], num_classes: int
    ) -> None:
        self.folder = target.with_name(f".{target.name}.unfinished")
        rows, cols = axes
        key_file = self.folder / _KEY
        known = key_file.read_text(encoding="utf-8") if key_file.is_file() else None
        # A process that was killed, or found the disk full, may have left any part of it.
        if self.folder.exists() and not all(map(_is_own, self.folder.iterdir())):
            raise DataError(
                f"{self.folder} is where {target} would be made, and was not left by a prediction: "
                "move it elsewhere, or choose another --out"
            )
        if known != key:
            shutil.rmtree(self.folder, ignore_errors=True)
            make_folder(self.folder)
        shapes: tuple[tuple[type[np.generic], tuple[int, ...]], ...] = (
            (np.float32, (len(rows), len(cols), num_classes)),
            (np.bool_, (len(rows), len(cols))),
            (np.uint8, (rows.length, -(-cols.length // 8))),
        )
        self._arrays = {
            name: _map_file(self.folder / name, dtype, shape)
            for name, (dtype, shape) in zip(_ARRAYS, shapes, strict=True)
        }
        if known != key:
            replace_text(key_file, key)
        self.rows_done = self._read_rows()
        self._width = cols.length
        self._saved = time.monotonic()

    def _read_rows(self) -> int:
        path = self.folder / _ROWS
        return int(path.read_text(encoding="ascii")) if path.is_file() else 0

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Of each row of windows, window and class."""
        result: NDArray[np.float32] = self._arrays["probabilities"]
        return result

    def row(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return what the windows of a row say, [n, K], and which of them were classified."""
        return self._arrays["probabilities"][number], self._arrays["valid"][number]

    def usable(self, first: int, stop: int) -> NDArray[np.bool_]:
        """Return which pixels of some rows the map has."""
        bits = np.unpackbits(self._arrays["usable"][first:stop], axis=1, count=self._width)
        return bits.astype(np.bool_)

    def add(self, row: RowOfWindows) -> None:
        """Keep a row of windows; every few seconds all of them are forced to disk."""
        if row.valid.any():
            self._arrays["probabilities"][row.number] = row.probabilities
        self._arrays["valid"][row.number] = row.valid
        stop = row.first + len(row.usable)
        self._arrays["usable"][row.first : stop] = np.packbits(row.usable, axis=1)
        self.rows_done = row.number + 1
        if time.monotonic() - self._saved > SAVE_INTERVAL_S:
            self.save()

    def save(self) -> None:
        """Force what is done to disk."""
        for array in self._arrays.values():
            array.flush()
        replace_text(self.folder / _ROWS, str(self.rows_done))
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the folder: the map stands."""
        self._arrays = {}
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_own(path: Path) -> bool:
    return path.name in _OWN or path.name.endswith(DRAFT)


def _map_file(
    path: Path, dtype: type[np.generic], shape: tuple[int, ...]
) -> np.memmap[Any, np.dtype[Any]]:
    """Map a file into memory; its content stays, and a new one is zero.

    Its space is reserved, for a write to a mapped file on a full disk would kill the process.
    """
    path.touch()
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
    except OSError as error:  # which does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None
    return np.memmap(path, dtype, "r+", shape=shape)
