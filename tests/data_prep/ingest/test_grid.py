from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from data_prep.ingest.aligned import AlignedRaster, RowWindow
from data_prep.ingest.grid import grid_of
from data_prep.rasters import read_header
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, TOP, noise, write_tif


@pytest.mark.parametrize("step", [1, 4, 7, 100])
@pytest.mark.parametrize(("side", "stride"), [(5, 5), (6, 2), (3, 8)])
def test_windows_of_rows_equal_plain_slices(
    tmp_path: Path, step: int, side: int, stride: int
) -> None:
    values = noise((2, 40, 9))
    header = read_header(write_tif(tmp_path / "a.tif", values, nodata=0))
    with ExitStack() as stack:
        window = RowWindow(AlignedRaster(stack, header, grid_of(header)), 40, step)
        for row in range(0, 40 - side + 1, stride):
            got, valid = window.rows(row, row + side)
            np.testing.assert_array_equal(got, values[:, row : row + side])
            assert valid is not None
            assert valid.all()


def test_ground_outside_a_modality_is_invalid_even_without_nodata(tmp_path: Path) -> None:
    header = read_header(write_tif(tmp_path / "grid.tif", noise((20, 20))))
    for dtype in ("uint8", "int16", "float32"):
        part = noise((10, 20), 1, 1, 99).astype(dtype)
        path = write_tif(tmp_path / f"{dtype}.tif", part, top=TOP - 50)
        with ExitStack() as stack:
            values, valid = AlignedRaster(stack, read_header(path), grid_of(header)).read(0, 20)
        np.testing.assert_array_equal(np.flatnonzero(valid[0].all(axis=1)), np.arange(5, 15))
        np.testing.assert_array_equal(values[0, 5:15], part)


def test_each_band_keeps_its_own_invalid_pixels_when_warped(tmp_path: Path) -> None:
    header = read_header(write_tif(tmp_path / "grid.tif", noise((20, 20))))
    values = noise((2, 30, 30), 1, 10, 20)
    values[0, :15] = 0
    path = write_tif(tmp_path / "b.tif", values, nodata=0, left=LEFT - 50, top=TOP + 50)
    with ExitStack() as stack:
        got, valid = AlignedRaster(stack, read_header(path), grid_of(header)).read(0, 20)
    assert valid.sum(axis=(1, 2)).tolist() == [200, 400]
    np.testing.assert_array_equal(got[:, 10:], values[:, 15:25, 5:25])
    assert got[1].min() >= 10


def test_alpha_bands_are_masks(tmp_path: Path) -> None:
    values = noise((4, 12, 12), 0, 1, 255, "uint8")
    values[3, :6], values[3, 6:] = 0, 255
    path = write_tif(tmp_path / "rgba.tif", values, photometric="RGB", alpha="YES")
    header = read_header(path)
    assert len(header.indexes) == 3
    with ExitStack() as stack:
        _, valid = AlignedRaster(stack, header, grid_of(header)).read(0, 12)
    assert not valid[:, :6].any()
    assert valid[:, 6:].all()


def test_complex_and_mixed_rasters_are_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "sar.tif", np.ones((8, 8), "complex64"))
    with pytest.raises(DataError, match=r"sar.tif is of type complex64"):
        read_header(path)
