"""Coordinate reference systems: what cannot be related or transformed is no error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from data_prep.crs import (
    are_related,
    crs_name,
    crs_text,
    horizontal_crs,
    meters_per_unit,
    parse_crs,
    pixel_on_ground,
    pixel_sides,
    transform_positions,
)
from rsdgc.errors import SettingError
from tests.data_prep.archives import MOON, SITE_GRID

UTM = CRS.from_epsg(32633)
GEOSTATIONARY = CRS.from_proj4("+proj=geos +h=35785831 +lon_0=0 +sweep=y")


@pytest.mark.parametrize("text", ["EPSG:32633", "32633", "+proj=utm +zone=33", UTM.to_wkt()])
def test_a_crs_has_many_spellings(text: str) -> None:
    assert crs_text(parse_crs(text)) == "EPSG:32633"


def test_a_crs_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.prj"
    path.write_text(UTM.to_wkt())
    assert parse_crs(str(path)) == UTM


@pytest.mark.parametrize("text", ["EPSG:9999999", "utm", "gone.prj", ""])
def test_what_is_no_crs_is_refused_in_a_line(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError, match=r"is not a CRS: write --crs or --label-crs as EPSG"):
        parse_crs(text)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("compound", "plane"), [("EPSG:32633+5773", 32633), ("EPSG:4326+5773", 4326)]
)
def test_heights_are_no_part_of_a_place(compound: str, plane: int) -> None:
    assert horizontal_crs(CRS.from_user_input(compound)) == CRS.from_epsg(plane)
    assert horizontal_crs(UTM) == UTM
    assert horizontal_crs(None) is None


def test_units_are_those_of_the_crs() -> None:
    assert meters_per_unit(CRS.from_epsg(2263)) == pytest.approx(1200 / 3937)
    assert meters_per_unit(UTM) == meters_per_unit(None) == 1
    assert meters_per_unit(CRS.from_epsg(4326)) == 111_320


@pytest.mark.parametrize(
    ("crs", "place", "sides"),
    [
        ("EPSG:32633", (10, 0, 500_000, 0, -10, 7_000_000), (10, 10)),
        ("EPSG:32633", (0, 20, 500_000, 10, 0, 7_000_000), (10, 20)),
        ("EPSG:2263", (5, 0, 1e6, 0, -5, 2e5), (1.524, 1.524)),
        ("EPSG:4326", (1e-4, 0, 15, 0, -1e-4, 60), (5.566, 11.132)),
        ("EPSG:4326", (2e-4, 0, 15, 0, -1e-4, -60), (11.132, 11.132)),
        ("EPSG:4326", (1, 0, 179.5, 0, -1, 0.5), (111_320, 111_320)),
        ("EPSG:3857", (10, 0, 0, 0, -10, 8_399_738), (5, 5)),
        (MOON, (10, 0, 500_000, 0, -10, 0), (10, 10)),
        (SITE_GRID, (3, 0, 0, 0, -2, 0), (3, 2)),
        (None, (3, 0, 0, 0, -2, 0), (3, 2)),
    ],
)
def test_a_pixel_has_its_size_on_the_ground(
    crs: str | None, place: tuple[float, ...], sides: tuple[float, float]
) -> None:
    parsed, transform = crs and CRS.from_user_input(crs), Affine(*place)
    found = pixel_sides(parsed, transform, np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(found, np.repeat(np.array(sides)[:, None], 2, axis=1), rtol=0.012)
    middle = pixel_on_ground(parsed, transform, 1, 1)
    assert middle == pytest.approx(np.sqrt(sides[0] * sides[1]), rel=0.012)


@pytest.mark.parametrize("other", [SITE_GRID, MOON])
def test_grids_of_a_site_and_of_other_planets_are_not_related_to_earth(other: str) -> None:
    crs = parse_crs(other)
    assert not are_related(UTM, crs)
    assert are_related(crs, crs)
    assert are_related(UTM, None)
    assert np.isinf(transform_positions(crs, UTM, np.ones((2, 3)))).all()
    assert crs_name(crs) in ("site grid", "unknown")


@pytest.mark.parametrize("count", [1, 2, 7, 400])
def test_only_places_off_the_globe_have_no_longitude(count: int) -> None:
    x = np.linspace(-7e6, 7e6, count) if count > 1 else np.array([7e6])
    degrees = transform_positions(GEOSTATIONARY, CRS.from_epsg(4326), np.stack([x, x * 0]))
    # the Earth's limb in this view is 8.7 degrees from its middle
    assert np.isfinite(degrees).all(axis=0).tolist() == (np.abs(x) < 5.43e6).tolist()
