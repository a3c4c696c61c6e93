from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from clients.mapped_vectors import checksum, create_vector, is_intact, open_vector

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_written_to_a_new_vector_is_in_its_file(tmp_path: Path) -> None:
    vector = create_vector(tmp_path / "v", 5)
    vector[:] = np.arange(5)
    assert (tmp_path / "v").read_bytes() == np.arange(5, dtype="<f4").tobytes()
    np.testing.assert_array_equal(open_vector(tmp_path / "v", 5), vector)


def test_a_spare_of_the_same_size_is_used_up(tmp_path: Path) -> None:
    spare = tmp_path / "spare"
    create_vector(spare, 5)[:] = 7
    inode = spare.stat().st_ino
    assert len(create_vector(tmp_path / "larger", 6, spare)) == 6
    assert spare.exists()
    create_vector(tmp_path / "same", 5, spare)
    assert not spare.exists()
    assert (tmp_path / "same").stat().st_ino == inode


def test_a_file_of_another_length_is_refused(tmp_path: Path) -> None:
    create_vector(tmp_path / "v", 5)
    with pytest.raises(ValueError, match="20 bytes instead of 24"):
        open_vector(tmp_path / "v", 6)


def test_a_vector_and_its_bytes_have_one_checksum() -> None:
    vector = np.arange(5, dtype=np.float32)
    assert checksum(vector) == checksum(vector.tobytes())
    assert checksum(vector) != checksum(vector[::-1])


def test_checksums_of_earlier_versions_still_hold() -> None:
    vector = np.arange(5, dtype=np.float32)
    for content in (vector, vector.tobytes()):
        assert is_intact(content, checksum(content))
        assert is_intact(content, zlib.crc32(vector.tobytes()))
        assert not is_intact(content, checksum(content) + 1)
