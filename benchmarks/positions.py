"""Compare random chips of a store with what plain rasterio reads at their positions.

For a store of one scene. Modalities on the scene's grid are read by window, chip by chip; others
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


def windows(path: Path, store: Store, corners: NDArray[np.int64]) -> tuple[NDArray[Any], str]:
    """Return windows [n, C, chip_px, chip_px] on the scene's grid, and how they were read."""
    (scene,) = store.meta.scenes
    side = store.chip_px
    cuts = [Window(column, row, side, side) for row, column in corners.tolist()]
    crs = CRS.from_string(scene.crs)
    with rasterio.open(path) as source:
        if tuple(source.transform)[:6] == scene.transform and source.crs == crs:
            return np.stack([source.read(window=cut) for cut in cuts]), "read as stored"
        size = {"height": scene.height, "width": scene.width, "transform": Affine(*scene.transform)}
        options = {"crs": crs, "resampling": Resampling.bilinear, "tolerance": 1e-6}
        with WarpedVRT(source, **size, **options) as warped:
            return np.stack([warped.read(window=cut) for cut in cuts]), "warped"


def main() -> None:
    """Print how many chips of each modality are equal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("src", type=Path)
    parser.add_argument("modality", nargs="+", help="NAME=FILE[,FILE…]")
    parser.add_argument("--chips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    store = Store.open(args.store)
    chips = np.random.default_rng(args.seed).choice(len(store), args.chips, replace=False)
    table = store.manifest.take(chips).to_pydict()
    corners = np.stack([table["row"], table["col"]], axis=1)
    arrays = store.take(chips)
    names = [modality.name for modality in store.meta.modalities]
    for text in args.modality:
        name, _, files = text.partition("=")
        stored = arrays[names.index(name)]
        read = [windows(args.src / file, store, corners) for file in files.split(",")]
        expected = np.concatenate([pixels for pixels, _ in read], axis=1)
        equal = sum(map(np.array_equal, stored, expected))
        print(f"{name}: {equal} of {len(stored)} chips equal, {read[0][1]}")


if __name__ == "__main__":
    main()
