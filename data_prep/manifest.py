"""The manifest: one row per sample, as named NumPy columns and as a Parquet table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsdgc.errors import DataError

#: Columns by name; all of one length. See ``docs/data.md`` for what each holds.
Columns = dict[str, NDArray[Any]]

MANIFEST_FILE = "manifest.parquet"
#: Types of the columns, in their order.
CHIP_COLUMNS: dict[str, Any] = {
    "chip": pa.int64(),
    "label": pa.int32(),
    "split": pa.string(),
    "scene": pa.string(),
    "folder": pa.string(),
    "row": pa.int32(),
    "col": pa.int32(),
    "x": pa.float64(),
    "y": pa.float64(),
    "crs": pa.string(),
    "block": pa.string(),
    "valid": pa.float32(),
    "hash": pa.string(),
}
PIXEL_COLUMNS: dict[str, Any] = {**CHIP_COLUMNS, "offset": pa.int64(), "stride": pa.int32()}
#: Columns that not every manifest has.
OPTIONAL_COLUMNS: dict[str, Any] = {"date": pa.string(), "geometry": pa.binary()}


def join_columns(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Columns:
    """Concatenate parts that have the same columns."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def text_column(value: str, count: int) -> NDArray[Any]:
    """Return a column that repeats one text."""
    return np.full(count, value, dtype=object)


def write_manifest(
    path: Path, columns: Mapping[str, NDArray[Any]], geo: bytes | None = None
) -> None:
    """Write columns as Parquet, in the order and with the types that stores have.

    ``geo`` is GeoParquet's metadata for the column ``geometry``. It is an argument because its
    making loads PROJ, which a process that only reads manifests has no use for.
    """
    types = PIXEL_COLUMNS if "offset" in columns else CHIP_COLUMNS
    types = types | {name: kind for name, kind in OPTIONAL_COLUMNS.items() if name in columns}
    table = pa.table({name: pa.array(columns[name], type=kind) for name, kind in types.items()})
    if geo is not None:
        table = table.replace_schema_metadata({"geo": geo})
    pq.write_table(table, path, compression="zstd")


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest of a store or of a site; DataError where it is not (all of) one."""
    if not path.is_file():
        raise DataError(f"{path} is missing: ingest or partition again")
    try:
        # pq.read_table would import pyarrow.dataset, which costs each site's process time
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file: ingest or partition again") from error
    missing = [name for name in CHIP_COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{path} has no column {missing[0]}: ingest or partition again")
    return table


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """Return a table's column as a NumPy array (texts as objects)."""
    values: NDArray[Any] = table.column(name).to_numpy()
    return values
