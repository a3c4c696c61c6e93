"""A split of a site's chips, held on the device or streamed to it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from clients.normalization import ModalityNormalizer, Normalization, stack_modalities, to_native
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["ChipSource", "Normalization", "SplitLoader"]

_LOAD_CHIPS = 256


class ChipSource(Protocol):
    """Whatever gives chips by their position: a store on disk, arrays in memory."""

    def take(self, positions: NDArray[np.int64], /) -> list[NDArray[Any]]:
        """Return one (n, C, H, W) array a modality, in native type, for n positions."""
        ...


class SplitLoader:
    """A split of a site's chips as batches on the device.

    When the whole split in its native type fits into `cache_share` of the memory that is free on
    the device, it is read once and stays there. Else every batch is read from the source by one
    thread that is one batch ahead.

    Parameters
    ----------
    source : ChipSource
        Where the chips are.
    positions : int64 [n]
        Of this split in the source.
    labels : int64 [n]
        Class indices.
    normalization : sequence of Normalization
        One a modality, in the source's order.
    device : torch.device
        Where batches are wanted.
    cache_share : float
        Share of the device's free memory that the split may take; 0 to stream always.

    Raises
    ------
    DataError
        No sample, or positions, labels, modalities and bands that do not go together.
    """

    def __init__(
        self,
        source: ChipSource,
        positions: NDArray[np.int64],
        labels: NDArray[np.int64],
        normalization: Sequence[Normalization],
        device: torch.device,
        *,
        cache_share: float = 0.5,
    ) -> None:
        if len(positions) == 0:
            raise DataError(
                "a site's split has no samples: use fewer sites, a larger alpha or another scheme"
            )
        if len(positions) != len(labels):
            raise DataError(f"{len(positions)} chips have {len(labels)} labels: ingest them anew")
        if int(np.min(labels)) < 0:
            raise DataError(f"label {int(np.min(labels))} is no class index: they start at 0")
        self.device = device
        self._source = source
        self._positions = np.asarray(positions, np.int64)
        self._labels = np.array(labels, np.int64)
        probe = source.take(self._positions[:1])
        self._modalities = _modalities(probe, normalization, device)
        chip_bytes = sum(array.nbytes for array in probe)
        fits = chip_bytes * len(self) <= cache_share * _free_bytes(device)
        self._cache = self._load(probe) if fits else None
        self._labels_on_device = torch.from_numpy(self._labels).to(device)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def cached(self) -> bool:
        """Whether the split is held on the device."""
        return self._cache is not None

    @property
    def num_bands(self) -> int:
        """Channels of a batch: the bands of all modalities."""
        return sum(modality.bands for modality in self._modalities)

    def check_labels(self, num_classes: int) -> None:
        """Raise :class:`DataError` if a label lies outside the class list."""
        largest = int(self._labels.max())
        if largest >= num_classes:
            raise DataError(
                f"label {largest} is outside the list of {num_classes} classes: "
                "ingest with the full class list, the same for all sites"
            )

    def batches(self, batch_size: int, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the split once.

        Parameters
        ----------
        batch_size : int
            Chips a batch; the last one may have fewer.
        seed : int or None
            Of the random order; None for the split's own order.

        Yields
        ------
        x : torch.Tensor
            float32 (B, C, H, W) on the device, normalised, modalities joined along C.
        y : torch.Tensor
            int64 (B,) on the device.
        """
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        chunks = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        natives = self._from_source(chunks) if self._cache is None else self._from_cache(chunks)
        for chunk, native in zip(chunks, natives, strict=True):
            x = stack_modalities(
                [m.normalise(part) for m, part in zip(self._modalities, native, strict=True)]
            )
            yield x, self._labels_on_device[chunk.to(self.device)]

    def _from_cache(self, chunks: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        assert self._cache is not None
        for chunk in chunks:
            index = chunk.to(self.device)
            yield [part.index_select(0, index) for part in self._cache]

    def _from_source(self, chunks: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        def read(chunk: Tensor) -> list[Tensor]:
            taken = self._source.take(self._positions[chunk.numpy()])
            return [to_native(array, self.device) for array in taken]

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="chips") as reader:
            ahead = reader.submit(read, chunks[0])
            for chunk in chunks[1:]:
                ready, ahead = ahead.result(), reader.submit(read, chunk)
                yield ready
            yield ahead.result()

    def _load(self, probe: list[NDArray[Any]]) -> list[Tensor]:
        cache = [
            torch.empty((len(self), *array.shape[1:]), dtype=native.dtype, device=self.device)
            for array in probe
            for native in [to_native(array[:1], torch.device("cpu"))]
        ]
        for start in range(0, len(self), _LOAD_CHIPS):
            taken = self._source.take(self._positions[start : start + _LOAD_CHIPS])
            for whole, array in zip(cache, taken, strict=True):
                whole[start : start + len(array)].copy_(to_native(array, torch.device("cpu")))
        return cache


def _modalities(
    probe: Sequence[NDArray[Any]], normalization: Sequence[Normalization], device: torch.device
) -> list[ModalityNormalizer]:
    if len(probe) != len(normalization):
        raise DataError(
            f"{len(probe)} modalities have {len(normalization)} normalisations: ingest them anew"
        )
    made = []
    for array, one in zip(probe, normalization, strict=True):
        modality = ModalityNormalizer(array.dtype, one, device)
        if array.ndim != 4 or array.shape[1] != modality.bands:
            raise DataError(
                f"chips of shape {array.shape[1:]} do not fit statistics of {modality.bands} "
                "bands: ingest them anew"
            )
        made.append(modality)
    return made


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        # A container's own limit counts, not its host's memory.
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return free
