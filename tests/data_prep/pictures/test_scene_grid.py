"""Where samples lie: grids of regular, shifted and many samples, and outlines."""

import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from data_prep.pictures import scene_grid
from data_prep.pictures.scene_grid import SceneGrid, lay_out, outline_path, samples_by_scene


def grid_of(rows: list[int], cols: list[int], stride_px: int) -> SceneGrid:
    manifest = pa.table({"row": rows, "col": cols, "scene": ["a"] * len(rows)})
    store = SimpleNamespace(manifest=manifest, meta=SimpleNamespace(stride_px=stride_px))
    assert list(samples_by_scene(store)) == ["a"]
    return lay_out(store, "a", samples_by_scene(store)["a"])


def test_samples_lie_in_a_cell_each_with_gaps_left_empty() -> None:
    grid = grid_of([16, 16, 24, 40], [8, 24, 16, 8], 8)
    assert (grid.shape, grid.cell_px) == ((4, 3), 8)
    laid = grid.fill(np.arange(1, 5))
    assert laid.tolist() == [[1, 0, 2], [0, 3, 0], [0, 0, 0], [4, 0, 0]]
    colors = grid.fill(np.full((4, 3), 9, np.uint8), 1)
    assert colors[0].tolist() == [[9, 9, 9], [1, 1, 1], [9, 9, 9]]


def test_windows_shifted_at_the_edge_cover_several_cells() -> None:
    grid = grid_of([0, 0, 0], [0, 8, 12], 8)
    assert (grid.shape, grid.cell_px) == ((2, 5), 4)
    assert grid.fill(np.array([1, 2, 3])).tolist() == [[1, 1, 2, 3, 3]] * 2


def test_a_single_sample_is_one_cell() -> None:
    assert grid_of([5], [7], 8).fill(np.array([3])).tolist() == [[3]]


def test_cells_of_large_scenes_hold_several_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_grid, "MAX_CELLS", 10)
    grid = grid_of(np.repeat(np.arange(35), 20).tolist(), np.tile(np.arange(20), 35).tolist(), 1)
    assert (grid.shape, grid.cell_px) == ((9, 5), 4)
    assert (grid.fill(np.ones(700)) == 1).all()


def test_samples_are_grouped_by_scene() -> None:
    store = SimpleNamespace(manifest=pa.table({"scene": ["b", "a", "b", "", "a"]}))
    groups = {name: samples.tolist() for name, samples in samples_by_scene(store).items()}
    assert groups == {"": [3], "a": [1, 4], "b": [0, 2]}


@given(arrays(np.bool_, (6, 8)))
def test_an_outline_is_as_long_as_the_edges(inside: np.ndarray) -> None:
    padded = np.pad(inside, 1)
    edges = (padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum()
    lengths = [int(length) for length in re.findall(r"[hv](\d+)", outline_path(inside))]
    assert sum(lengths) == edges


def test_the_outline_of_a_rectangle_has_four_strokes() -> None:
    inside = np.zeros((4, 5), dtype=bool)
    inside[1:3, 2:5] = True
    assert outline_path(inside) == "M2 1h3M2 3h3M2 1v2M5 1v2"


def test_borders_between_regions_are_drawn_once() -> None:
    regions = np.array([[1, 1, 2, 2]])
    assert outline_path(regions) == "M0 0h4M0 1h4M0 0v1M2 0v1M4 0v1"
