"""The script that ingests other projects' files and compares the stores with plain reads."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from benchmarks import real_files
from benchmarks.real_files import main, outcome
from tests.data_prep.archives import LEFT, TOP, noise, write_tif

SIZE = 48


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain file, a color table, four that are warped, and two that cannot be used."""
    home = tmp_path / "files"
    rows, cols = np.mgrid[:SIZE, :SIZE]
    smooth = (50 * np.sin(rows / 9) + 40 * np.cos(cols / 7) + 100).astype("float32")
    write_tif(home / "plain.tif", noise((2, SIZE, SIZE)), nodata=3)
    table = write_tif(home / "table.tif", noise((SIZE, SIZE), 1, 0, 4, "uint8"))
    with rasterio.open(table, "r+") as file:
        file.write_colormap(1, {0: (0, 0, 0, 0), 1: (9, 9, 9, 255), 2: (1, 2, 3, 255)})
    turned = Affine(8.66, -5, LEFT, -5, -8.66, TOP)
    write_tif(home / "turned.tif", smooth, transform=turned)
    write_tif(home / "south_up.tif", smooth, transform=Affine(10, 0, LEFT, 0, 10, TOP))
    corners = ((0, 0), (0, SIZE), (SIZE, 0), (SIZE, SIZE))
    points = [
        GroundControlPoint(r, c, LEFT + 9 * c + 3 * r, TOP - 9 * r + 2 * c) for r, c in corners
    ]
    for name, values in (("points.tif", smooth), ("sar.tif", smooth * np.complex64(0.6 + 0.8j))):
        profile = {"height": SIZE, "width": SIZE, "count": 1, "dtype": values.dtype}
        with rasterio.open(
            home / name, "w", driver="GTiff", gcps=points, crs="EPSG:32633", **profile
        ) as file:
            file.write(values, 1)
    (home / "cut.tif").write_bytes((home / "plain.tif").read_bytes()[:200])
    (home / "deep").mkdir()
    (home / "deep" / "empty.tif").write_bytes(b"")
    return home


def test_files_are_right_warped_or_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["real_files", "--all", str(folder)])
    with pytest.raises(SystemExit) as status:
        main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "all: 2 right, 4 warped, 2 refused, 0 traceback, 0 wrong, 0 too large"
    assert status.value.code == 0
    kinds = dict(line.split(": ")[1::-1] for line in lines[:-2])
    assert kinds["sar.tif"] == kinds["turned.tif"] == "warped"
    assert kinds["deep/empty.tif"] == "refused"


@pytest.mark.parametrize("name", ["plain.tif", "turned.tif", "points.tif"])
def test_other_values_are_seen(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    read = real_files.plain_read

    def shifted(header: real_files.RasterFile) -> tuple[np.ndarray, np.ndarray]:
        values, valid = read(header)
        return np.roll(values, 2, axis=-1), np.roll(valid, 2, axis=-1)

    monkeypatch.setattr(real_files, "plain_read", shifted)
    kind, said = outcome(folder / name)
    assert kind == "wrong"
    assert "differ" in said


def test_a_defect_is_a_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_files, "ingest_scenes", lambda *_, **__: 1 / 0)
    assert outcome(folder / "plain.tif") == ("traceback", "ZeroDivisionError: division by zero")
