"""Random chips of a store beside what plain rasterio calls read at their places.

For a store of one scene. Layers on the scene's grid are read by window, chip by chip; others
through rasterio's ``WarpedVRT`` on that grid, bilinear. All values must be equal.

    python -m benchmarks.positions store/ src/ landsat=landsat_b2.tif,landsat_b3.tif srtm=srtm.tif
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from data_prep.store import Store


def windows(
    path: Path, store: Store, places: NDArray[np.int64], side: int
) -> tuple[NDArray[Any], str]:
    """Windows [n, C, side, side] of a raster on the scene's grid, and how they were read."""
    (scene,) = store.meta.scenes
    cuts = [Window(col, row, side, side) for row, col in places.tolist()]
    crs = CRS.from_string(scene.crs)
    with rasterio.open(path) as source:
        if tuple(source.transform)[:6] == scene.transform and source.crs == crs:
            return np.stack([source.read(window=cut) for cut in cuts]), "read as it is"
        grid = {
            "crs": crs,
            "transform": Affine(*scene.transform),
            "height": scene.height,
            "width": scene.width,
        }
        with WarpedVRT(source, resampling=Resampling.bilinear, tolerance=1e-6, **grid) as warped:
            return np.stack([warped.read(window=cut) for cut in cuts]), "warped"


def main() -> None:
    """Compare, and say how many chips of each layer are equal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("src", type=Path)
    parser.add_argument("layer", nargs="+", help="NAME=FILE[,FILE…]")
    parser.add_argument("--chips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    store = Store.open(args.store)
    chips = np.random.default_rng(args.seed).choice(len(store), args.chips, replace=False)
    table = store.manifest.take(chips).to_pydict()
    places = np.stack([table["row"], table["col"]], axis=1)
    arrays = store.take(chips)
    names = [modality.name for modality in store.meta.modalities]
    for text in args.layer:
        name, _, files = text.partition("=")
        got = arrays[names.index(name)]
        parts = [windows(args.src / f, store, places, store.chip_px) for f in files.split(",")]
        want = np.concatenate([part for part, _ in parts], axis=1)
        equal = sum(map(np.array_equal, got, want))
        print(f"{name}: {equal} of {len(got)} chips equal, {parts[0][1]}")


if __name__ == "__main__":
    main()
