from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.shards import ShardedArray, ShardWriter
from rsdgc.errors import DataError


def rows(start: int, count: int) -> np.ndarray:
    return np.arange(start * 6, (start + count) * 6, dtype=np.uint16).reshape(count, 2, 3)


@given(batches=st.lists(st.integers(0, 7), min_size=1, max_size=8), per_shard=st.integers(1, 9))
def test_rows_come_back_whatever_the_batches_and_shards(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(folder, "m", (2, 3), "uint16", shard_bytes=12 * per_shard)
    for count in batches:
        writer.append(rows(writer.rows, count))
    shards = writer.close()
    total = sum(batches)
    assert sum(shard.rows for shard in shards) == total
    array = ShardedArray(folder, shards, "uint16")
    wanted = np.random.default_rng(0).integers(0, max(total, 1), 20)[: 20 if total else 0]
    if total:
        np.testing.assert_array_equal(array.take(wanted), rows(0, total)[wanted])


def test_missing_cut_and_wrong_shards_are_named(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "m", (2, 3), "uint16")
    writer.append(rows(0, 5))
    shards = writer.close()
    path = tmp_path / "m-000.npy"
    with pytest.raises(DataError, match=r"m-000.npy holds 5 rows of uint16.*float32"):
        ShardedArray(tmp_path, shards, "float32")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"m-000.npy is cut short"):
        ShardedArray(tmp_path, shards, "uint16")
    path.unlink()
    with pytest.raises(DataError, match=r"m-000.npy is missing"):
        ShardedArray(tmp_path, shards, "uint16")
