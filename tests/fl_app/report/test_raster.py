import base64
import io
import re

import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

from fl_app.report.raster import cells_uri, outline_path, photo_uri, stretch


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


def test_cells_keep_their_exact_colours() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    assert (decode(cells_uri(rgba)) == rgba).all()


def test_photos_are_brought_down() -> None:
    rgba = np.full((300, 900, 4), 255, np.uint8)
    assert decode(photo_uri(rgba, 90)).shape == (30, 90, 4)
    assert decode(photo_uri(rgba[:40, :60], 90)).shape == (40, 60, 4)


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
