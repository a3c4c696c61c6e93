"""Batches of a split of a site's chips, from a cache on the device or streamed to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.device_memory import free_bytes
from clients.normalization import ModalityNormalizer, Normalization, stack_modalities, to_native
from clients.transfers import BatchCopier, send
from rsdgc.errors import DataError

Batch = TypeVar("Batch")

_log = logging.getLogger(__name__)

Chips = list[Tensor | None]
"""A batch as a model takes it: one float32 (B, C, H, W) tensor per input; None if it is missing."""

READ_CHIPS = 256
"""Chips per read when the cache is filled: some tens of MB of host memory for any split."""


class ChipSource(Protocol):
    """Anything that returns chips by position, such as a store on disk or arrays in memory."""

    def take(self, positions: NDArray[np.int64], /) -> list[NDArray[Any]]:
        """Return one (n, C, H, W) array per modality, as stored, for n positions."""
        ...

    def take_validity(self, positions: NDArray[np.int64], /) -> list[NDArray[np.uint8] | None]:
        """Return which values are data, per modality; None where the values themselves say it.

        Bits uint8 (n, C, H, ⌈W / 8⌉), 1 for data, the first pixel of a line in the highest bit.
        """
        ...


class SplitLoader:
    """Loads a split of a site's chips as batches on the device.

    If the whole split, in its stored type, fits into `cache_bytes`, it is read once and stays on
    the device. Otherwise a thread reads every batch from the source, one batch ahead, and on a GPU
    the batch is copied while the GPU computes on the one before.

    Parameters
    ----------
    source : ChipSource
        Where the chips are.
    positions, labels : int64 [n]
        Positions of this split's chips in the source, and their class indices.
    normalization : sequence of Normalization
        One per modality of the source, in its order.
    device : torch.device
        Where the batches are needed.
    stacked : bool
        Whether a model takes all modalities joined along bands, as one tensor. Otherwise it takes
        one tensor per modality, each at its own resolution.
    centered : bool
        Whether a label is that of a chip's central pixel, as in hyperspectral scenes.
    present : sequence of bool, optional
        For each modality that a model takes as a tensor of its own: whether the source has it. All
        by default.
    cache_bytes : int, optional
        Bytes of the device's memory that the split may take; 0 to stream always. By default half
        of what is free.

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
        centered: bool = False,
        present: Sequence[bool] | None = None,
        cache_bytes: int | None = None,
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
        self.centered = centered
        self._stacked = stacked
        self._present = [True] * len(normalization) if present is None else list(present)
        self._source = source
        self._positions = np.asarray(positions, np.int64)
        self._host_labels = np.array(labels, np.int64)
        self._labels = torch.from_numpy(self._host_labels).to(device)
        first_chip = source.take(self._positions[:1])
        layers = source.take_validity(self._positions[:1])
        self._masked = [bits is not None for bits in layers]
        self._normalizers = _normalizers(first_chip, normalization, device)
        if sum(self._present) != len(first_chip):
            raise DataError(f"{len(first_chip)} modalities are read for the inputs {present}")
        first_chip += [bits for bits in layers if bits is not None]
        chip_bytes = sum(array.nbytes for array in first_chip)
        if cache_bytes is None:
            cache_bytes = free_bytes(device) // 2
        self._cache: list[Tensor] | None = None
        if chip_bytes * len(self) <= cache_bytes:
            try:
                self._cache = self._load_all(first_chip)
            except torch.OutOfMemoryError:  # another process may have taken it meanwhile
                _log.warning("%s has no memory for %d chips: streaming them", device, len(self))

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def cached_bytes(self) -> int:
        """Memory that the split's chips take on the device; 0 if they are streamed."""
        return sum(pixels.nbytes for pixels in self._cache or ())

    def check_labels(self, num_classes: int) -> None:
        """Raise :class:`DataError` if a label lies outside the class list."""
        largest = int(self._host_labels.max())
        if largest >= num_classes:
            raise DataError(
                f"label {largest} is outside the list of {num_classes} classes: "
                "ingest with the full class list, the same for all sites"
            )

    def class_counts(self) -> Tensor:
        """Return the chips of each class up to the largest label, int64, on the device."""
        return send(torch.from_numpy(np.bincount(self._host_labels)), self.device)

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
            modalities joined along C, or one tensor per modality, None if the site lacks it.
        y : torch.Tensor
            int64 (B,) on the device.
        """
        order = self._order(seed, balanced=balanced)
        index = send(torch.from_numpy(order), self.device)  # once an epoch, not once a step
        for chunk, stored in zip(
            torch.split(index, batch_size),
            self._stored_chips(order, index, batch_size),
            strict=True,
        ):
            layers = iter(stored[len(self._normalizers) :])
            normalized = [
                normalizer.normalize(pixels, next(layers) if masked else None)
                for normalizer, pixels, masked in zip(
                    self._normalizers, stored, self._masked, strict=False
                )
            ]
            if self._stacked:
                chips: Chips = [stack_modalities(normalized)]
            else:
                own = iter(normalized)
                chips = [next(own) if present else None for present in self._present]
            yield chips, self._labels.index_select(0, chunk)

    def _order(self, seed: int | None, *, balanced: bool) -> NDArray[np.int64]:
        """Return the order of an epoch: drawn on the CPU, the same whatever the device."""
        if seed is None:
            return np.arange(len(self))
        generator = torch.Generator().manual_seed(seed)
        if balanced:
            return np.asarray(_balanced_draws(torch.from_numpy(self._host_labels), generator))
        return np.asarray(torch.randperm(len(self), generator=generator))

    def _stored_chips(
        self, order: NDArray[np.int64], index: Tensor, batch_size: int
    ) -> Iterator[list[Tensor]]:
        """Yield the chips of each batch, on the device but as stored, by modality.

        After them come the validity layers of those that have one. ``index`` is the order on the
        device.
        """
        if self._cache is not None:
            for chunk in torch.split(index, batch_size):
                yield [pixels.index_select(0, chunk) for pixels in self._cache]
            return
        chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

        def read(chunk: NDArray[np.int64]) -> list[Tensor]:
            return [to_native(array) for array in self._read(self._positions[chunk])]

        if self.device.type == "cuda":
            copier = BatchCopier(self.device)
            for batch in _one_ahead(lambda chunk: copier.send(read(chunk)), chunks):
                yield copier.receive(*batch)
        else:
            yield from _one_ahead(read, chunks)

    def _read(self, positions: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Read chips by modality, and then the validity layers of those that have one."""
        chips = self._source.take(positions)
        if any(self._masked):
            chips += [b for b in self._source.take_validity(positions) if b is not None]
        return chips

    def _load_all(self, first_chip: list[NDArray[Any]]) -> list[Tensor]:
        dtypes = [to_native(array).dtype for array in first_chip]
        cache = [
            torch.empty((len(self), *array.shape[1:]), dtype=dtype, device=self.device)
            for array, dtype in zip(first_chip, dtypes, strict=True)
        ]
        for start in range(0, len(self), READ_CHIPS):
            arrays = self._read(self._positions[start : start + READ_CHIPS])
            for pixels, array in zip(cache, arrays, strict=True):
                pixels[start : start + len(array)].copy_(to_native(array))
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


def _one_ahead(
    read: Callable[[NDArray[np.int64]], Batch], chunks: Sequence[NDArray[np.int64]]
) -> Iterator[Batch]:
    """Yield what is read of each chunk, while a thread reads the next.

    Reading and copying release the GIL. One batch ahead hides the reading behind the training, and
    a second would only take memory.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="chips") as reader:
        next_batch = reader.submit(read, chunks[0])
        for chunk in chunks[1:]:
            batch, next_batch = next_batch.result(), reader.submit(read, chunk)
            yield batch
        yield next_batch.result()


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
