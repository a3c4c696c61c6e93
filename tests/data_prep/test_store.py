from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from data_prep.store import Store
from rsdgc.errors import DataError


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
    with pytest.raises(DataError, match="schema version 99, this version of rsdgc reads 2"):
        Store.open(copy)
    edit(copy, schema_version=2, classes=3)
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


def test_take_of_no_samples_returns_empty_arrays(pixels_store: Store) -> None:
    side, bands = pixels_store.chip_px, pixels_store.num_bands
    assert [values.shape for values in pixels_store.take([])] == [(0, bands, side, side)]


def test_take_refuses_chips_that_are_not_there(scenes_store: Store) -> None:
    for chip in (-1, len(scenes_store)):
        with pytest.raises(DataError, match=f"chip {chip} is not in"):
            scenes_store.take([chip])
    assert scenes_store.take([])[0].shape == (0, 4, 8, 8)
