"""Rows of one modality in a few ``.npy`` files: written by appending, read as memory maps."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data_prep.schema import ShardMeta, path_within
from data_prep.statistics import BandSums, valid_mask
from data_prep.validity import unpack
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
#: Longest header of a file: NumPy writes 128 bytes for arrays such as these.
MAX_HEADER_BYTES = 2**12
#: What NumPy writes into a header, of arrays of numbers in the order of C.
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=][a-z][0-9]{1,2})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9]{1,15},|[0-9]{1,15}(?:, [0-9]{1,15}){1,3})\), \} *\n"
)


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
        # the first part becomes the shard: the parts never lie there twice but for one
        group[0][0].rename(target)
        if len(group) > 1:
            _append(target, [path for path, _ in group[1:]], rows)
        shards.append(ShardMeta(file=target.name, rows=rows))
    return shards


def _append(target: Path, parts: Sequence[Path], rows: int) -> None:
    """Join files byte for byte: their data are not parsed, only the header is written again."""
    dtype, shape, _ = _read_header(target)
    with target.open("r+b") as file:
        header = _write_header(file, (rows, *shape[1:]), dtype)
        file.seek(0, os.SEEK_END)
        for path in parts:
            with path.open("rb") as part:
                part.seek(header)
                shutil.copyfileobj(part, file, 2**20)
            path.unlink()


class ShardedArray:
    """The rows of a modality over all its files; DataError where these are not as recorded."""

    def __init__(self, folder: Path, shards: Sequence[ShardMeta], dtype: str) -> None:
        self._parts = [
            _open_shard(path_within(folder, shard.file), shard.rows, dtype) for shard in shards
        ]
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)])
        self.row_shape: tuple[int, ...] = self._parts[0].shape[1:] if self._parts else ()
        for shard, part in zip(shards, self._parts, strict=True):
            if part.shape[1:] != self.row_shape:
                raise DataError(
                    f"{folder / shard.file} has rows of {part.shape[1:]}, the shards before it of "
                    f"{self.row_shape}: {_REMEDY}"
                )
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


_REMEDY = "copy the store again, or ingest it again"


def _open_shard(path: Path, rows: int, dtype: str) -> NDArray[Any]:
    if not path.is_file():
        raise DataError(f"{path} is missing: {_REMEDY}")
    try:
        stored, shape, start = _read_header(path)
        size, expected = path.stat().st_size, start + math.prod(shape) * stored.itemsize
        if size != expected:
            kind = "is cut short" if size < expected else "is too long"
            raise DataError(f"{path} {kind}: it has {size} bytes instead of {expected}: {_REMEDY}")
        if shape[0] != rows or stored != np.dtype(dtype):
            raise DataError(
                f"{path} holds {shape[0]} rows of {stored}, meta.json says {rows} of {dtype}: "
                f"{_REMEDY}"
            )
        if not math.prod(shape):  # there is nothing to map
            return np.zeros(shape, stored)
        array: NDArray[Any] = np.memmap(path, stored, "r", start, shape)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): {_REMEDY}") from error
    # still a memory map, but without the Python code that numpy.memmap runs at every index
    return np.asarray(array)


def _read_header(path: Path) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return type and shape of a ``.npy`` file, and where its values start.

    Headers are compared with what NumPy writes, byte for byte: its own reader evaluates them as
    Python code may be written, and fails on others in as many ways as there are.
    """
    unusable = DataError(f"{path} is not an array of numbers: {_REMEDY}")
    with path.open("rb") as file:
        magic = file.read(8)
        length_bytes = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(magic[6:])
        if magic[:6] != b"\x93NUMPY" or length_bytes is None:
            raise unusable
        length = int.from_bytes(file.read(length_bytes), "little")
        if length > MAX_HEADER_BYTES:
            raise unusable
        header = file.read(length)
    match = _HEADER.fullmatch(header)
    if match is None:
        raise unusable
    try:
        dtype = np.dtype(match["descr"].decode())
    except TypeError:
        raise unusable from None
    shape = tuple(int(size) for size in match["shape"].split(b",") if size)
    if max(shape) >= 2**48:
        raise unusable
    return dtype, shape, len(magic) + length_bytes + length


def band_sums(
    array: ShardedArray,
    rows: NDArray[np.int64],
    nodata: float | int | None,
    layer: ShardedArray | None = None,
) -> BandSums:
    """Add up the valid values of some rows, in batches: rows (n, C, …) of a modality.

    ``layer`` holds the packed validity of the rows, where there is one.
    """
    sums = BandSums.empty(array.row_shape[0])
    row_bytes = int(np.prod(array.row_shape)) * 8
    batch = max(1, BATCH_BYTES // row_bytes)
    for start in range(0, len(rows), batch):
        values = array.take(rows[start : start + batch])
        valid = valid_mask(values, nodata)
        if layer is not None:
            valid &= unpack(layer.take(rows[start : start + batch]), values.shape[-1])
        sums = sums.merge(BandSums.of(values, valid))
    return sums
