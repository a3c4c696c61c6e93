from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data_prep.dataset import WHOLE_SITE, Samples, open_data
from data_prep.manifest import column
from data_prep.partition import partition
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError


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


def test_a_store_is_a_data_set_of_one_site(scenes_store: Store) -> None:
    data = open_data(scenes_store.path)
    assert data.sites == [WHOLE_SITE]
    assert data.name == "archive"
    assert (data.store.num_bands, data.store.chip_px) == (4, 8)
    chips, labels = data.site(0).split("train")
    assert chips.dtype == labels.dtype == np.int64
    split = column(scenes_store.manifest, "split")
    np.testing.assert_array_equal(chips, np.flatnonzero(split == "train"))
    with pytest.raises(DataError, match="has no site 1"):
        data.site(1)
    with pytest.raises(SettingError, match="'tset' is not one of"):
        data.site(WHOLE_SITE).split("tset")


def test_a_digest_tells_data_apart_wherever_they_are(scenes_store: Store, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(scenes_store.path, store)
    assert open_data(store).digest() == open_data(scenes_store.path).digest()
    how = {"a": (2, 0), "b": (2, 0), "seed": (2, 1), "sites": (3, 0)}
    for name, (sites, seed) in how.items():
        partition(store, tmp_path / name, sites=sites, scheme="iid", seed=seed)
    digests = {name: open_data(tmp_path / name).digest() for name in how}
    assert digests["a"] == digests["b"]
    assert len({*digests.values(), open_data(store).digest()}) == 4
    (modality, *_) = open_data(store).store.meta.modalities
    assert open_data(store, [modality.name]).digest() == open_data(store).digest()


def test_open_data_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither meta.json nor partition.json"):
        open_data(tmp_path)
