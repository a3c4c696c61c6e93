"""The manifest: one row per sample, as named NumPy columns and as a Parquet table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.schema import SPLITS, StoreMeta
from rsdgc.documents import shorten
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
#: Most bytes that a sample's row may take, before compression: a footprint takes a hundred.
MAX_ROW_BYTES = 2**14
#: What a manifest takes beyond its rows.
MAX_EXTRA_BYTES = 2**24

_REMEDY = "ingest or partition again"


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


def read_manifest(path: Path, store: StoreMeta, num_chips: int) -> pa.Table:
    """Read a manifest of a store or of a site.

    Parameters
    ----------
    path
        The file.
    store
        The store whose chips the manifest names.
    num_chips
        Chips of the store, of which a site may have fewer.

    Raises
    ------
    DataError
        The file is not (all of) a manifest, or names chips, labels or splits that do not exist.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: {_REMEDY}")
    try:
        table = _read_table(path, num_chips)
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path} is not a Parquet file: {_REMEDY}") from error
    types = PIXEL_COLUMNS if store.kind == "pixels" else CHIP_COLUMNS
    for name in types:
        if name not in table.column_names:
            raise DataError(f"{path} has no column {name}: {_REMEDY}")
    columns = {
        name: _checked_column(path, table, name, kind)
        for name, kind in (types | OPTIONAL_COLUMNS).items()
        if name in table.column_names
    }
    checked = pa.table(columns, metadata=table.schema.metadata)
    _check_range(path, checked, "chip", num_chips)
    _check_range(path, checked, "label", len(store.classes))
    unknown = set(column(checked, "split").tolist()) - set(SPLITS)
    if unknown:
        name = shorten(min(unknown))
        raise DataError(f"{path}: split {name} is not one of {', '.join(SPLITS)}: {_REMEDY}")
    return checked


def _read_table(path: Path, num_chips: int) -> pa.Table:
    # pq.read_table would import pyarrow.dataset, which costs each site's process time
    file = pq.ParquetFile(path)
    facts = file.metadata
    if facts.num_rows > num_chips:
        raise DataError(
            f"{path} has {facts.num_rows} rows for the store's {num_chips} chips: {_REMEDY}"
        )
    unpacked = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    most = MAX_EXTRA_BYTES + MAX_ROW_BYTES * facts.num_rows
    if unpacked > most:
        raise DataError(
            f"{path} has {unpacked} bytes before compression, and at most {most} are read: "
            f"{_REMEDY}"
        )
    return file.read(columns=list(PIXEL_COLUMNS | OPTIONAL_COLUMNS))


def _checked_column(path: Path, table: pa.Table, name: str, kind: Any) -> pa.ChunkedArray:
    """Return a column as its type; DataError where it is of another kind, or lacks values."""
    if table.column_names.count(name) > 1:
        raise DataError(f"{path} has two columns {name}: {_REMEDY}")
    values = table.column(name)
    if values.type != kind:
        numbers = pa.types.is_integer, pa.types.is_floating
        alike = any(is_kind(values.type) and is_kind(kind) for is_kind in numbers)
        texts = (pa.string(), pa.large_string())
        if not alike and not (kind == pa.string() and values.type in texts):
            raise DataError(f"{path}: column {name} is {values.type} and not {kind}: {_REMEDY}")
        try:
            values = values.cast(kind)
        except pa.ArrowException as error:
            raise DataError(f"{path}: column {name} does not fit {kind}: {_REMEDY}") from error
    if values.null_count and name not in OPTIONAL_COLUMNS:
        raise DataError(f"{path}: column {name} lacks {values.null_count} values: {_REMEDY}")
    try:
        values.validate(full=True)  # texts are UTF-8, and no offset leads out of a buffer
    except pa.ArrowException as error:
        raise DataError(f"{path}: column {name} is damaged ({error}): {_REMEDY}") from error
    return values


def _check_range(path: Path, table: pa.Table, name: str, count: int) -> None:
    values = column(table, name)
    wrong = values[(values < 0) | (values >= count)]
    if len(wrong):
        raise DataError(
            f"{path}: {name} {wrong[0]} is not from 0 to {count - 1}, as meta.json has it: "
            f"{_REMEDY}"
        )


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """Return a table's column as a NumPy array (texts as objects)."""
    values: NDArray[Any] = table.column(name).to_numpy()
    return values
