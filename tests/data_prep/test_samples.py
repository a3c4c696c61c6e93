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


def test_memory_is_used_again_in_turn(scenes_store: Store) -> None:
    chips, labels = open_data(scenes_store.path).site(0).split("train")
    samples = Samples(scenes_store, chips, labels, reused=2)
    first, second = (samples.__getitems__([i, i + 1])[0][0] for i in (0, 2))
    np.testing.assert_array_equal(first, scenes_store.take(chips[:2])[0])
    np.testing.assert_array_equal(second, scenes_store.take(chips[2:4])[0])
    third = samples.__getitems__([9])[0][0]
    assert np.shares_memory(first, third)
    np.testing.assert_array_equal(third, scenes_store.take(chips[9:10])[0])


def test_memory_of_patches_is_used_again_too(pixels_store: Store) -> None:
    chips, labels = open_data(pixels_store.path).site(0).split("train")
    samples = Samples(pixels_store, chips, labels, reused=1)
    first = samples.__getitems__([0, 1, 2])[0][0]
    second = samples.__getitems__([5, 4])[0][0]
    assert np.shares_memory(first, second)
    np.testing.assert_array_equal(second, pixels_store.take(chips[[5, 4]])[0])


def test_lengths_must_agree(scenes_store: Store) -> None:
    with pytest.raises(DataError, match="2 chips have 1 labels"):
        Samples(scenes_store, np.arange(2), np.arange(1))
