"""Where rasters lie is compared on the ground: not by size, code of a CRS, or unit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import transform

from data_prep.crs import parse_crs
from data_prep.ingest.grid import coverage, grid_of, is_on_grid, nesting
from data_prep.ingest.no_labels import NoLabels
from data_prep.ingest.pieces import GDAL_TYPES
from data_prep.ingest.scene import ModalityFiles, Scene
from data_prep.ingest.scenes import ingest_scenes
from data_prep.rasters import read_header
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import (
    LEFT,
    MOON,
    SITE_GRID,
    TOP,
    noise,
    stripes,
    write_polygons,
    write_tif,
)

PLACE = Affine(10, 0, LEFT, 0, -10, TOP)
FOOT = 1200 / 3937


def write_pair(src: Path, crs: Any, label_crs: Any, labels_at: Affine = PLACE) -> Path:
    """An image and labels of 32 px; files without a CRS have a geotransform all the same."""
    for name, values, of_file, at in (
        ("image.tif", noise((2, 32, 32)), crs, PLACE),
        ("labels.tif", stripes(32, 32, 8, (1, 2)), label_crs, labels_at),
    ):
        write_tif(src / name, values, crs=of_file or "EPSG:32633", transform=at)
        if of_file is None:
            with edited(src / name) as file:
                file.crs = CRS()
    return src


@contextmanager
def edited(path: Path) -> Iterator[Any]:
    """Open a file to change its header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "r+") as file:
            yield file


def notes_of(store: Store) -> str:
    return " | ".join(store.meta.notes)


def labels_by_place(store: Store) -> dict[tuple[int, int], str]:
    table = store.manifest.to_pydict()
    places = zip(table["row"], table["col"], strict=True)
    return dict(zip(places, [store.classes[i] for i in table["label"]], strict=True))


def ingest(src: Path, **options: Any) -> Store:
    return ingest_scenes(src, src.parent / "store", chip_px=8, overwrite=True, **options)


@pytest.mark.parametrize("crs", [SITE_GRID, MOON])
def test_local_grids_and_other_planets_are_ingested_without_longitudes(
    tmp_path: Path, crs: str
) -> None:
    store = ingest(write_pair(tmp_path / "src", parse_crs(crs), parse_crs(crs)))
    assert len(store) == 16
    assert "geometry" not in store.manifest.column_names
    assert "16 samples of src without a footprint in longitude and latitude" in notes_of(store)
    assert store.manifest.column("x")[0].as_py() == LEFT + 40


@pytest.mark.parametrize("crs", [SITE_GRID, MOON])
def test_crss_that_cannot_be_related_are_trusted_where_the_geotransforms_agree(
    tmp_path: Path, crs: str
) -> None:
    src = write_pair(tmp_path / "src", "EPSG:32633", parse_crs(crs))
    assert "labels.tif taken pixel by pixel: the geotransforms agree" in notes_of(ingest(src))
    write_pair(src, "EPSG:32633", parse_crs(crs), Affine(10, 0, LEFT + 80, 0, -10, TOP))
    with pytest.raises(DataError, match=r"no transformation from .* name its CRS with --label-crs"):
        ingest(src)
    # the remedy helps
    labels = labels_by_place(ingest(src, label_crs="EPSG:32633"))
    assert (labels[0, 8], labels[0, 16]) == ("class 1", "class 2")


@pytest.mark.parametrize(("crs", "label_crs"), [(None, None), ("EPSG:32633", None)])
def test_shifted_labels_are_never_laid_over_in_silence(
    tmp_path: Path, crs: str | None, label_crs: str | None
) -> None:
    src = write_pair(tmp_path / "src", crs, label_crs, Affine(10, 0, LEFT + 80, 0, -10, TOP))
    with pytest.raises(DataError, match=r"does not lie on the scene's pixels.*--label-crs"):
        ingest(src)
    options = {"label_crs": "EPSG:32633"} | ({} if crs else {"crs": "EPSG:32633"})
    labels = labels_by_place(ingest(src, **options))
    assert {at: name for at, name in labels.items() if at[0] == 0} == {
        (0, 8): "class 1",
        (0, 16): "class 2",
        (0, 24): "class 1",
    }
    # without a shift, the geotransforms say enough
    store = ingest(write_pair(src, crs, label_crs))
    assert len(store) == 16
    assert "warped" not in notes_of(store)


def test_polygons_without_a_crs_are_placed_by_the_option(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "image.tif", noise((2, 32, 32)))
    boxes = [((0, 0, 16, 32), "west"), ((16, 0, 32, 32), "east"), ((60, 0, 70, 9), "far")]
    write_polygons(src / "labels.shp", boxes)
    (src / "labels.prj").unlink()
    with pytest.raises(DataError, match=r"labels.shp has no CRS: name it with --label-crs"):
        ingest(src, label_column="name")
    store = ingest(src, label_column="name", label_crs="EPSG:32633")
    assert len(store) == 16
    assert "labels.shp: 1 of 3 polygons lie in no scene" in notes_of(store)


@pytest.mark.parametrize("crs", ["EPSG:32633+5773", "EPSG:32633+3855"])
def test_a_vertical_part_does_not_resample(tmp_path: Path, crs: str) -> None:
    src = write_pair(tmp_path / "src", "EPSG:32633", "EPSG:32633")
    heights = np.linspace(500, 600, 32 * 32, dtype=np.float32).reshape(32, 32)
    write_tif(src / "dem.tif", heights, crs=crs, transform=PLACE)
    header = read_header(src / "dem.tif")
    assert header.crs == CRS.from_epsg(32633)
    store = ingest(src)
    assert "warped" not in notes_of(store)
    modality = [m.name for m in store.meta.modalities].index("dem")
    np.testing.assert_array_equal(store.take(np.array([0]))[modality][0, 0], heights[:8, :8])


def test_pixels_in_feet_and_meters_are_compared_in_meters(tmp_path: Path) -> None:
    """New York's grid in feet (2263) and in meters (32118)."""
    feet, meters = "EPSG:2263", "EPSG:32118"
    fine = write_tif(
        tmp_path / "fine.tif", noise((3, 20, 20)), crs=feet, pixel=5.0, left=1e6, top=2e5
    )
    coarse = write_tif(
        tmp_path / "coarse.tif",
        noise((3, 10, 10)),
        crs=meters,
        pixel=10 * FOOT,
        left=1e6 * FOOT,
        top=2e5 * FOOT,
    )
    grid = grid_of(read_header(fine))
    header = read_header(coarse)
    # ten feet are 3.05 m: by numbers alone, the coarse file would be the finer one
    assert header.resolution < read_header(fine).resolution
    assert header.resolution_m == pytest.approx(2 * read_header(fine).resolution_m)
    assert nesting(header, grid, 4, 4) == 2
    assert is_on_grid(header, grid.coarser(2))


def test_the_reference_is_the_finest_on_the_ground(tmp_path: Path) -> None:
    """At 60 degrees north a pixel of 0.0001 degrees covers 5.6 m by 11.1 m."""
    globe = write_tif(
        tmp_path / "globe.tif", noise((3, 20, 20)), crs="EPSG:4326", pixel=1e-4, left=15, top=60
    )
    (x,), (y,) = transform("EPSG:4326", "EPSG:32633", [15.0], [60.0])
    plane = write_tif(
        tmp_path / "plane.tif", noise((3, 20, 20)), crs="EPSG:32633", pixel=9.0, left=x, top=y
    )
    modalities = [ModalityFiles(each.stem, (read_header(each),)) for each in (plane, globe)]
    for order in (modalities, modalities[::-1]):
        scene = Scene("a", "", order, NoLabels(tmp_path / "labels.tif"))
        assert scene.reference.path == globe


@pytest.mark.parametrize("declared", ["EPSG:32633", ""])
def test_control_points_place_a_file_also_beside_a_crs(tmp_path: Path, declared: str) -> None:
    src = write_pair(tmp_path / "src", "EPSG:32633", "EPSG:32633")
    with rasterio.open(src / "image.tif") as source:
        values = source.read()
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    points = [
        GroundControlPoint(row, col, LEFT + 10 * col, TOP - 10 * row, 0) for row, col in corners
    ]
    write_tif(src / "image.tif", values, crs=None)
    with edited(src / "image.tif") as file:
        file.gcps = points, CRS.from_string("EPSG:32633") if declared else CRS()
    options = {} if declared else {"crs": "EPSG:32633"}
    if not declared:
        note = "ground control points without a CRS, not applied: name it with --crs"
        assert note in read_header(src / "image.tif").notes[0]
    store = ingest(src, **options)
    assert "image.tif placed by its ground control points" in notes_of(store)
    np.testing.assert_array_equal(store.take(np.array([0]))[0][0], values[:, :8, :8])


def test_control_points_count_beside_an_identity_that_is_declared(tmp_path: Path) -> None:
    """GDAL takes an identity for a geotransform where a VRT writes one, and ignores the points."""
    src = write_pair(tmp_path / "src", "EPSG:32633", "EPSG:32633")
    with rasterio.open(src / "image.tif") as source:
        values = source.read()
    write_tif(src / "image.tif", values, crs=None)
    (src / "image.tif").rename(src / "image.bin")
    for srs in ("EPSG:32633", "EPSG:4326"):
        points = [
            f'<GCP Pixel="{col}" Line="{row}" X="{LEFT + 10 * col}" Y="{TOP - 10 * row}" Z="80"/>'
            for row, col in ((0, 0), (0, 64), (64, 0), (64, 64))
        ]
        bands = [
            f'<VRTRasterBand dataType="{{}}" band="{i}"><SimpleSource><SourceFilename '
            f'relativeToVRT="1">image.bin</SourceFilename><SourceBand>{i}</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
            for i in range(1, len(values) + 1)
        ]
        kind = GDAL_TYPES[values.dtype.name]
        (src / "image.vrt").write_text(
            f'<VRTDataset rasterXSize="32" rasterYSize="32"><SRS>{srs}</SRS>'
            "<GeoTransform>0, 1, 0, 0, 0, 1</GeoTransform>"
            f'<GCPList Projection="EPSG:32633">{"".join(points)}</GCPList>'
            f"{''.join(bands).format(*[kind] * len(bands))}</VRTDataset>"
        )
        store = ingest(src)
        assert "image.vrt placed by its ground control points" in notes_of(store)
        np.testing.assert_array_equal(store.take(np.array([0]))[0][0], values[:, :8, :8])


def test_rational_polynomials_are_named_and_not_applied(tmp_path: Path) -> None:
    src = write_pair(tmp_path / "src", None, None)
    write_tif(src / "image.tif", noise((2, 32, 32)), crs=None)
    write_tif(src / "labels.tif", stripes(32, 32, 8, (1, 2)), crs=None)
    coefficients = " ".join(["1"] + ["0"] * 19)
    names = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")
    terms = ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")
    rpcs = dict.fromkeys(names, coefficients)
    rpcs |= {f"{term}_{kind}": "1" for term in terms for kind in ("OFF", "SCALE")}
    with edited(src / "image.tif") as file:
        file.update_tags(ns="RPC", **rpcs)
    assert "image.tif has RPCs, which are not applied" in notes_of(ingest(src))


@pytest.mark.parametrize("option", ["crs", "label_crs"])
def test_a_crs_alone_places_nothing(tmp_path: Path, option: str) -> None:
    src = write_pair(tmp_path / "src", None, None)
    write_tif(src / "image.tif", noise((2, 32, 32)), crs=None)
    write_tif(src / "labels.tif", stripes(32, 32, 8, (1, 2)), crs=None)
    with pytest.raises(DataError, match="has no geotransform, so that a CRS does not place it"):
        ingest(src, **{option: "EPSG:32633"})
    assert len(ingest(src)) == 16


def test_labels_of_a_part_are_noted_on_both_sides(tmp_path: Path) -> None:
    src = write_pair(
        tmp_path / "src", "EPSG:32633", "EPSG:32633", Affine(10, 0, LEFT + 160, 0, -10, TOP)
    )
    notes = notes_of(ingest(src))
    assert "labels.tif covers 50% of the scene: the rest has no data" in notes
    assert "labels.tif: 50% of it lies in no scene" in notes


@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_global_grids_cover_the_antimeridian_in_either_count(tmp_path: Path, west: float) -> None:
    """Degrees from −180 to 180, and from 0 to 360, under a scene in Fiji (UTM zone 60 S)."""
    (x,), (y,) = transform("EPSG:4326", "EPSG:32760", [180.0], [-17.0])
    scene = write_tif(
        tmp_path / "a.tif", noise((2, 32, 32)), crs="EPSG:32760", pixel=1000, left=x - 16e3, top=y
    )
    globe = write_tif(
        tmp_path / "globe.tif", noise((180, 360)), crs="EPSG:4326", pixel=1, left=west, top=90
    )
    assert coverage(read_header(globe), grid_of(read_header(scene))) == 1


def test_views_of_the_whole_disk_have_footprints_where_there_is_ground(tmp_path: Path) -> None:
    """A geostationary view: 64 px of 180 km, whose corners look past the Earth."""
    crs = CRS.from_proj4("+proj=geos +h=35785831 +lon_0=0 +sweep=y")
    place = {"crs": crs, "pixel": 180e3, "left": -32 * 180e3, "top": 32 * 180e3}
    src = tmp_path / "src"
    write_tif(src / "image.tif", noise((2, 64, 64)), **place)
    write_tif(src / "labels.tif", stripes(64, 64, 8, (1, 2)), **place)
    store = ingest(src)
    shapes = shapely.from_wkb(store.manifest.column("geometry").to_pylist())
    on_ground = ~shapely.is_missing(shapes)
    assert len(store) == 64
    assert 30 < on_ground.sum() < 64
    assert np.isfinite(shapely.bounds(shapes[on_ground])).all()
    assert f"{64 - on_ground.sum()} samples of src without a footprint" in notes_of(store)


@pytest.mark.parametrize("offset_px", [0, 4])
@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3031"])
def test_footprints_at_a_pole_never_span_the_globe(
    tmp_path: Path, crs: str, offset_px: int
) -> None:
    place = {"crs": crs, "pixel": 1000.0, "left": (offset_px - 16) * 1e3, "top": 16e3}
    src = tmp_path / "src"
    write_tif(src / "image.tif", noise((2, 32, 32)), **place)
    write_tif(src / "labels.tif", stripes(32, 32, 8, (1, 2)), **place)
    store = ingest(src)
    shapes = shapely.from_wkb(store.manifest.column("geometry").to_pylist())
    shapes = shapes[~shapely.is_missing(shapes)]
    # the pole is a corner of four chips, or lies on the side of two, which it then takes away
    assert len(shapes) == (16 if offset_px == 0 else 14)
    bounds = shapely.bounds(shapes)
    assert (bounds[:, 2] - bounds[:, 0]).max() < 180
    assert shapely.is_valid(shapes).all()
    # sides of a polar chip are drawn as they run: its area is kept
    area = shapely.area(
        shapely.transform(
            shapes, lambda p: np.stack(transform("OGC:CRS84", crs, p[:, 0], p[:, 1]), axis=1)
        )
    )
    np.testing.assert_allclose(area, 64e6, rtol=0.05)


@pytest.mark.parametrize("options", [{}, {"modalities": ["dem=dem.tif", "optical=optical.tif"]}])
def test_a_modality_is_given_a_crs_of_its_own(tmp_path: Path, options: dict[str, Any]) -> None:
    src = tmp_path / "src"
    write_tif(src / "optical.tif", noise((2, 32, 32)), transform=PLACE)
    write_tif(src / "dem.tif", noise((32, 32)), transform=PLACE, crs="EPSG:32632")
    write_tif(src / "labels.tif", stripes(32, 32, 8, (1, 2)), transform=PLACE)
    with pytest.raises(DataError, match=r"dem.tif does not overlap .*--crs"):
        ingest(src, **options)
    store = ingest(src, crs={"dem": "EPSG:32633"}, **options)
    assert not any("warped" in note for note in store.meta.notes)
    with pytest.raises(SettingError, match="--crs for elevation: choose from the modalities"):
        ingest(src, crs={"elevation": "EPSG:32633", "": "EPSG:32633"}, **options)


def test_a_modality_of_pieces_is_given_a_crs_of_its_own(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i in range(2):
        place = Affine(10, 0, LEFT + 320 * i, 0, -10, TOP)
        write_tif(src / f"tile{i}.tif", noise((32, 32), i), transform=place, crs="EPSG:32632")
    write_tif(src / "labels.tif", stripes(32, 64, 8, (1, 2)), transform=PLACE)
    store = ingest(src, crs={"tile": "EPSG:32633"})
    assert [(s.width, s.crs) for s in store.meta.scenes] == [(64, "EPSG:32633")]
