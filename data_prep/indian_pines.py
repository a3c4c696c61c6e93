"""Indian Pines, a real hyperspectral scene, written out as GeoTIFF with its label raster.

::

    OUT/classes.json                        {"1": "alfalfa", …}
    OUT/indian-pines/hyperspectral.tif      uint16, 145 × 145 pixels, 200 bands
    OUT/indian-pines/labels.tif             uint8, 1 to 16, 0 = unlabeled
    OUT/indian-pines/ATTRIBUTION.txt

The scene has no coordinate system in the source, and none is invented. The data come from the
package ``tensorly``, which is installed by ``pip install "rsdgc[demo]"``.

References
----------
Baumgardner, M. F., Biehl, L. L., Landgrebe, D. A. (2015). 220 Band AVIRIS Hyperspectral Image
Data Set: June 12, 1992 Indian Pine Test Site 3. Purdue University Research Repository.
doi:10.4231/R7RX991C. License: CC BY 3.0.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from data_prep.rasters import write_geotiff
from data_prep.staging import staged_folder
from rsdgc.errors import DataError

CLASS_NAMES = (
    "alfalfa",
    "corn-notill",
    "corn-mintill",
    "corn",
    "grass-pasture",
    "grass-trees",
    "grass-pasture-mowed",
    "hay-windrowed",
    "oats",
    "soybean-notill",
    "soybean-mintill",
    "soybean-clean",
    "wheat",
    "woods",
    "buildings-grass-trees-drives",
    "stone-steel-towers",
)
SHAPE = (145, 145, 200)
LICENSE = "CC BY 3.0, https://creativecommons.org/licenses/by/3.0/"
ATTRIBUTION = (
    "Baumgardner, M. F., Biehl, L. L., Landgrebe, D. A. (2015). 220 Band AVIRIS Hyperspectral "
    "Image Data Set: June 12, 1992 Indian Pine Test Site 3. Purdue University Research "
    "Repository. doi:10.4231/R7RX991C"
)
CHANGES = (
    "Changed: float64 array to uint16 GeoTIFF; 20 water absorption bands were left out before."
)


def write_indian_pines(out: str | Path) -> Path:
    """Write the Indian Pines scene to a new or empty folder, and return that.

    ``rsdgc ingest --layout scenes`` reads it.

    Raises
    ------
    DataError
        ``tensorly`` is missing or has another scene than expected, or ``out`` is not empty.
    """
    cube, labels = _load()
    with staged_folder(out) as folder:
        scene = folder / "indian-pines"
        scene.mkdir()
        _write_raster(scene / "hyperspectral.tif", np.moveaxis(cube, -1, 0), None)
        _write_raster(scene / "labels.tif", labels[None], 0)
        text = f"Indian Pines\n\n{ATTRIBUTION}\n\nLicence: {LICENSE}\n{CHANGES}\n"
        (scene / "ATTRIBUTION.txt").write_text(text, encoding="utf-8")
        names = {str(code): name for code, name in enumerate(CLASS_NAMES, start=1)}
        (folder / "classes.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
    return Path(out)


def _load() -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return the cube, uint16 (145, 145, 200), and the labels, uint8 (145, 145)."""
    try:
        from tensorly.datasets import load_indian_pines  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise DataError(
            'Indian Pines comes with the package tensorly: run pip install "rsdgc[demo]"'
        ) from error
    source = load_indian_pines()
    cube, labels = np.asarray(source["tensor"]), np.asarray(source["ticks"][0])
    if cube.shape != SHAPE or labels.shape != SHAPE[:2] or labels.max() != len(CLASS_NAMES):
        raise DataError(
            f"tensorly's Indian Pines has shape {cube.shape} with labels {labels.shape}, not "
            f'{SHAPE}: run pip install "rsdgc[demo]" for a version that fits'
        )
    return cube.astype(np.uint16), labels.astype(np.uint8)


def _write_raster(path: Path, bands: NDArray[Any], nodata: int | None) -> None:
    """Write bands (C, H, W) as a GeoTIFF without a coordinate system."""
    tags = {"ATTRIBUTION": ATTRIBUTION, "LICENCE": LICENSE, "CHANGES": CHANGES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        write_geotiff(path, bands, tags=tags, block_px=160, interleave="band", nodata=nodata)
