import base64
import io

import numpy as np
from PIL import Image

from data_prep.pictures.images import cells_uri, photo_uri, stretch


def decode(uri: str) -> np.ndarray:
    kind, _, text = uri.partition(";base64,")
    assert kind in {"data:image/png", "data:image/webp"}
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"))


def test_stretch_spreads_2_to_98_percent_and_hides_nodata() -> None:
    ramp = np.repeat(np.linspace(1000, 2000, 1001, dtype=np.float32), 3).reshape(1, 1001, 3)
    ramp[0, 0] = np.nan
    rgba = stretch(ramp)
    assert rgba[0, 0].tolist() == [0, 0, 0, 0]
    assert rgba[0, 10, 0] == 0
    assert rgba[0, 990, 0] == 255
    assert 125 <= rgba[0, 500, 0] <= 130


def test_stretch_of_nothing_and_of_a_constant() -> None:
    assert not stretch(np.full((2, 2, 3), np.nan, np.float32)).any()
    assert (stretch(np.full((2, 2, 3), 7, np.float32))[..., 3] == 255).all()


def test_cells_keep_their_exact_colors() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    assert (decode(cells_uri(rgba)) == rgba).all()


def test_photos_are_brought_down() -> None:
    rgba = np.full((300, 900, 4), 255, np.uint8)
    assert decode(photo_uri(rgba, 90)).shape == (30, 90, 4)
    assert decode(photo_uri(rgba[:40, :60], 90)).shape == (40, 60, 4)


def test_stretch_takes_given_limits() -> None:
    assert stretch(np.full((1, 3), 51, np.float32), (0.0, 255.0)).tolist() == [[51, 51, 51, 255]]
