"""A store: chips or pixel patches in memory-mapped arrays, with a manifest.

::

    store/meta.json            what the store is (:class:`data_prep.schema.StoreMeta`)
    store/manifest.parquet     one row per sample
    store/<modality>-000.npy   the samples (n, C, H, W), or all padded pixels (n, C)
    store/<modality>.valid-000.npy   where needed, which values are data: :mod:`data_prep.validity`
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.manifest import MANIFEST_FILE, column, read_manifest
from data_prep.schema import STORE_FILE, StoreMeta, path_within, read_record
from data_prep.shards import ShardedArray, band_sums
from data_prep.statistics import BandSums, valid_mask
from data_prep.validity import pack, packed_shape, unpack
from rsdgc.errors import DataError


class Store:
    """Read access to a store; made by :meth:`open`."""

    def __init__(self, path: Path, meta: StoreMeta, manifest: pa.Table) -> None:
        self.path = path
        self.meta = meta
        self.manifest = manifest  #: one row per sample; column ``chip`` equals the row's number
        self._arrays = [ShardedArray(path, m.shards, m.dtype) for m in meta.modalities]
        self._layers = [
            ShardedArray(path, m.validity, "uint8") if m.validity else None for m in meta.modalities
        ]
        self._pixels = meta.kind == "pixels"
        for modality, array, layer in zip(meta.modalities, self._arrays, self._layers, strict=True):
            px = meta.chip_px // modality.factor
            shape = (len(modality.bands), *(() if self._pixels else (px, px)))
            wrong = len(array) < len(self) if self._pixels else len(array) != len(self)
            if wrong or (len(array) and array.row_shape != shape):
                raise DataError(
                    f"{path}: modality {modality.name} holds {len(array)} × {array.row_shape}, "
                    f"the manifest needs {len(self)} × {shape}: ingest again"
                )
            bits = packed_shape(shape)
            if layer is not None and (len(layer), layer.row_shape) != (len(array), bits):
                raise DataError(
                    f"{path}: the validity layer of modality {modality.name} holds {len(layer)} × "
                    f"{layer.row_shape}, its samples need {len(array)} × {bits}: ingest again"
                )
        if self._pixels:
            self._offsets = column(manifest, "offset")
            self._strides = column(manifest, "stride").astype(np.int64)
            self._check_patches()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open a store.

        Raises
        ------
        DataError
            The folder is not a store, is of another schema version, or misses (part of) a file; or
            its files contradict each other, or lead out of the folder.
        """
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"{path} is not a folder: ingest an archive to it first")
        if not (path / STORE_FILE).is_file():
            raise DataError(f"{path} has no {STORE_FILE}: it is not a store; ingest one first")
        meta = read_record(path_within(path, STORE_FILE), StoreMeta)
        # Of pixels, which are stored once each and padded, there are fewer samples than rows.
        most = min(sum(shard.rows for shard in modality.shards) for modality in meta.modalities)
        manifest = read_manifest(path_within(path, MANIFEST_FILE), meta, most)
        chips = column(manifest, "chip")
        if (chips != np.arange(len(chips))).any():
            raise DataError(
                f"{path / MANIFEST_FILE}: chip {chips[chips != np.arange(len(chips))][0]} is not "
                "the number of its row: ingest again"
            )
        return cls(path, meta, manifest)

    def _check_patches(self) -> None:
        """Raise DataError if a pixel sample's patch is not all within the arrays."""
        side = self.meta.patch_px
        rows = min(len(array) for array in self._arrays)
        wide = (self._strides >= side) & (self._strides < rows + side)
        inside = (self._offsets >= 0) & (self._offsets < rows) & wide
        # The second factor is bounded, so that nothing overflows.
        last = self._offsets + (side - 1) * (np.minimum(self._strides, rows + side) + 1)
        inside &= last < rows
        if not inside.all():
            chip = int(np.flatnonzero(~inside)[0])
            raise DataError(
                f"{self.path / MANIFEST_FILE}: the patch of chip {chip} (offset "
                f"{self._offsets[chip]}, stride {self._strides[chip]}) is not within the {rows} "
                "pixels of the store: ingest again"
            )

    def __len__(self) -> int:
        return int(self.manifest.num_rows)

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        return list(self.meta.classes)

    @property
    def num_bands(self) -> int:
        """Bands over all modalities."""
        return sum(len(modality.bands) for modality in self.meta.modalities)

    @property
    def chip_px(self) -> int:
        """Side of a chip, or of a pixel's patch."""
        return self.meta.chip_px

    def with_modalities(self, names: Sequence[str]) -> Store:
        """Return this store with these of its modalities only, in this order."""
        own = {modality.name: modality for modality in self.meta.modalities}
        if list(names) == list(own):
            return self
        modalities = [own[name] for name in names]
        return Store(
            self.path, self.meta.model_copy(update={"modalities": modalities}), self.manifest
        )

    def take(self, chips: NDArray[np.int64] | Sequence[int]) -> list[NDArray[Any]]:
        """Copy samples out of the memory maps.

        Parameters
        ----------
        chips : int64 [n]
            Values of the manifest's column ``chip``, in any order, repeats allowed.

        Returns
        -------
        list of arrays (n, C, H, W)
            One per modality, in the order of ``meta.modalities`` and in native dtype.

        Raises
        ------
        DataError
            A chip is not in the store.
        """
        rows = self._rows(chips)
        arrays = [array.take(rows.reshape(-1)) for array in self._arrays]
        return [self._samples(values, rows) for values in arrays]

    def take_validity(
        self, chips: NDArray[np.int64] | Sequence[int]
    ) -> list[NDArray[np.uint8] | None]:
        """Copy the validity layers of samples.

        Parameters
        ----------
        chips : int64 [n]
            As in :meth:`take`.

        Returns
        -------
        list of uint8 (n, C, H, ⌈W / 8⌉) or None
            One per modality, packed as :mod:`data_prep.validity` says; None where there is no
            layer.
        """
        rows = self._rows(chips)
        return [
            None if layer is None else self._sample_bits(layer, rows, array.row_shape[-1])
            for layer, array in zip(self._layers, self._arrays, strict=True)
        ]

    def valid(
        self, chips: NDArray[np.int64] | Sequence[int], samples: Sequence[NDArray[Any]]
    ) -> list[NDArray[np.bool_]]:
        """Mark the values of samples that are data: masks of the shapes of ``samples``.

        ``samples`` are those that :meth:`take` returned for the same chips.
        """
        masks = []
        layers = self.take_validity(chips)
        for values, bits, meta in zip(samples, layers, self.meta.modalities, strict=True):
            mask = valid_mask(values, meta.nodata)
            masks.append(mask if bits is None else mask & unpack(bits, values.shape[-1]))
        return masks

    def _rows(self, chips: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """Return the rows of the arrays that samples are made of: [n], or [n, P, P] of patches."""
        chips = np.asarray(chips, np.int64)
        if len(chips) and (chips.min() < 0 or chips.max() >= len(self)):
            wrong = chips[(chips < 0) | (chips >= len(self))][0]
            raise DataError(f"chip {wrong} is not in {self.path}, which holds {len(self)}")
        if not self._pixels:
            return chips
        # Patches overlap, so the store has each padded pixel once, row after row of the scene. A
        # pixel sample is the array row of its patch's top left corner, and the scene's width.
        side = np.arange(self.meta.patch_px)
        down = self._strides[chips, None, None] * side[:, None]
        rows: NDArray[np.int64] = self._offsets[chips, None, None] + down + side
        return rows

    def _samples(self, values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Bring what was read of rows to samples: pixels (n, P, P, C) to bands (n, C, P, P)."""
        if not self._pixels:
            return values
        patches = values.reshape(*rows.shape, *values.shape[1:])
        return np.ascontiguousarray(np.moveaxis(patches, -1, 1))

    def _sample_bits(
        self, layer: ShardedArray, rows: NDArray[np.int64], width: int
    ) -> NDArray[np.uint8]:
        bits = layer.take(rows.reshape(-1))
        if not self._pixels:
            return bits
        # bits of a pixel's bands become those of a line of pixels, as chips have them
        return pack(self._samples(unpack(bits, width), rows))

    def band_sums(self, chips: NDArray[np.int64]) -> list[BandSums]:
        """Add up the valid values of samples, one result per modality.

        A pixel sample counts without the rest of its patch. Values are as stored, without scale
        and offset.
        """
        rows = np.asarray(chips, np.int64)
        if self._pixels:
            radius = self.meta.patch_px // 2
            rows = self._offsets[rows] + radius * (self._strides[rows] + 1)
        return [
            band_sums(array, rows, modality.nodata, layer)
            for array, layer, modality in zip(
                self._arrays, self._layers, self.meta.modalities, strict=True
            )
        ]
