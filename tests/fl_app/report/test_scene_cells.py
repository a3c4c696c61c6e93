import numpy as np
import pytest

from fl_app.report import scene_cells as scenes
from fl_app.report.scene_cells import best_scene, quick_look
from tests.fl_app.report.fake_run import FakeStore, folder_store, scene_store


def test_the_scene_with_most_classes_is_chosen() -> None:
    store = scene_store(rows=6, cols=6, chip_px=8)
    table = store.manifest.to_pydict()
    extra = dict(table, scene=["dull"] * store.manifest.num_rows)
    extra["label"] = [0] * store.manifest.num_rows
    extra["split"] = ["test"] * store.manifest.num_rows
    both = {key: table[key] + extra[key] for key in table}
    table["split"][0] = "test"
    both["split"][:6] = ["test"] * 6
    chosen = best_scene(FakeStore(both, store.arrays, [["a", "b", "c", "d"]], store.classes))
    assert chosen is not None
    assert chosen.name == "north/scene-1"


def test_a_store_without_scenes_has_none() -> None:
    assert best_scene(folder_store(per_class=3, chip_px=8)) is None


def test_chips_lie_on_the_grid() -> None:
    store = scene_store(rows=14, cols=16, chip_px=8)
    scene = best_scene(store)
    assert scene is not None
    assert scene.shape == (14, 16)
    assert scene.cell_px == 8
    laid = scene.grid(scene.labels, -1)
    assert laid[3, 13] == -1  # the gap
    assert (laid[scene.rows, scene.cols] == scene.labels).all()
    assert not (scene.test & scene.train).any()


@pytest.mark.parametrize("stride", [8, 4])
def test_the_quick_look_puts_chips_where_they_belong(stride: int) -> None:
    store = scene_store(rows=14, cols=16, chip_px=8, stride_px=stride)
    scene = best_scene(store)
    assert scene is not None
    mosaic = quick_look(store, scene)
    assert mosaic.shape == (14 * stride, 16 * stride, 3)
    chip = 40
    row, col = scene.rows[chip] * stride, scene.cols[chip] * stride
    margin = (8 - stride) // 2
    inner = store.arrays[0][scene.chips[chip], [2, 1, 0]]
    inner = inner[:, margin : margin + stride, margin : margin + stride].transpose(1, 2, 0)
    np.testing.assert_array_equal(mosaic[row : row + stride, col : col + stride], inner)


def test_nodata_and_gaps_are_nan() -> None:
    store = scene_store(chip_px=8)
    scene = best_scene(store)
    assert scene is not None
    mosaic = quick_look(store, scene)
    assert np.isnan(mosaic[:4]).all()
    assert np.isnan(mosaic[3 * 8 + 2, 13 * 8 + 2]).all()
    assert np.isfinite(mosaic[10 * 8, 2 * 8]).all()


def test_large_scenes_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "_CANVAS_PX", 40)
    store = scene_store(rows=14, cols=16, chip_px=8)
    scene = best_scene(store)
    assert scene is not None
    assert quick_look(store, scene).shape == (14 * 2, 16 * 2, 3)


def test_of_too_many_chips_those_near_the_test_chips_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scenes, "MAX_CELLS", 30)
    scene = best_scene(scene_store(chip_px=8))
    assert scene is not None
    assert len(scene.chips) == 30
    assert scene.test.any()
    assert max(scene.shape) < 14


def test_labelled_pixels_make_a_scene_of_their_own_size() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 4000, (12 + 4, 15 + 4, 40)).astype(np.uint16)
    found: dict[str, list] = {key: [] for key in ("chip", "label", "split", "scene", "row", "col")}
    chips = []
    for row, col in np.argwhere(rng.random((12, 15)) < 0.6).tolist():
        chips.append(image[row : row + 5, col : col + 5].transpose(2, 0, 1))
        found["chip"].append(len(chips) - 1)
        found["label"].append(row // 6)
        found["split"].append("test" if col < 5 else "train")
        found["scene"].append("field")
        found["row"].append(row)
        found["col"].append(col)
    names = [[f"band {at}" for at in range(40)]]
    store = FakeStore(found, [np.array(chips)], names, ["corn", "oats"], kind="pixels")
    scene = best_scene(store)
    assert scene is not None
    assert scene.cell_px == 1
    mosaic = quick_look(store, scene)
    assert mosaic.shape == (*scene.shape, 3)
    top, left = min(found["row"]), min(found["col"])
    row, col = found["row"][7] - top, found["col"][7] - left
    centre = image[found["row"][7] + 2, found["col"][7] + 2]
    assert mosaic[row, col].tolist() == [float(centre[at]) for at in (5, 3, 2)]
