"""The manifest as a file: columns in their order, and what reading it must not load."""

from __future__ import annotations

import subprocess
import sys
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
from rsdgc.errors import DataError


def columns_of(types: dict[str, pa.DataType], count: int = 3) -> Columns:
    return {
        name: text_column(f"{name}-0", count) if pa.types.is_string(kind) else np.arange(count)
        for name, kind in types.items()
    }


@pytest.mark.parametrize("types", [CHIP_COLUMNS, PIXEL_COLUMNS], ids=["chips", "pixels"])
def test_columns_come_back_in_their_order_and_types(
    tmp_path: Path, types: dict[str, pa.DataType]
) -> None:
    columns = columns_of(types)
    write_manifest(tmp_path / "m.parquet", dict(reversed(columns.items())))
    table = read_manifest(tmp_path / "m.parquet")
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == types
    assert table.schema.names == list(types)
    for name, values in columns.items():
        assert column(table, name).tolist() == values.tolist()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"chip": [0], "label": [1]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="has no column split: ingest or partition again"):
        read_manifest(tmp_path / "m.parquet")


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
