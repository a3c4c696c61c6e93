"""Rows of one modality in a few ``.npy`` files: written by appending, read as memory maps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data_prep.schema import ShardMeta
from data_prep.statistics import BandSums, valid_mask
from rsdgc.errors import DataError

#: Largest size of a file, which is the limit of some disks and services.
SHARD_BYTES = 4 * 2**30
#: Parts of this size are renamed to shards and not copied: that is faster, and they are large
#: enough that a store has few files.
UNCOPIED_BYTES = 64 * 2**20
#: Rows from this size on are copied one by one: a call per row costs less than the second copy that
#: indexing by an array makes.
LARGE_ROW_BYTES = 2**14
#: Bytes of float64 that statistics hold at once.
BATCH_BYTES = 32 * 2**20


class ShardWriter:
    """Append rows to a new ``.npy`` file whose length is not known beforehand.

    ``rows`` counts those written so far.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.row_shape = row_shape
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._file = path.open("wb")
        _write_header(self._file, (0, *row_shape), self.dtype)

    def append(self, values: NDArray[Any]) -> None:
        """Write rows: an array (n, *row_shape) of the writer's dtype."""
        self._file.write(np.ascontiguousarray(values, self.dtype).data)
        self.rows += len(values)

    def finish(self) -> None:
        """Write the number of rows into the header, and close the file."""
        _write_header(self._file, (self.rows, *self.row_shape), self.dtype)
        self._file.close()

    def close(self) -> None:
        """Close the file; without :meth:`finish`, its header says that it has no rows."""
        self._file.close()


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Write an npy header at the start of a file and return its length.

    NumPy pads headers so that the first dimension can grow, so the length does not depend on the
    number of rows.
    """
    file.seek(0)
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def join_shards(folder: Path, name: str, parts: Sequence[tuple[Path, int]]) -> list[ShardMeta]:
    """Turn finished ``.npy`` files into the shards ``<name>-000.npy`` … of a modality, in order.

    ``parts`` are files of one row shape and type, and their rows. Large files are moved; smaller
    ones, one after another, are joined to files of up to :data:`SHARD_BYTES` and removed.
    """
    groups: list[list[tuple[Path, int]]] = []
    room = 0
    for path, rows in parts:
        size = path.stat().st_size
        large = size >= UNCOPIED_BYTES
        if large or size > room:
            groups.append([])
            room = SHARD_BYTES
        groups[-1].append((path, rows))
        room = 0 if large else room - size
    shards = []
    for number, group in enumerate(groups):
        target = folder / f"{name}-{number:03d}.npy"
        rows = sum(count for _, count in group)
        if len(group) == 1:
            group[0][0].rename(target)
        else:
            _concatenate(target, [path for path, _ in group], rows)
        shards.append(ShardMeta(file=target.name, rows=rows))
    return shards


def _concatenate(target: Path, parts: Sequence[Path], rows: int) -> None:
    """Join files byte for byte: their data are not parsed, only the header is written again."""
    first = np.load(parts[0], mmap_mode="r", allow_pickle=False)
    with target.open("wb") as file:
        header = _write_header(file, (rows, *first.shape[1:]), first.dtype)
        for path in parts:
            with path.open("rb") as part:
                part.seek(header)
                shutil.copyfileobj(part, file, 2**20)
            path.unlink()


class ShardedArray:
    """The rows of a modality over all its files; DataError where these are not as recorded."""

    def __init__(self, folder: Path, shards: list[ShardMeta], dtype: str) -> None:
        self._parts = [_open_shard(folder / shard.file, shard.rows, dtype) for shard in shards]
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)])
        self.row_shape: tuple[int, ...] = self._parts[0].shape[1:] if self._parts else ()
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy rows (int64 [n]) to an array (n, *row_shape), in their order."""
        if len(self._parts) == 1:
            return np.asarray(self._parts[0][rows])
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        if out[:1].nbytes >= LARGE_ROW_BYTES:
            local = (rows - self._starts[shard_of]).tolist()
            for i, (shard, row) in enumerate(zip(shard_of.tolist(), local, strict=True)):
                out[i] = self._parts[shard][row]
            return out
        for shard in np.unique(shard_of):
            members = shard_of == shard
            out[members] = self._parts[shard][rows[members] - self._starts[shard]]
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
    # still a memory map, but without the Python code that numpy.memmap runs at every index
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
