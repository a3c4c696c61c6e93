"""Longitudes that are counted in several ways: from 0 to 360, and across the antimeridian."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.warp import transform

from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.store import Store
from tests.data_prep.archives import noise, stripes, write_tif

SIZE, DEGREES = 32, 0.01


def ingest(src: Path, **options: Any) -> Store:
    return ingest_scenes(src, src.parent / "store", chip_px=8, buffer_px=0, **options)


def write(src: Path, name: str, values: np.ndarray, left: float, top: float = 10.0) -> None:
    place = Affine(DEGREES, 0, left, 0, -DEGREES, top)
    write_tif(src / f"{name}.tif", values, crs="EPSG:4326", transform=place)


def row_of(store: Store, name: str) -> np.ndarray:
    """The first row of a modality, from west to east."""
    number = [modality.name for modality in store.meta.modalities].index(name)
    first = np.flatnonzero(column(store.manifest, "row") == 0)
    order = first[np.argsort(column(store.manifest, "col")[first])]
    return np.concatenate([chip[0, 0] for chip in store.take(order)[number]])


def classes_of(store: Store) -> list[str]:
    first = np.flatnonzero(column(store.manifest, "row") == 0)
    order = first[np.argsort(column(store.manifest, "col")[first])]
    return [store.classes[label] for label in column(store.manifest, "label")[order]]


@pytest.mark.parametrize(("scene", "others"), [(-120.0, 240.0), (185.0, -175.0)])
def test_rasters_of_other_longitudes_cover_a_scene(
    tmp_path: Path, scene: float, others: float
) -> None:
    src = tmp_path / "src"
    write(src, "optical", noise((2, SIZE, SIZE)), scene)
    ramp = np.tile(np.arange(100, dtype=np.float32), (40, 1))
    write(src, "climate", ramp, others - 20 * DEGREES, 10.0 + 2 * DEGREES)
    write(src, "labels", stripes(SIZE, SIZE, 8, (1, 2)), others)
    store = ingest(src)
    np.testing.assert_allclose(row_of(store, "climate"), np.arange(20, 52), atol=1e-3)
    assert classes_of(store) == ["class 1", "class 2"] * 2
    assert not any("covers" in note or "lies in no scene" in note for note in store.meta.notes)


@pytest.mark.parametrize("left", [179.5, -180.5])
def test_a_raster_across_the_antimeridian_covers_both_sides(tmp_path: Path, left: float) -> None:
    src = tmp_path / "src"
    x, y = transform("EPSG:4326", "EPSG:32601", [-180.0], [9.9])
    place = {"crs": "EPSG:32601", "transform": Affine(1000, 0, x[0] - 16000, 0, -1000, y[0])}
    write_tif(src / "optical.tif", noise((2, SIZE, SIZE)), **place)
    write_tif(src / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)
    write(src, "dem", np.tile(np.arange(1, 101, dtype=np.int16), (100, 1)), left, 10.2)
    row = row_of(ingest(src, min_valid=1.0), "dem")
    assert len(row) == SIZE
    assert row[0] == pytest.approx(36, abs=1)
    assert set(np.diff(row)) <= {0, 1}
    assert np.ptp(row) == pytest.approx(28, abs=2)


@pytest.mark.parametrize(("left", "shares"), [(179.84, "wwee"), (190.0, "ee"), (-190.0, "ww")])
def test_polygons_are_divided_at_the_antimeridian(tmp_path: Path, left: float, shares: str) -> None:
    src = tmp_path / "src"
    write(src, "optical", noise((2, SIZE, SIZE)), left)
    features = [
        {
            "type": "Feature",
            "properties": {"side": side},
            "geometry": shapely.geometry.mapping(shapely.box(*box)),
        }
        for side, box in (("w", (160, 9, 180, 11)), ("e", (-180, 9, -160, 11)))
    ]
    collection = {"type": "FeatureCollection", "features": features}
    (src / "labels.geojson").write_text(json.dumps(collection))
    store = ingest(src, label_column="side")
    assert classes_of(store) == list(shares) if len(shares) == 4 else list(shares * 2)
    outside = any("1 of 2 polygons lie in no scene" in note for note in store.meta.notes)
    assert outside == (len(shares) == 2)
