"""Samples of a store as a map-style data set that gives whole batches at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.store import Store

#: One array (n, C, h, w) a modality, and the labels, int64 [n].
Batch = tuple[list["NDArray[Any]"], "NDArray[np.int64]"]


class Samples:
    """Chips and labels, a batch at a time: what a torch DataLoader takes without workers.

    ::

        samples = Samples(store, *data.site("site-00").split("train"))
        loader = DataLoader(samples, batch_size=256, shuffle=True, collate_fn=lambda batch: batch)

    PyTorch asks for a batch by ``__getitems__`` and gives what it gets to ``collate_fn``: nothing
    is cut in samples and joined again, and nothing goes from process to process.

    Parameters
    ----------
    store
        Where the chips are.
    chips, labels : int64 [n]
        As :meth:`data_prep.dataset.SiteView.split` gives them.
    """

    def __init__(
        self,
        store: Store,
        chips: NDArray[np.int64],
        labels: NDArray[np.int64],
    ) -> None:
        if len(chips) != len(labels):
            raise DataError(f"{len(chips)} chips have {len(labels)} labels: give one each")
        self.store = store
        self.chips = np.asarray(chips, np.int64)
        self.labels = np.asarray(labels, np.int64)

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Copy a batch out of the memory map, in native types."""
        some = np.asarray(indices, np.int64)
        return self.store.take(self.chips[some]), self.labels[some]
