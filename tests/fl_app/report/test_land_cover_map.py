import base64
import io

import numpy as np
import pytest
from PIL import Image

from data_prep.pictures.color_vision import VISIONS, simulate, to_lab
from data_prep.pictures.map_colors import class_colors
from data_prep.pictures.scene_grid import SceneGrid
from fl_app.report import land_cover_map
from fl_app.report.land_cover_map import RIGHT, WRONG, draw_map, lay_out_tested, rank_scenes
from tests.data_prep.pictures.ciede2000 import ciede2000
from tests.data_prep.pictures.fake_store import CLASSES, FakeStore, folder_store, scene_store


def cells(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(";base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def choose_scene(store: FakeStore) -> SceneGrid | None:
    ranked = rank_scenes(store)
    return lay_out_tested(store, *ranked[0]) if ranked else None


def truth(store: FakeStore, scene: SceneGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    split = np.array(store.manifest.column("split").to_pylist())[scene.samples]
    return (
        store.manifest.column("label").to_numpy()[scene.samples],
        split == "test",
        split == "train",
    )


def test_four_panels_show_what_is_known() -> None:
    store = scene_store(chip_px=8)
    scene = choose_scene(store)
    assert scene is not None
    labels, test, train = truth(store, scene)
    predicted = labels.copy()
    wrong = np.flatnonzero(test)[:3]
    predicted[wrong] = (predicted[wrong] + 1) % len(CLASSES)
    drawn = draw_map(store, scene, predicted, CLASSES)

    assert (drawn.width, drawn.height) == (16, 14)
    assert drawn.test_accuracy == pytest.approx(1 - 3 / test.sum())
    assert drawn.train_accuracy == 1.0
    assert drawn.outline.startswith("M")
    assert sum(entry.reference for entry in drawn.legend) == len(scene.samples)
    assert [panel.cells for panel in drawn.panels] == [False, True, True, True]

    colors = class_colors(CLASSES)
    reference, guessed, verdict = (cells(panel.uri) for panel in drawn.panels[1:])
    rows, cols = scene.top // scene.cell_px, scene.left // scene.cell_px
    at = rows[wrong[0]], cols[wrong[0]]
    assert reference[at][:3].tolist() == colors[labels[wrong[0]]].tolist()
    assert guessed[at][:3].tolist() == colors[predicted[wrong[0]]].tolist()
    assert verdict[at].tolist() == [*WRONG, 255]
    assert reference[3, 13, 3] == 0  # no chip, no color

    trained = int(np.flatnonzero(train)[0])
    assert verdict[rows[trained], cols[trained], 3] < 255
    tested = int(np.flatnonzero(test)[-1])
    assert verdict[rows[tested], cols[tested]].tolist() == [*RIGHT, 255]


def test_the_scene_with_most_classes_is_chosen() -> None:
    store = scene_store(rows=6, cols=6, chip_px=8)
    table = store.manifest.to_pydict()
    extra = dict(table, scene=["dull"] * store.manifest.num_rows)
    extra["label"] = [0] * store.manifest.num_rows
    extra["split"] = ["test"] * store.manifest.num_rows
    both = {key: table[key] + extra[key] for key in table}
    table["split"][0] = "test"
    both["split"][:6] = ["test"] * 6
    chosen = choose_scene(FakeStore(both, store.arrays, [["a", "b", "c", "d"]], store.classes))
    assert chosen is not None
    assert chosen.name == "north/scene-1"


def test_a_store_without_scenes_has_none() -> None:
    assert choose_scene(folder_store(per_class=3, chip_px=8)) is None


def test_chips_lie_on_the_grid() -> None:
    store = scene_store(rows=14, cols=16, chip_px=8)
    scene = choose_scene(store)
    assert scene is not None
    assert scene.shape == (14, 16)
    assert scene.cell_px == 8
    labels, test, train = truth(store, scene)
    laid = scene.fill(labels, -1)
    assert laid[3, 13] == -1  # the gap
    assert (laid[scene.top // 8, scene.left // 8] == labels).all()
    assert not (test & train).any()


def test_of_too_many_chips_those_near_the_test_chips_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(land_cover_map, "MAX_SAMPLES", 30)
    store = scene_store(chip_px=8)
    scene = choose_scene(store)
    assert scene is not None
    assert len(scene.samples) == 30
    assert truth(store, scene)[1].any()
    assert max(scene.shape) < 14


@pytest.mark.parametrize("background", [(238, 244, 244), (27, 39, 45)])  # --tint, light and dark
def test_right_and_wrong_differ_for_color_blind_readers_faded_or_not(
    background: tuple[int, int, int],
) -> None:
    def shown(color: tuple[int, int, int], alpha: int) -> np.ndarray:
        share = alpha / 255
        return share * np.array(color) + (1 - share) * np.array(background)

    for alphas in ((255, 255), (255, land_cover_map._FADED), (land_cover_map._FADED,) * 2):
        for vision in VISIONS:
            right, wrong = (
                to_lab(simulate(shown(color, alpha), vision))
                for color, alpha in zip((RIGHT, WRONG), alphas, strict=True)
            )
            assert ciede2000(right, wrong) >= 10
