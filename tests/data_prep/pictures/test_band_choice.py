"""Which bands make a picture: by name, by wavelength, or by position."""

from types import SimpleNamespace

import pytest

from data_prep.pictures.band_choice import composite_name, picture_bands, picture_modality


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
        (["450 nm", "550 nm", "650 nm"], (2, 1, 0)),
        (["1200 nm", "1600 nm", "2200 nm", "11 um"], (0, 1, 2)),
        ([str(i) for i in range(200)], (27, 17, 8)),
        ([f"band {at}" for at in range(200)], (27, 17, 8)),
    ],
)
def test_bands_of_a_picture(names: list[str], bands: tuple[int, int, int]) -> None:
    assert picture_bands(names) == bands


def test_the_first_modality_with_three_bands_is_shown() -> None:
    sar, dem, optical = (SimpleNamespace(bands=["x"] * count) for count in (2, 1, 4))
    assert picture_modality([sar, dem, optical]) == 2
    assert picture_modality([sar, dem]) == 0


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["B2", "B3", "B4", "B8"], "natural color (B4, B3, B2)"),
        (["450 nm", "550 nm", "650 nm", "860 nm"], "natural color (650 nm, 550 nm, 450 nm)"),
        (["nir", "swir1", "swir2"], "false color (nir, swir1, swir2)"),
        (["vv"], "vv"),
        (["vv", "vh"], "vv"),
    ],
)
def test_a_picture_says_which_bands_it_shows(names: list[str], text: str) -> None:
    assert composite_name(names) == text
