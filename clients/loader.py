"""Batches of a split of a site's chips, from a cache on the device or streamed to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.normalization import ModalityNormalizer, Normalization, stack_modalities, to_native
from rsdgc.errors import DataError

Chips = list[Tensor | None]
"""A batch as a model takes it: one float32 (B, C, H, W) tensor per input; None if it is missing."""

READ_CHIPS = 256
"""Chips per read when the cache is filled: some tens of MB of host memory for any split."""


def channels_last(chips: Chips) -> Chips:
    """Return chips in the memory format of the model's weights.

    PyTorch would otherwise convert in every layer.
    """
    return [x if x is None else x.contiguous(memory_format=torch.channels_last) for x in chips]


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
    positions, labels : int64 [n]
        Positions of this split's chips in the source, and their class indices.
    normalization : sequence of Normalization
        One per modality, in the source's order.
    device : torch.device
        Where the batches are needed.
    stacked : bool
        Whether a model takes all modalities joined along bands, as one tensor. Otherwise it takes
        one tensor per modality, each at its own resolution.
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
        stacked: bool = True,
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
        self._stacked = stacked
        self._source = source
        self._positions = np.asarray(positions, np.int64)
        self._labels = torch.from_numpy(np.array(labels, np.int64)).to(device)
        first_chip = source.take(self._positions[:1])
        self._normalizers = _normalizers(first_chip, normalization, device)
        chip_bytes = sum(array.nbytes for array in first_chip)
        fits = chip_bytes * len(self) <= cache_share * _free_bytes(device)
        self._cache = self._load_all(first_chip) if fits else None

    def __len__(self) -> int:
        return len(self._positions)

    def check_labels(self, num_classes: int) -> None:
        """Raise :class:`DataError` if a label lies outside the class list."""
        largest = int(self._labels.max())
        if largest >= num_classes:
            raise DataError(
                f"label {largest} is outside the list of {num_classes} classes: "
                "ingest with the full class list, the same for all sites"
            )

    def class_counts(self) -> Tensor:
        """Return the chips of each class up to the largest label, int64, on the device."""
        return torch.bincount(self._labels)

    def batches(
        self, batch_size: int, seed: int | None, *, balanced: bool = False
    ) -> Iterator[tuple[Chips, Tensor]]:
        """Go through the split once.

        A seed makes the order random; without, it is the split's own. The last batch may be
        smaller than the others. If the order is random and ``balanced``, as many chips are drawn
        with replacement, each class with the same probability.

        Yields
        ------
        chips : list of torch.Tensor
            One float32 (B, C, H, W) tensor per input of the model, on the device, normalized: all
            modalities joined along C, or one tensor per modality.
        y : torch.Tensor
            int64 (B,) on the device.
        """
        order = torch.arange(len(self))
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            if balanced:
                order = _balanced_draws(self._labels.cpu(), generator)
            else:
                order = torch.randperm(len(self), generator=generator)
        chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for chunk, stored in zip(chunks, self._stored_chips(chunks), strict=True):
            normalized = [
                normalizer.normalize(pixels)
                for normalizer, pixels in zip(self._normalizers, stored, strict=True)
            ]
            chips: Chips = [stack_modalities(normalized)] if self._stacked else [*normalized]
            yield chips, self._labels[chunk.to(self.device)]

    def _stored_chips(self, chunks: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Yield the chips at each chunk of positions, on the device but as stored, by modality."""
        if self._cache is not None:
            for chunk in chunks:
                index = chunk.to(self.device)
                yield [pixels.index_select(0, index) for pixels in self._cache]
            return

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
        dtypes = [to_native(array, cpu).dtype for array in first_chip]
        cache = [
            torch.empty((len(self), *array.shape[1:]), dtype=dtype, device=self.device)
            for array, dtype in zip(first_chip, dtypes, strict=True)
        ]
        for start in range(0, len(self), READ_CHIPS):
            arrays = self._source.take(self._positions[start : start + READ_CHIPS])
            for pixels, array in zip(cache, arrays, strict=True):
                pixels[start : start + len(array)].copy_(to_native(array, cpu))
        return cache


def _balanced_draws(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many positions as there are labels: a class that occurs, then a chip of it."""
    counts = torch.bincount(labels)
    by_class, starts = torch.argsort(labels, stable=True), counts.cumsum(0) - counts
    classes = counts.nonzero().flatten()
    drawn = classes[torch.randint(len(classes), labels.shape, generator=generator)]
    # float64: the 24 bits of a float32 would not reach every chip of a large class.
    share = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
    return by_class[starts[drawn] + (share * counts[drawn]).long()]


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
    # Includes the page cache, which the system gives up when memory is needed.
    free = int(psutil.virtual_memory().available)
    try:
        # A container's own limit counts, not its host's memory.
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return free
