from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from data_prep.dataset import WHOLE_SITE, open_data
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError


@pytest.fixture
def copy(scenes_store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes_store.path, tmp_path / "store"))


def edit(path: Path, **changes: object) -> None:
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | changes))


def test_missing_folders_and_files_are_named(copy: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder"):
        Store.open(copy / "nowhere")
    (copy / "optical-000.npy").rename(copy / "gone")
    with pytest.raises(DataError, match=r"optical-000.npy is missing"):
        Store.open(copy)
    (copy / "gone").rename(copy / "optical-000.npy")
    (copy / "manifest.parquet").rename(copy / "gone")
    with pytest.raises(DataError, match=r"manifest.parquet is missing"):
        Store.open(copy)
    (copy / "manifest.parquet").write_text("no")
    with pytest.raises(DataError, match=r"not a Parquet file"):
        Store.open(copy)
    (copy / "meta.json").unlink()
    with pytest.raises(DataError, match=r"has no meta.json"):
        Store.open(copy)


def test_a_cut_shard_is_refused(copy: Path) -> None:
    path = copy / "optical-000.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut short"):
        Store.open(copy)


def test_other_versions_and_broken_records_are_refused(copy: Path) -> None:
    edit(copy, schema_version=99)
    with pytest.raises(DataError, match="schema version 99, this program reads 1"):
        Store.open(copy)
    edit(copy, schema_version=1, classes=3)
    with pytest.raises(DataError, match="classes"):
        Store.open(copy)
    (copy / "meta.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        Store.open(copy)


def test_take_gives_the_source_s_pixels_in_any_order(scenes_store: Store) -> None:
    archive = scenes_store.path.parent / "archive"
    chips = np.array([5, 0, len(scenes_store) - 1, 5])
    (values,) = scenes_store.take(chips)
    assert values.shape == (4, 4, 8, 8)
    assert values.dtype == np.uint16
    table = scenes_store.manifest.to_pydict()
    for chip, got in zip(chips, values, strict=True):
        window = rasterio.windows.Window(table["col"][chip], table["row"][chip], 8, 8)
        with rasterio.open(archive / table["scene"][chip] / "optical.tif") as source:
            np.testing.assert_array_equal(got, source.read(window=window))


def test_take_refuses_chips_that_are_not_there(scenes_store: Store) -> None:
    for chip in (-1, len(scenes_store)):
        with pytest.raises(DataError, match=f"chip {chip} is not in"):
            scenes_store.take([chip])
    assert scenes_store.take([])[0].shape == (0, 4, 8, 8)


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


def test_open_data_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither meta.json nor partition.json"):
        open_data(tmp_path)
