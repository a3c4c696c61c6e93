import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.report.palette import class_colors, picture_bands


def test_land_cover_has_the_colours_of_maps() -> None:
    water, forest, built = class_colors(["Open Water", "conifer forest", "urban"]).astype(int)
    assert water.argmax() == 2
    assert forest.argmax() == 1
    assert built.argmax() == 0


@given(st.lists(st.sampled_from(["corn", "corn-notill", "forest", "x", "y 2", ""]), max_size=45))
def test_colours_differ_whatever_the_names(names: list[str]) -> None:
    colors = class_colors(names)
    assert colors.shape == (len(names), 3)
    assert colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == len(names)


@pytest.mark.parametrize(
    ("names", "bands"),
    [
        (["blue", "green", "red", "nir"], (2, 1, 0)),
        (["B02", "B03", "B04", "B08"], (2, 1, 0)),
        (["landsat_b2", "landsat_b3", "landsat_b4", "landsat_b5"], (2, 1, 0)),
        (["one", "two", "three", "four"], (0, 1, 2)),
        (["elevation"], (0, 0, 0)),
        (["vv", "vh"], (0, 0, 0)),
        ([f"{400 + 10 * at} nm" for at in range(200)], (25, 15, 7)),
        ([f"{0.4 + 0.01 * at:.2f} um" for at in range(200)], (25, 15, 7)),
        ([f"band {at}" for at in range(200)], (27, 17, 8)),
    ],
)
def test_bands_of_a_picture(names: list[str], bands: tuple[int, int, int]) -> None:
    assert picture_bands(names) == bands
