"""Coordinate reference systems: what cannot be related or transformed is no error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS

from data_prep.crs import (
    are_related,
    crs_name,
    crs_text,
    horizontal_crs,
    meters_per_unit,
    parse_crs,
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
