"""Batches of a split of a site's chips, from a cache on the device or streamed to it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from clients.normalization import ModalityNormalizer, stack_modalities, to_native
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from clients.normalization import Normalization

READ_CHIPS = 256
"""Chips per read when the cache is filled: some tens of MB of host memory for any split."""


class ChipSource(Protocol):
    """Anything that returns chips by position, such as a store on disk or arrays in memory."""

    def take(self, positions: NDArray[np.int64], /) -> list[NDArray[Any]]:
        """Return one (n, C, H, W) array per modality, as stored, for n positions."""
        ...


class SplitLoader:
    """Loads a split of a site's chips as batches on the device.

    If the whole split, in its stored type, fits into `cache_share` of the device's free memory, it
    is read once and stays there. Otherwise a thread reads every batch from the source, one batch
    ahead.

    Parameters
    ----------
    source : ChipSource
        Where the chips are.
    positions : int64 [n]
        Positions of this split's chips in the source.
    labels : int64 [n]
        Class indices.
    normalization : sequence of Normalization
        One per modality, in the source's order.
    device : torch.device
        Where the batches are needed.
    cache_share : float
        Share of the device's free memory that the split may take; 0 to stream always. The default
        leaves half to the model and to the other split.

    Raises
    ------
    DataError
        There is no sample, or positions, labels, modalities and bands do not match.
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
                "a site's split has no samples: partition the data with fewer sites, a larger "
                "--alpha or another --scheme"
            )
        if len(positions) != len(labels):
            raise DataError(f"{len(positions)} chips have {len(labels)} labels: ingest them again")
        if int(np.min(labels)) < 0:
            raise DataError(
                f"label {int(np.min(labels))} is not a class index: classes are numbered from 0"
            )
        self.device = device
        self._source = source
        self._positions = np.asarray(positions, np.int64)
        self._labels = np.array(labels, np.int64)
        first_chip = source.take(self._positions[:1])
        self._normalizers = _normalizers(first_chip, normalization, device)
        chip_bytes = sum(array.nbytes for array in first_chip)
        fits = chip_bytes * len(self) <= cache_share * _free_bytes(device)
        self._cache = self._load_all(first_chip) if fits else None
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
        return sum(normalizer.bands for normalizer in self._normalizers)

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
            Chips in a batch; the last one may have fewer.
        seed : int or None
            Seed of the random order; None for the split's own order.

        Yields
        ------
        x : torch.Tensor
            float32 (B, C, H, W) on the device, normalized, modalities joined along C.
        y : torch.Tensor
            int64 (B,) on the device.
        """
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        natives = self._from_source(chunks) if self._cache is None else self._from_cache(chunks)
        for chunk, native in zip(chunks, natives, strict=True):
            x = stack_modalities(
                [
                    normalizer.normalize(pixels)
                    for normalizer, pixels in zip(self._normalizers, native, strict=True)
                ]
            )
            yield x, self._labels_on_device[chunk.to(self.device)]

    def _from_cache(self, chunks: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        assert self._cache is not None
        for chunk in chunks:
            index = chunk.to(self.device)
            yield [pixels.index_select(0, index) for pixels in self._cache]

    def _from_source(self, chunks: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        def read(chunk: Tensor) -> list[Tensor]:
            arrays = self._source.take(self._positions[chunk.numpy()])
            return [to_native(array, self.device) for array in arrays]

        # A thread, for reading and copying release the GIL; one batch ahead hides the reading
        # behind the training, and a second would only take memory.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="chips") as reader:
            next_batch = reader.submit(read, chunks[0])
            for chunk in chunks[1:]:
                batch, next_batch = next_batch.result(), reader.submit(read, chunk)
                yield batch
            yield next_batch.result()

    def _load_all(self, first_chip: list[NDArray[Any]]) -> list[Tensor]:
        cpu = torch.device("cpu")
        cache = [
            torch.empty(
                (len(self), *array.shape[1:]),
                dtype=to_native(array, cpu).dtype,
                device=self.device,
            )
            for array in first_chip
        ]
        for start in range(0, len(self), READ_CHIPS):
            arrays = self._source.take(self._positions[start : start + READ_CHIPS])
            for pixels, array in zip(cache, arrays, strict=True):
                pixels[start : start + len(array)].copy_(to_native(array, cpu))
        return cache


def _normalizers(
    first_chip: Sequence[NDArray[Any]], normalization: Sequence[Normalization], device: torch.device
) -> list[ModalityNormalizer]:
    if len(first_chip) != len(normalization):
        raise DataError(
            f"{len(first_chip)} modalities have {len(normalization)} normalizations: "
            "ingest them again"
        )
    normalizers = []
    for array, statistics in zip(first_chip, normalization, strict=True):
        normalizer = ModalityNormalizer(array.dtype, statistics, device)
        if array.ndim != 4 or array.shape[1] != normalizer.bands:
            raise DataError(
                f"chips of shape {array.shape[1:]} do not match statistics of {normalizer.bands} "
                "bands: ingest them again"
            )
        normalizers.append(normalizer)
    return normalizers


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    # MemAvailable also counts the page cache, which the system gives up when memory is needed; a
    # container's own limit counts, not its host's memory.
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return free
