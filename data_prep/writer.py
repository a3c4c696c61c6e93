"""Writing a store: samples first, then statistics, manifest and ``meta.json``."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.manifest import MANIFEST_FILE, Columns, write_manifest
from data_prep.schema import STORE_FILE, ModalityMeta, ShardMeta, StoreMeta, write_record
from data_prep.shards import SHARD_BYTES, ShardedArray, ShardWriter, band_sums
from data_prep.statistics import BandSums

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class StoreWriter:
    """Collects the rows of all modalities, side by side, in a folder.

    Parameters
    ----------
    folder
        An empty folder, usually staged.
    modalities
        Descriptions without statistics and shards.
    side
        Height and width of a chip; None for pixel rows (pixel mode).
    shard_bytes
        Largest size of one file.
    """

    def __init__(
        self,
        folder: Path,
        modalities: Sequence[ModalityMeta],
        side: int | None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder = folder
        self.modalities = list(modalities)
        tail = () if side is None else (side, side)
        self._shards = [
            ShardWriter(folder, m.name, (len(m.bands), *tail), m.dtype, shard_bytes)
            for m in self.modalities
        ]

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return self._shards[0].rows

    def append(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Write the same number of rows to each modality."""
        for shard, values in zip(self._shards, arrays, strict=True):
            shard.append(values)

    def roll_back(self, rows: int) -> None:
        """Forget everything after the first ``rows`` rows."""
        for shard in self._shards:
            shard.roll_back(rows)

    def abandon(self) -> None:
        """Close the files."""
        for shard in self._shards:
            shard.abandon()

    def finish(self, columns: Columns, train_rows: NDArray[np.int64], **meta: Any) -> StoreMeta:
        """Write the manifest and ``meta.json``.

        Parameters
        ----------
        columns
            The manifest's columns.
        train_rows : int64 [n]
            Rows of the arrays that the statistics are of.
        **meta
            Fields of :class:`data_prep.schema.StoreMeta` other than id and modalities.
        """
        modalities = []
        for description, writer in zip(self.modalities, self._shards, strict=True):
            shards = writer.close()
            array = ShardedArray(self.folder, shards, description.dtype)
            sums = band_sums(array, train_rows, description.nodata)
            modalities.append(with_samples(description, shards, sums))
        return write_records(self.folder, columns, modalities, **meta)


def with_samples(
    modality: ModalityMeta, shards: Sequence[ShardMeta], sums: BandSums
) -> ModalityMeta:
    """Return a modality's description with its files and statistics."""
    return modality.model_copy(update={"shards": list(shards), **sums.as_meta()})


def write_records(
    folder: Path, columns: Columns, modalities: Sequence[ModalityMeta], **meta: Any
) -> StoreMeta:
    """Write the manifest and ``meta.json`` of a store whose arrays are there.

    ``meta`` has the fields of :class:`data_prep.schema.StoreMeta` other than id and modalities.
    """
    write_manifest(folder / MANIFEST_FILE, columns)
    digest = hashlib.blake2b((folder / MANIFEST_FILE).read_bytes(), digest_size=8)
    record = StoreMeta(id=digest.hexdigest(), modalities=list(modalities), **meta)
    write_record(folder / STORE_FILE, record)
    return record


def chip_hashes(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Hash each chip's bytes over all modalities: 16 hexadecimal digits a chip, texts [n]."""
    hashes = np.empty(len(arrays[0]), dtype=object)
    contiguous = [np.ascontiguousarray(values) for values in arrays]
    for i in range(len(hashes)):
        # of the library's hashes the one that processors have instructions for
        digest = hashlib.sha256()
        for values in contiguous:
            digest.update(values[i].data)
        hashes[i] = digest.hexdigest()[:16]
    return hashes
