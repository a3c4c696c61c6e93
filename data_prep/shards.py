"""Rows of one modality in a few ``.npy`` files: written by appending, read as memory maps."""

from __future__ import annotations

import shutil
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from data_prep.schema import ShardMeta
from data_prep.statistics import BandSums, valid_mask
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

#: Largest size of one file.
SHARD_BYTES = 4 * 2**30
#: Parts of this size become a file of their own, without being copied.
WHOLE_BYTES = 64 * 2**20
#: Rows from this size on are copied one by one: a call for each costs less than a second copy.
LARGE_ROW_BYTES = 2**14
#: Bytes that are read at once for statistics.
BATCH_BYTES = 32 * 2**20


class ShardWriter:
    """Append rows to ``<name>-000.npy``, ``<name>-001.npy`` and so on.

    Parameters
    ----------
    folder, name
        Where the files go and how they start.
    row_shape, dtype
        Shape and type of one row.
    shard_bytes
        A new file is begun before a file's rows would exceed this.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        row_shape: tuple[int, ...],
        dtype: DTypeLike,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder = folder
        self.name = name
        self.row_shape = row_shape
        self.dtype = np.dtype(dtype)
        self.row_bytes = int(np.prod(row_shape)) * self.dtype.itemsize
        self.rows_per_shard = max(1, shard_bytes // max(1, self.row_bytes))
        self._rows = 0
        self._file: IO[bytes] | None = None

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return self._rows

    def append(self, values: NDArray[Any]) -> None:
        """Write rows: an array (n, *row_shape) of the writer's dtype."""
        while len(values):
            space = self.rows_per_shard - self._rows % self.rows_per_shard
            part, values = values[:space], values[space:]
            self._open().write(np.ascontiguousarray(part, self.dtype).data)
            self._rows += len(part)
            if self._rows % self.rows_per_shard == 0:
                self._close()

    def close(self) -> list[ShardMeta]:
        """Finish the files' headers and list the files."""
        self._close()
        shards = []
        for shard in range(self._shards()):
            path = self._path(shard)
            rows = min(self.rows_per_shard, self._rows - shard * self.rows_per_shard)
            with path.open("r+b") as file:
                _write_header(file, (rows, *self.row_shape), self.dtype)
            shards.append(ShardMeta(file=path.name, rows=rows))
        return shards

    def abandon(self) -> None:
        """Close the open file, without finishing anything."""
        self._close()

    def _shards(self) -> int:
        return -(-self._rows // self.rows_per_shard)

    def _path(self, shard: int) -> Path:
        return self.folder / f"{self.name}-{shard:03d}.npy"

    def _open(self) -> IO[bytes]:
        if self._file is None:
            path = self._path(self._rows // self.rows_per_shard)
            self._file = path.open("ab")
            if self._rows % self.rows_per_shard == 0:
                self._file.truncate(0)
                _write_header(self._file, (0, *self.row_shape), self.dtype)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Write an npy header at the start of a file and return its length.

    NumPy pads headers so that the first dimension can grow: the length does not depend on it.
    """
    file.seek(0)
    np.lib.format.write_array_header_1_0(
        file,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        },
    )
    return file.tell()


def join_shards(
    folder: Path, name: str, parts: Sequence[tuple[Path, int]], shard_bytes: int = SHARD_BYTES
) -> list[ShardMeta]:
    """Turn finished ``.npy`` files into the shards of a modality, in order.

    Large files are moved; smaller ones, one after another, are joined to a file of the largest
    size. Either way the rows stay in order.

    Parameters
    ----------
    folder, name
        Where the shards go and how they start.
    parts
        Files of one row shape and type, and their rows; they are used up.
    shard_bytes
        Largest size of one joined file.
    """
    groups: list[list[tuple[Path, int]]] = []
    room = 0
    for path, rows in parts:
        size = path.stat().st_size
        large = size >= WHOLE_BYTES
        if large or size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append((path, rows))
        room = 0 if large else room - size
    shards = []
    for number, group in enumerate(groups):
        target = folder / f"{name}-{number:03d}.npy"
        if len(group) == 1:
            group[0][0].rename(target)
        else:
            _concatenate(target, [path for path, _ in group])
        shards.append(ShardMeta(file=target.name, rows=sum(rows for _, rows in group)))
    return shards


def _concatenate(target: Path, parts: Sequence[Path]) -> None:
    first = np.load(parts[0], mmap_mode="r", allow_pickle=False)
    row_shape, dtype = first.shape[1:], first.dtype
    row_bytes = max(1, int(np.prod(row_shape)) * dtype.itemsize)
    with target.open("w+b") as file:
        header = _write_header(file, (0, *row_shape), dtype)
        for path in parts:
            with path.open("rb") as part:
                part.seek(header)
                shutil.copyfileobj(part, file, 2**20)
            path.unlink()
        _write_header(file, ((file.tell() - header) // row_bytes, *row_shape), dtype)


class ShardedArray:
    """The rows of a modality over all its files.

    Raises
    ------
    DataError
        A file is missing, cut short, or is not what ``meta.json`` says.
    """

    def __init__(self, folder: Path, shards: list[ShardMeta], dtype: str) -> None:
        self._parts = [_open_shard(folder / shard.file, shard.rows, dtype) for shard in shards]
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)])
        self.row_shape: tuple[int, ...] = self._parts[0].shape[1:] if self._parts else ()
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy rows: int64 [n] → an array (n, *row_shape), in the order asked for."""
        if len(self._parts) == 1:
            return np.asarray(self._parts[0][rows])
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        if out[:1].nbytes >= LARGE_ROW_BYTES:
            places = (rows - self._starts[shard_of]).tolist()
            for i, (shard, place) in enumerate(zip(shard_of.tolist(), places, strict=True)):
                out[i] = self._parts[shard][place]
            return out
        for shard in np.unique(shard_of):
            here = shard_of == shard
            out[here] = self._parts[shard][rows[here] - self._starts[shard]]
        return out


def _open_shard(path: Path, rows: int, dtype: str) -> NDArray[Any]:
    remedy = "copy the store again, or ingest it again"
    if not path.is_file():
        raise DataError(f"{path} is missing: {remedy}")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is cut short or is not an array: {remedy}") from error
    if len(array) != rows or array.dtype != np.dtype(dtype):
        raise DataError(
            f"{path} holds {len(array)} rows of {array.dtype}, meta.json says {rows} of {dtype}: "
            f"{remedy}"
        )
    # still mapped, but without what numpy.memmap does at every look into it
    return np.asarray(array)


def band_sums(array: ShardedArray, rows: NDArray[np.int64], nodata: float | None) -> BandSums:
    """Add up the valid values of some rows, in batches: rows (n, C, …) of a modality."""
    sums = BandSums.empty(array.row_shape[0])
    row_bytes = int(np.prod(array.row_shape)) * 8
    batch = max(1, BATCH_BYTES // row_bytes)
    for start in range(0, len(rows), batch):
        values = array.take(rows[start : start + batch])
        sums = sums.merge(BandSums.of(values, valid_mask(values, nodata)))
    return sums
