"""Images in pieces, mosaics beside their tiles, and rasters within a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, noise, stripes, write_tif

SIZE = 32


def ingest(src: Path, **options: Any) -> Store:
    options = {"chip_px": 8, "overwrite": True, "min_valid": 0.0} | options
    return ingest_scenes(src, src.parent / "store", **options)


def mosaic(store: Store, height: int, width: int) -> np.ndarray:
    (chips,) = store.take(np.arange(len(store)))
    out = np.zeros((chips.shape[1], height, width), chips.dtype)
    rows, cols = (column(store.manifest, name) for name in ("row", "col"))
    for chip, r, c in zip(chips, rows, cols, strict=True):
        out[:, r : r + 8, c : c + 8] = chip
    return out


@pytest.fixture
def tiles(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Three of four tiles of an image of 64×64 px, and labels of all of it."""
    whole = noise((2, 2 * SIZE, 2 * SIZE), 3)
    src = tmp_path / "src"
    for number, (row, col) in enumerate([(0, 0), (0, 1), (1, 0)]):
        part = whole[:, SIZE * row :, SIZE * col :][:, :SIZE, :SIZE]
        place = {"left": LEFT + 10 * SIZE * col, "top": 5_000_000 - 10 * SIZE * row}
        write_tif(src / f"tile_{number}.tif", part, **place)
    write_tif(src / "labels.tif", stripes(2 * SIZE, 2 * SIZE, 8, (1, 2)))
    whole[:, SIZE:, SIZE:] = 0
    return src, whole


@pytest.mark.parametrize(
    "options",
    [{}, {"patterns": ["tile_*.tif"]}, {"modalities": ["tile=tile_?.tif"]}],
    ids=["found", "pattern", "glob"],
)
def test_pieces_are_one_image_and_gaps_are_invalid(
    tiles: tuple[Path, np.ndarray], options: dict[str, Any]
) -> None:
    src, whole = tiles
    store = ingest(src, **options)
    np.testing.assert_array_equal(mosaic(store, 64, 64), whole)
    missing = (column(store.manifest, "row") >= SIZE) & (column(store.manifest, "col") >= SIZE)
    assert (column(store.manifest, "valid") == np.where(missing, 0.0, 1.0)).all()
    (modality,) = store.meta.modalities
    assert modality.bands == ["band1", "band2"]
    assert "3 files like tile_0.tif joined to one image (1 scene)" in store.meta.notes


def test_pieces_may_be_scenes_of_their_own(tiles: tuple[Path, np.ndarray]) -> None:
    store = ingest(tiles[0], patterns=["tile_{scene}.tif"])
    assert [scene.name for scene in store.meta.scenes] == ["0", "1", "2"]
    assert len(store) == 48


def test_pieces_have_nodata_overlap_and_odd_names(tmp_path: Path) -> None:
    whole = noise((2, SIZE, 2 * SIZE), 5)
    whole[:, :4, SIZE - 4 : SIZE + 4] = 9999
    src = tmp_path / "a & b's <c>"
    left, right = whole[:, :, : SIZE + 8].copy(), whole[:, :, SIZE:].copy()
    # where one piece has no data, the other counts
    right[:, 8:16, :8] = 9999
    write_tif(src / "p&1.tif", left, nodata=9999)
    write_tif(src / "p&2.tif", right, nodata=9999, left=LEFT + 10 * SIZE)
    write_tif(src / "labels.tif", stripes(SIZE, 2 * SIZE, 8, (1, 2)))
    store = ingest(src, patterns=["p&*.tif"])
    np.testing.assert_array_equal(mosaic(store, SIZE, 2 * SIZE), whole)
    assert column(store.manifest, "valid").min() == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": LEFT + 10 * SIZE + 3}, "do not lie on one grid"),
        ({"left": LEFT}, "show the same ground"),
        ({"left": LEFT + 10 * SIZE, "nodata": 7}, "differ in nodata value"),
        ({"left": LEFT + 10 * SIZE, "crs": "EPSG:32634"}, "differ in CRS"),
    ],
)
def test_files_that_are_no_pieces_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_tif(tmp_path / "src" / "p1.tif", noise((2, SIZE, SIZE)))
    write_tif(tmp_path / "src" / "p2.tif", noise((2, SIZE, SIZE), 1), **change)
    write_tif(tmp_path / "src" / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    with pytest.raises(DataError, match=message):
        ingest(tmp_path / "src", patterns=["p*.tif"])


def test_files_far_apart_name_the_way_out(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number in range(2):
        place = {"left": LEFT + 50_000 * number}
        write_tif(src / f"area-{number}.tif", noise((2, SIZE, SIZE), number), **place)
    write_tif(src / "labels.tif", stripes(SIZE, 6000, 8, (1, 2)))
    with pytest.raises(DataError, match=r"different ground.*--pattern 'area-\{scene\}.tif'"):
        ingest(src)
    assert len(ingest(src, patterns=["area-{scene}.tif"])) == 32


def write_vrt(
    path: Path, bands: list[list[tuple[str, int]]], width: int, derived: str = ""
) -> None:
    """A VRT of tiles of 32 px; ``bands`` have files and columns of each band."""
    with rasterio.open(path.parent / bands[0][0][0]) as first:
        srs = first.crs.to_wkt().replace('"', "&quot;")
        geo = ",".join(map(str, first.transform.to_gdal()))
    size = f'xSize="{SIZE}" ySize="{SIZE}"'
    text = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{i}"{derived}>'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
            f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
            f'<DstRect xOff="{col}" yOff="0" {size}/></SimpleSource>'
            for name, col in sources
        )
        + "</VRTRasterBand>"
        for i, sources in enumerate(bands, 1)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{SIZE}"><SRS>{srs}</SRS>'
        f"<GeoTransform>{geo}</GeoTransform>{text}</VRTDataset>"
    )


@pytest.mark.parametrize("kind", ["mosaic", "stack"])
def test_a_mosaic_replaces_the_files_that_it_is_made_of(tmp_path: Path, kind: str) -> None:
    src = tmp_path / "src"
    side = LEFT + 10 * SIZE if kind == "mosaic" else LEFT
    write_tif(src / "red.tif", noise((SIZE, SIZE)))
    write_tif(src / "nir.tif", noise((SIZE, SIZE), 1), left=side)
    if kind == "mosaic":
        write_vrt(src / "all.vrt", [[("red.tif", 0), ("nir.tif", SIZE)]], 2 * SIZE)
    else:
        write_vrt(src / "all.vrt", [[("red.tif", 0)], [("nir.tif", 0)]], SIZE)
    write_tif(src / "labels.tif", stripes(SIZE, 2 * SIZE, 8, (1, 2)))
    store = ingest(src)
    assert [modality.name for modality in store.meta.modalities] == ["all"]
    assert {item.path: item.reason for item in store.meta.skipped} == {
        "red.tif": "a piece of all.vrt",
        "nir.tif": "a piece of all.vrt",
    }


def test_netcdf_variables_are_named_and_chosen(tmp_path: Path) -> None:
    src = tmp_path / "src"
    # without coordinates GDAL takes the first row of netCDF for the southernmost one
    first, second = (noise((SIZE, SIZE), seed, dtype="int16") for seed in (1, 2))
    write_netcdf(src / "cube.nc", {"ndvi": first[::-1], "height": second[::-1]})
    write_tif(src / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), crs=None)
    with pytest.raises(DataError, match=r"holds 2 subdatasets \(ndvi, height\)") as refused:
        ingest(src)
    remedy = str(refused.value).rpartition("--modality ")[2]
    (chips,) = (store := ingest(src, modalities=[remedy])).take(np.arange(16))
    np.testing.assert_array_equal(chips[0, 0], first[:8, :8])
    assert [(m.name, m.bands) for m in store.meta.modalities] == [("ndvi", ["ndvi"])]
    both = ingest(src, modalities=["h=*.nc:height", "n=*.nc:ndvi"])
    np.testing.assert_array_equal(both.take([0])[0][0, 0], second[:8, :8])
    with pytest.raises(DataError, match="no subdataset evi: choose from ndvi, height"):
        ingest(src, modalities=["h=*.nc:evi"])


def write_netcdf(path: Path, variables: dict[str, np.ndarray]) -> None:
    """NetCDF (classic, version 1) written byte for byte: no library for it is a dependency."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def name(text: str) -> bytes:
        raw = text.encode()
        return len(raw).to_bytes(4, "big") + raw + b"\0" * (-len(raw) % 4)

    def number(value: int) -> bytes:
        return value.to_bytes(4, "big")

    head = b"CDF\1" + number(0) + number(10) + number(2)
    head += b"".join(name(dim) + number(SIZE) for dim in ("y", "x"))
    head += number(0) * 2 + number(11) + number(len(variables))
    fixed = sum(len(name(n)) + 4 + 8 + 8 + 4 + 4 + 4 for n in variables)
    begin = len(head) + fixed
    for n, values in variables.items():
        head += name(n) + number(2) + number(0) + number(1) + number(0) * 2
        head += number(3) + number(values.nbytes) + number(begin)
        begin += values.nbytes
    path.write_bytes(head + b"".join(v.astype(">i2").tobytes() for v in variables.values()))
