from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from data_prep.rasters import write_geotiff


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_bands_names_tags_and_colors_come_back(tmp_path: Path, dtype: str) -> None:
    bands = np.random.default_rng(0).integers(0, 100, (2, 40, 70)).astype(dtype)
    grid = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    write_geotiff(
        tmp_path / "a.tif",
        bands,
        ("red", "blue"),
        {1: (9, 8, 7, 255)} if dtype == "uint8" else None,
        tags={"synthetic": "true"},
        block_px=32,
        crs="EPSG:32633",
        transform=grid,
        nodata=0,
    )
    with rasterio.open(tmp_path / "a.tif") as source:
        np.testing.assert_array_equal(source.read(), bands)
        assert (source.transform, source.nodata, source.crs.to_epsg()) == (grid, 0, 32633)
        assert source.block_shapes == [(32, 32)] * 2
        assert source.descriptions == ("red", "blue")
        assert source.tags()["synthetic"] == "true"
        if dtype == "uint8":
            assert source.colormap(1)[1] == (9, 8, 7, 255)
