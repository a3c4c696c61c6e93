import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import Neighborhoods, Scheme
from tests.rsdgc.examples import normal, schemes, shapes, vectors


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        ("kernel", (8, 4, 3, 3), Neighborhoods(8, 36, 1, 9)),
        ("kernel", (8, 1, 5, 5), Neighborhoods(8, 25, 1, 25)),
        ("kernel", (8, 4, 7), Neighborhoods(8, 28, 1, 7)),
        ("kernel", (8, 2, 7, 3, 3), Neighborhoods(8, 126, 1, 63)),
        ("kernel", (8, 4, 1, 1), Neighborhoods(8, 4, 1, 9)),
        ("kernel", (10, 20), Neighborhoods(10, 20, 1, 10)),
        ("kernel", (20,), Neighborhoods(1, 20, 1, 10)),
        ("kernel", (10, 41), Neighborhoods(10, 41, 1, 9)),
        ("kernel", (4096, 512), Neighborhoods(4096, 512, 1, 8)),
        ("kernel", (64, 256, 1, 1), Neighborhoods(64, 256, 1, 8)),
        ("kernel", (5, 27), Neighborhoods(5, 27, 1, 9)),
        ("kernel", (5, 14), Neighborhoods(5, 14, 1, 7)),
        ("kernel", (5, 13), Neighborhoods(5, 13, 1, 9)),
        ("kernel", (), Neighborhoods(1, 1, 1, 9)),
        ("tile", (8, 4, 3, 3), Neighborhoods(8, 36, 3, 3)),
        ("tile", (20,), Neighborhoods(1, 20, 1, 10)),
        ("tile", (10, 20), Neighborhoods(10, 20, 3, 3)),
        ("element", (8, 4, 3, 3), Neighborhoods(8, 36, 1, 1)),
    ],
)
def test_cut(kind, shape, expected):
    assert Scheme(neighborhood=kind).cut(shape) == expected


def test_ragged_edges_have_true_counts():
    grid = Neighborhoods(4, 5, 3, 3)
    assert grid.count == 4
    assert grid.is_ragged
    assert grid.sizes().tolist() == [9, 6, 3, 2]
    assert grid.elements(np.array([3])).tolist() == [18, 19]
    assert grid.elements(np.array([0])).tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]


@given(shapes, schemes)
def test_every_element_is_in_one_neighborhood(shape, scheme):
    grid = scheme.cut(shape)
    ids = np.arange(grid.count)
    assert sorted(grid.elements(ids)) == list(range(grid.size))
    assert grid.sizes().sum() == grid.size == grid.num_members(ids)
    assert [grid.elements(ids[i : i + 1]).size for i in ids] == grid.sizes().tolist()


@given(shapes, schemes, st.data())
def test_gather_and_add_follow_elements(shape, scheme, data):
    grid = scheme.cut(shape)
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, grid.count - 1)))), dtype=np.int64)
    values = normal(grid.size)
    index = grid.elements(ids)
    assert np.array_equal(grid.gather(values, ids), values[index])
    target, expected = np.ones(grid.size, np.float32), np.ones(grid.size, np.float32)
    grid.add_at(target, ids, values[index], 0.5)
    expected[index] += np.float32(0.5) * values[index]
    assert np.array_equal(target, expected)


@given(st.integers(1, 5000), st.integers(1, 20))
def test_runs_are_the_nearest_divisor_within_a_third(cols, tile_px):
    wanted = tile_px**2
    found = Scheme(tile_px=tile_px).cut((3, cols)).width
    near = [n for n in range(1, cols + 1) if cols % n == 0 and 2 * wanted <= 3 * n <= 4 * wanted]
    assert found in near or (not near and found == wanted)
    assert all(abs(found - wanted) <= abs(n - wanted) for n in near)


@given(shapes, schemes, st.data())
def test_peaks_and_select_are_the_naive_ones(shape, scheme, data):
    grid = scheme.cut(shape)
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, grid.count - 1)))), dtype=np.int64)
    values = data.draw(vectors(grid.size))
    kept = grid.gather(values, ids)
    members = [values[grid.elements(ids[i : i + 1])] for i in range(ids.size)]
    peaks = grid.peaks(kept, ids)
    assert peaks.dtype == np.float32
    assert peaks.tolist() == [np.abs(part).max() for part in members]
    chosen = np.array(
        data.draw(st.lists(st.booleans(), min_size=ids.size, max_size=ids.size)), bool
    )
    some = list(grid.select(kept, ids, chosen))
    assert {part.dtype for part in some} <= {np.dtype(np.float32)}
    found = np.concatenate([np.empty(0), *some])
    assert np.array_equal(found, grid.gather(values, ids[chosen]))


@given(shapes, schemes, st.integers(1, 50))
def test_blocks_hold_every_neighborhood_once(shape, scheme, chunk):
    grid = scheme.cut(shape)
    values = np.arange(grid.size, dtype=np.float32)
    found = np.zeros(grid.grid_shape, dtype=object)
    for down, across, members in grid.blocks(values, chunk):
        assert np.shares_memory(members, values)
        for i, row in enumerate(members):
            for j, block in enumerate(row):
                assert found[down.start + i, across.start + j] == 0
                found[down.start + i, across.start + j] = block.ravel().tolist()
    expected = [grid.elements(np.array([i])).tolist() for i in range(grid.count)]
    assert found.ravel().tolist() == expected


@pytest.mark.parametrize("grid", [Neighborhoods(700, 700, 3, 3), Neighborhoods(2, 400_000, 1, 9)])
def test_large_layers_go_through_in_chunks(grid):
    values = normal(grid.size)
    ids = np.arange(grid.count)
    out = np.zeros(grid.size, np.float32)
    grid.add_at(out, ids, grid.gather(values, ids))
    assert np.array_equal(out, values)
    assert sum(block.members.size for block in grid.blocks(values)) == grid.size
