"""The manifest as a file: columns in their order, and what reading it must not load."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.manifest import (
    CHIP_COLUMNS,
    PIXEL_COLUMNS,
    Columns,
    column,
    read_manifest,
    text_column,
    write_manifest,
)
from data_prep.store import Store
from rsdgc.errors import DataError

Spoil = Callable[[Store], pa.Table]


def columns_of(types: dict[str, pa.DataType], count: int = 3) -> Columns:
    return {
        name: text_column("test" if name == "split" else f"{name}-0", count)
        if pa.types.is_string(kind)
        else np.arange(count)
        for name, kind in types.items()
    }


@pytest.mark.parametrize("kind", ["chips", "pixels"])
def test_columns_come_back_in_their_order_and_types(
    tmp_path: Path, kind: str, scenes_store: Store, pixels_store: Store
) -> None:
    types = CHIP_COLUMNS if kind == "chips" else PIXEL_COLUMNS
    store = scenes_store if kind == "chips" else pixels_store
    columns = columns_of(types, 2)
    write_manifest(tmp_path / "m.parquet", dict(reversed(columns.items())))
    table = read_manifest(tmp_path / "m.parquet", store.meta, 2)
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == types
    assert table.schema.names == list(types)
    for name, values in columns.items():
        assert column(table, name).tolist() == values.tolist()


def test_a_missing_column_is_named(tmp_path: Path, scenes_store: Store) -> None:
    pq.write_table(pa.table({"chip": [0], "label": [1]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="has no column split: ingest or partition again"):
        read_manifest(tmp_path / "m.parquet", scenes_store.meta, 1)


def changed(store: Store, name: str, values: pa.Array) -> pa.Table:
    table = store.manifest
    return table.set_column(table.column_names.index(name), name, values)


def first(name: str, value: object) -> Spoil:
    """Another value of the first sample."""

    def spoil(store: Store) -> pa.Table:
        values = store.manifest.column(name).to_pylist()
        kind = store.manifest.schema.field(name).type
        return changed(store, name, pa.array([value, *values[1:]], type=kind))

    return spoil


def labels(value: object) -> Spoil:
    return lambda store: changed(store, "label", pa.array([value] * len(store)))


SPOILT: dict[str, tuple[Spoil, str]] = {
    "label below": (first("label", -1), "label -1 is not from 0 to 2"),
    "label above": (first("label", 3), "label 3 is not from 0 to 2"),
    "chip above": (first("chip", 2**40), r"chip \d+ is not from 0 to"),
    "chip": (first("chip", 1), "chip 1 is not the number of its row"),
    "split": (first("split", "tset\x1b[31m"), r"split 'tset\\x1b\[31m' is not one of"),
    "null": (first("scene", None), "column scene lacks 1 values"),
    "label as text": (labels("1"), "column label is string and not int32"),
    "label beyond its type": (labels(2**40), "column label does not fit int32"),
    "label as list": (labels([1]), "column label is list"),
    "label as fraction": (labels(0.5), "column label is double and not int32"),
    "two columns": (
        lambda store: store.manifest.append_column("chip", store.manifest.column("chip")),
        "two columns chip",
    ),
    "too many rows": (
        lambda store: pa.concat_tables([store.manifest] * 2),
        r"rows for the store's \d+ chips",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_a_store_does_not_have_is_named(
    kind: str, tmp_path: Path, scenes_store: Store
) -> None:
    path = Path(shutil.copytree(scenes_store.path, tmp_path / "store"))
    spoil, reason = SPOILT[kind]
    pq.write_table(spoil(scenes_store), path / "manifest.parquet")
    with pytest.raises(DataError, match=reason) as caught:
        Store.open(path)
    text = str(caught.value)
    assert "manifest.parquet" in text
    assert text.endswith("again")
    assert "\n" not in text


def test_texts_that_are_not_utf_8_are_refused(tmp_path: Path, scenes_store: Store) -> None:
    data = scenes_store.manifest.column("scene").combine_chunks()
    buffers = [buffer and buffer.to_pybytes() for buffer in data.buffers()]
    content = pa.py_buffer(b"\xff" + buffers[2][1:])
    broken = pa.Array.from_buffers(
        pa.string(), len(data), [None, pa.py_buffer(buffers[1]), content]
    )
    pq.write_table(changed(scenes_store, "scene", broken), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="column scene is damaged"):
        read_manifest(tmp_path / "m.parquet", scenes_store.meta, len(scenes_store))


def test_rows_that_are_large_before_compression_are_not_read(
    tmp_path: Path, scenes_store: Store
) -> None:
    """Some kilobytes on the disk, 37 MB in memory."""
    count = len(scenes_store)
    bomb = pa.array(["x" * 2**16] * count, pa.large_string())
    pq.write_table(
        changed(scenes_store, "scene", bomb),
        tmp_path / "m.parquet",
        compression="zstd",
        use_dictionary=False,
    )
    del bomb
    assert (tmp_path / "m.parquet").stat().st_size < 2**20
    with pytest.raises(DataError, match="bytes before compression"):
        read_manifest(tmp_path / "m.parquet", scenes_store.meta, count)


@pytest.mark.parametrize(
    ("name", "value"),
    [("offset", -1), ("offset", 2**62), ("stride", 0), ("stride", -5), ("stride", 2**31 - 1)],
)
def test_patches_beyond_the_pixels_are_refused(
    name: str, value: int, tmp_path: Path, pixels_store: Store
) -> None:
    path = Path(shutil.copytree(pixels_store.path, tmp_path / "store"))
    values = column(pixels_store.manifest, name).copy()
    values[7] = value
    wrong = pa.array(values, pixels_store.manifest.schema.field(name).type)
    pq.write_table(changed(pixels_store, name, wrong), path / "manifest.parquet")
    with pytest.raises(DataError, match=rf"the patch of chip 7 .*{name} {value}\b"):
        Store.open(path)


def test_a_site_s_process_loads_no_gis_libraries() -> None:
    """Each of a run's processes opens a data set; GDAL and PROJ would cost it time and memory."""
    script = "import sys, data_prep.dataset, data_prep.common_statistics; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "pyarrow" in loaded
    assert not loaded & {"rasterio", "shapely", "pyogrio", "pyproj", "torch"}
    assert "pyarrow.dataset" not in run.stdout.split()
