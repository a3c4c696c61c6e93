"""Mosaics of scenes and pictures of single chips."""

import numpy as np
import pytest

from data_prep.pictures import mosaic as mosaics
from data_prep.pictures.mosaic import THUMB_PX, chip_pictures, mosaic
from data_prep.pictures.scene_grid import SceneGrid, lay_out
from tests.data_prep.pictures.fake_store import CLASSES, FakeStore, folder_store, scene_store


def whole(store: FakeStore) -> SceneGrid:
    return lay_out(store, "north/scene-1", np.arange(store.manifest.num_rows))


@pytest.mark.parametrize("stride", [8, 4])
def test_chips_lie_where_they_belong(stride: int) -> None:
    store = scene_store(rows=14, cols=16, chip_px=8, stride_px=stride)
    grid = whole(store)
    picture = mosaic(store, grid, 0)
    assert picture.shape == (14 * stride, 16 * stride, 3)
    chip = 40
    row, col = grid.top[chip], grid.left[chip]
    margin = (8 - stride) // 2
    inner = store.arrays[0][grid.samples[chip], [2, 1, 0]]
    inner = inner[:, margin : margin + stride, margin : margin + stride].transpose(1, 2, 0)
    np.testing.assert_array_equal(picture[row : row + stride, col : col + stride], inner)


def test_nodata_and_gaps_are_nan() -> None:
    store = scene_store(chip_px=8)
    picture = mosaic(store, whole(store), 0)
    assert np.isnan(picture[:4]).all()
    assert np.isnan(picture[3 * 8 + 2, 13 * 8 + 2]).all()
    assert np.isfinite(picture[10 * 8, 2 * 8]).all()


def test_large_scenes_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaics, "MAX_PX", 40)
    store = scene_store(rows=14, cols=16, chip_px=8)
    assert mosaic(store, whole(store), 0).shape == (14 * 2, 16 * 2, 3)


def test_labeled_pixels_make_a_scene_of_their_own_size() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 4000, (12 + 4, 15 + 4, 40)).astype(np.uint16)
    manifest: dict[str, list] = {
        key: [] for key in ("chip", "label", "split", "scene", "row", "col")
    }
    chips = []
    for row, col in np.argwhere(rng.random((12, 15)) < 0.6).tolist():
        chips.append(image[row : row + 5, col : col + 5].transpose(2, 0, 1))
        manifest["chip"].append(len(chips) - 1)
        manifest["label"].append(row // 6)
        manifest["split"].append("test" if col < 5 else "train")
        manifest["scene"].append("field")
        manifest["row"].append(row)
        manifest["col"].append(col)
    names = [[f"band {i}" for i in range(40)]]
    store = FakeStore(manifest, [np.array(chips)], names, ["corn", "oats"], kind="pixels")
    grid = lay_out(store, "field", np.arange(len(chips)))
    assert grid.cell_px == 1
    picture = mosaic(store, grid, 0)
    assert picture.shape == (*grid.shape, 3)
    top, left = min(manifest["row"]), min(manifest["col"])
    row, col = manifest["row"][7] - top, manifest["col"][7] - left
    center = image[manifest["row"][7] + 2, manifest["col"][7] + 2]
    assert picture[row, col].tolist() == [float(center[band]) for band in (5, 3, 2)]


def test_8_bit_imagery_is_shown_as_it_is() -> None:
    store = folder_store(per_class=2, chip_px=16)
    pictures = chip_pictures(store, np.array([3, 1]))
    np.testing.assert_array_equal(pictures[..., :3], store.arrays[0][[3, 1]].transpose(0, 2, 3, 1))
    assert (pictures[..., 3] == 255).all()


def test_other_imagery_is_stretched_by_the_same_limits_and_nodata_is_clear() -> None:
    values = np.repeat(np.arange(300, dtype=np.float32).reshape(3, 1, 10, 10), 3, axis=1)
    empty: dict[str, list] = {"scene": []}
    store = FakeStore(empty, [values], [["a", "b", "c"]], CLASSES, nodata=7.0)
    pictures = chip_pictures(store, np.arange(3))
    assert pictures[0, 0, 7].tolist() == [0, 0, 0, 0]
    assert [int(picture[..., 0].max()) for picture in pictures] == sorted(
        {int(picture[..., 0].max()) for picture in pictures}
    )
    assert (pictures[0, 0, 0, 0], pictures[2, 9, 9, 0]) == (0, 255)


def test_large_chips_are_averaged() -> None:
    values = np.zeros((1, 3, 2 * THUMB_PX, 2 * THUMB_PX), np.uint8)
    values[..., ::2] = 100
    store = FakeStore({"scene": []}, [values], [["red", "green", "blue"]], CLASSES)
    pictures = chip_pictures(store, np.array([0]))
    assert pictures.shape == (1, THUMB_PX, THUMB_PX, 4)
    assert (pictures[..., :3] == 50).all()
