"""Pictures of single modalities: captions, and color bars in physical units."""

import base64
import io

import numpy as np
from PIL import Image

from data_prep.pictures.modality_picture import is_elevation, picture
from data_prep.pictures.scene_grid import lay_out
from tests.data_prep.pictures.fake_store import CLASSES, FakeStore


def store_of(name: str, bands: list[str], scale: list[float] | None = None) -> FakeStore:
    """Two chips side by side with values from 0 to 127 in every band."""
    values = np.arange(128, dtype=np.float32).reshape(2, 1, 8, 8).repeat(len(bands), axis=1)
    manifest = {"label": [0, 1], "scene": ["a", "a"], "row": [0, 0], "col": [0, 8]}
    store = FakeStore(manifest, [values], [bands], CLASSES, stride_px=8)
    (meta,) = store.meta.modalities
    meta.name = name
    meta.scale, meta.offset = (scale or []), ([-100.0] if scale else [])
    return store


def picture_of(store: FakeStore):
    return picture(store, lay_out(store, "a", np.arange(2)), 0, 64)


def test_elevation_has_a_color_bar_in_physical_units() -> None:
    shown = picture_of(store_of("dem", ["band1"], scale=[2.0]))
    assert shown.caption == "dem: band1"
    assert shown.bar is not None
    low, high = float(shown.bar.low), float(shown.bar.high)
    assert abs(low - (2 * 0.02 * 127 - 100)) < 0.5
    assert abs(high - (2 * 0.98 * 127 - 100)) < 0.5
    content = base64.b64decode(shown.uri.partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        first = np.asarray(image.convert("RGB"))[0, 0].astype(int)
    assert first[2] > first[0]  # cividis begins with blue


def test_other_single_bands_are_gray() -> None:
    shown = picture_of(store_of("sentinel1", ["vv"]))
    assert shown.bar is not None
    assert "#000000" in shown.bar.gradient
    assert shown.bar.unit == "stored values"


def test_three_bands_have_no_bar_and_say_which_they_are() -> None:
    shown = picture_of(store_of("optical", ["blue", "green", "red", "nir"]))
    assert shown.bar is None
    assert shown.caption == "optical: natural color (red, green, blue)"
    assert picture_of(store_of("x", ["a", "b", "c"])).caption == "x: false color (a, b, c)"


def test_heights_are_known_by_their_names() -> None:
    for name in ("elevation", "copernicus_dem", "DSM 2019"):
        assert is_elevation(store_of(name.lower(), ["band1"]).meta.modalities[0])
    for name in ("academy", "demography", "optical"):
        assert not is_elevation(store_of(name, ["band1"]).meta.modalities[0])
