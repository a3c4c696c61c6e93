from __future__ import annotations

import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.schema import ShardMeta
from data_prep.shards import ShardedArray, ShardWriter, join_shards
from rsdgc.errors import DataError


def rows(start: int, count: int) -> np.ndarray:
    return np.arange(start * 6, (start + count) * 6, dtype=np.uint16).reshape(count, 2, 3)


def write(path: Path, start: int, batches: list[int]) -> tuple[Path, int]:
    writer = ShardWriter(path, (2, 3), "uint16")
    for count in batches:
        writer.append(rows(start + writer.rows, count))
    writer.finish()
    return path, writer.rows


@given(
    parts=st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=6),
    per_shard=st.integers(1, 30),
    uncopied=st.integers(1, 30),
)
def test_rows_come_back_whatever_the_batches_and_shards(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], per_shard: int, uncopied: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    header = 128
    files: list[tuple[Path, int]] = []
    for number, batches in enumerate(parts):
        start = sum(count for _, count in files)
        files.append(write(folder / f"part-{number}.npy", start, batches))
    with (
        mock.patch("data_prep.shards.UNCOPIED_BYTES", header + 12 * uncopied),
        mock.patch("data_prep.shards.SHARD_BYTES", header + 12 * per_shard),
    ):
        shards = join_shards(folder, "m", files)
    assert sorted(path.name for path in folder.iterdir()) == [shard.file for shard in shards]
    total = sum(map(sum, parts))
    assert sum(shard.rows for shard in shards) == total
    array = ShardedArray(folder, shards, "uint16")
    assert len(array) == total
    if total:
        wanted = np.random.default_rng(0).integers(0, total, 20)
        np.testing.assert_array_equal(array.take(wanted), rows(0, total)[wanted])
    row_bytes = 1 if total % 2 else 2**14
    with mock.patch("data_prep.shards.LARGE_ROW_BYTES", row_bytes):
        np.testing.assert_array_equal(array.take(np.arange(total)), rows(0, total))


def test_an_unfinished_file_has_no_rows(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "m.npy", (2, 3), "uint16")
    writer.append(rows(0, 5))
    writer.close()
    assert len(np.load(tmp_path / "m.npy")) == 0


def test_missing_cut_and_wrong_shards_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m-000.npy"
    shards = join_shards(tmp_path, "m", [write(tmp_path / "part.npy", 0, [5])])
    with pytest.raises(DataError, match=r"m-000.npy holds 5 rows of uint16.*float32"):
        ShardedArray(tmp_path, shards, "float32")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"m-000.npy is cut short"):
        ShardedArray(tmp_path, shards, "uint16")
    path.unlink()
    with pytest.raises(DataError, match=r"m-000.npy is missing"):
        ShardedArray(tmp_path, shards, "uint16")


def header(text: str, magic: bytes = b"\x93NUMPY\x01\x00", length: int | None = None) -> bytes:
    content = text.encode()
    size = len(content) if length is None else length
    return magic + size.to_bytes(2, "little") + content


GOOD = "{'descr': '<u2', 'fortran_order': False, 'shape': (5, 2, 3), }\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUM",
        header(GOOD, magic=b"\x80\x04NUMPY\x00"),
        header(GOOD, magic=b"\x93NUMPY\x09\x00"),
        header(GOOD, length=65535),
        header(GOOD.replace("5", "2" + "0" * 40)),
        header(GOOD.replace("5, 2, 3", "9" * 190)),
        header(GOOD.replace("5, 2, 3", ", ,")),
        header(GOOD.replace("5, 2, 3", "")),
        header(GOOD.replace("5, 2, 3", "5")),
        header(GOOD.replace("5, 2, 3", "5, 1, 1, 2, 3")),
        header(GOOD.replace("5, 2, 3", "-5, 2, 3")),
        header(GOOD.replace("<u2", "|O")),
        header(GOOD.replace("<u2", ">u2")),
        header(GOOD.replace("<u2", "<z9")),
        header(GOOD.replace("<u2", "<M8")),
        header(GOOD.replace("False", "True")),
        header(GOOD.replace("5", "5 * 10**9")),
        header("(" * 3000),
        header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (5, 2, 3), }\n"),
        header("{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (5, 2, 3), }\n"),
    ],
)
def test_headers_that_numpy_does_not_write_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m-000.npy").write_bytes(content + rows(0, 5).tobytes())
    with pytest.raises(DataError, match=r"m-000.npy .*: copy the store again, or ingest it again"):
        ShardedArray(tmp_path, [ShardMeta(file="m-000.npy", rows=5)], "uint16")


def test_a_header_that_numpy_writes_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "m-000.npy", rows(0, 5))
    array = ShardedArray(tmp_path, [ShardMeta(file="m-000.npy", rows=5)], "uint16")
    np.testing.assert_array_equal(array.take(np.arange(5)), rows(0, 5))


def test_a_claim_of_petabytes_takes_no_memory(tmp_path: Path) -> None:
    claim = header(GOOD.replace("5", str(2**47)))
    (tmp_path / "m-000.npy").write_bytes(claim + rows(0, 5).tobytes())
    tracemalloc.start()
    with pytest.raises(DataError, match="is cut short"):
        ShardedArray(tmp_path, [ShardMeta(file="m-000.npy", rows=2**47)], "uint16")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_shards_of_other_rows_do_not_go_together(tmp_path: Path) -> None:
    np.save(tmp_path / "m-000.npy", rows(0, 5))
    np.save(tmp_path / "m-001.npy", rows(0, 5).reshape(5, 3, 2))
    shards = [ShardMeta(file=f"m-00{i}.npy", rows=5) for i in range(2)]
    with pytest.raises(DataError, match=r"m-001.npy has rows of \(3, 2\)"):
        ShardedArray(tmp_path, shards, "uint16")
