"""Maps are written from blended rows, and their files closed whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rasterio.transform import Affine

from data_prep.ingest.grid import Grid
from fl_app.predict import map_file
from fl_app.predict.map_file import BlendedRows, MapLegend, write_maps
from fl_app.predict.unfinished import WORK_FILES, UnfinishedMap
from fl_app.predict.windows import WindowAxis


def open_files() -> set[str]:
    links = Path("/proc/self/fd").iterdir()
    return {link.readlink().name for link in links if link.is_symlink()}


def test_files_are_closed_where_blending_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()

    def fail(*_: object, **__: object) -> Iterator[BlendedRows]:
        seen.update(open_files())
        raise MemoryError
        yield

    monkeypatch.setattr(map_file, "blend", fail)
    axis = WindowAxis.of_chips(8, 4, 2, 1)
    target = tmp_path / "map.tif"
    unfinished = UnfinishedMap(target, "key", (axis, axis), 2)
    grid, legend = Grid(None, Affine.identity(), 8, 8), MapLegend((1, 2), ("forest", "water"))
    chances = tmp_path / "map-probabilities.tif"
    with pytest.raises(MemoryError) as failure:  # it holds what the function held
        write_maps(target, chances, (), unfinished, (axis, axis), grid, legend, {})
    assert failure.value
    assert seen >= set(WORK_FILES)
    assert not open_files() & set(WORK_FILES)
