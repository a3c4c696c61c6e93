from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data_prep.dataset import open_data
from data_prep.samples import Samples
from data_prep.store import Store
from rsdgc.errors import DataError


def test_a_torch_loader_takes_whole_batches(scenes_store: Store) -> None:
    chips, labels = open_data(scenes_store.path).site(0).split("train")
    samples = Samples(scenes_store, chips, labels)
    loader = DataLoader(samples, batch_size=50, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
    batches = list(loader)
    assert sum(len(y) for _, y in batches) == len(samples) == len(chips)
    np.testing.assert_array_equal(
        np.concatenate([x[0] for x, _ in batches]), scenes_store.take(chips)[0]
    )
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels)
    (one,), label = samples[3]
    np.testing.assert_array_equal(one, scenes_store.take(chips[3:4])[0])
    assert label.tolist() == [labels[3]]


def test_lengths_must_agree(scenes_store: Store) -> None:
    with pytest.raises(DataError, match="2 chips have 1 labels"):
        Samples(scenes_store, np.arange(2), np.arange(1))
