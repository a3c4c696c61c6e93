import base64
import io

import numpy as np
import pytest
from PIL import Image

from fl_app.report.land_cover_map import RIGHT, WRONG, draw_map
from fl_app.report.palette import class_colors
from fl_app.report.scene_cells import best_scene
from tests.fl_app.report.fake_run import CLASSES, scene_store


def cells(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition(";base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_four_panels_show_what_is_known() -> None:
    store = scene_store(chip_px=8)
    scene = best_scene(store)
    assert scene is not None
    predicted = scene.labels.copy()
    wrong = np.flatnonzero(scene.test)[:3]
    predicted[wrong] = (predicted[wrong] + 1) % len(CLASSES)
    drawn = draw_map(store, scene, predicted, CLASSES)

    assert (drawn.width, drawn.height) == (16, 14)
    assert drawn.test_accuracy == pytest.approx(1 - 3 / scene.test.sum())
    assert drawn.train_accuracy == 1.0
    assert drawn.outline.startswith("M")
    assert sum(entry.reference for entry in drawn.legend) == len(scene.chips)
    assert [panel.exact for panel in drawn.panels] == [False, True, True, True]

    colors = class_colors(CLASSES)
    reference, guessed, verdict = (cells(panel.uri) for panel in drawn.panels[1:])
    at = scene.rows[wrong[0]], scene.cols[wrong[0]]
    assert reference[at][:3].tolist() == colors[scene.labels[wrong[0]]].tolist()
    assert guessed[at][:3].tolist() == colors[predicted[wrong[0]]].tolist()
    assert verdict[at].tolist() == [*WRONG, 255]
    assert reference[3, 13, 3] == 0  # no chip, no colour

    trained = int(np.flatnonzero(scene.train)[0])
    assert verdict[scene.rows[trained], scene.cols[trained], 3] < 255
    tested = int(np.flatnonzero(scene.test)[-1])
    assert verdict[scene.rows[tested], scene.cols[tested]].tolist() == [*RIGHT, 255]
