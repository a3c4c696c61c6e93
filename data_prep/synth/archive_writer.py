"""Write the synthetic archive: GeoTIFFs, polygons, and the two JSON files at its root.

::

    OUT/classes.json                      {"1": "water", …}
    OUT/archive.json                      {"synthetic": true, "seed": …, "sites": […], …}
    OUT/site-00/scene-00/optical.tif      uint16, blue green red near infrared, 10 m, nodata 0
    OUT/site-00/scene-00/elevation.tif    float32, meters, 30 m, nodata -9999
    OUT/site-00/scene-00/labels.tif       uint8, class codes, 10 m, 0 = unlabeled
    OUT/site-00/scene-00/labels.gpkg      polygons with the columns "code" and "class"
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.raw import write as write_layer
from rasterio.features import shapes

from data_prep.rasters import write_geotiff
from data_prep.staging import staged_folder
from data_prep.synth.land_cover import patches_across
from data_prep.synth.landscapes import CLASSES, Cover, Site, draw_patch_covers, draw_site
from data_prep.synth.radiometry import NODATA
from data_prep.synth.render import Scene, render_scene
from data_prep.synth.terrain import PIXEL_M
from rsdgc.errors import SettingError

FORMAT = 1
BANDS = ("blue", "green", "red", "near-infrared")
ELEVATION_NODATA = -9999.0
#: Elevation is three times as coarse as the image, as it is in real archives.
ELEVATION_STEP = 3
#: Smallest scene on which a river and four patches find room.
LEAST_SCENE_PX = 96
#: Polygons below 40 pixels are left out; outlines may be off by about a pixel.
LEAST_POLYGON_M2 = 4_000
OUTLINE_TOLERANCE_M = 12.0
#: GeoPackages record when they were written; a fixed date keeps them equal byte for byte.
_FIXED_DATE = {"OGR_CURRENT_DATE": "2024-01-01T00:00:00.000Z"}


def write_archive(
    out: str | Path, *, sites: int = 4, seed: int = 0, scenes_per_site: int = 5, scene_px: int = 576
) -> list[Path]:
    """Write a synthetic remote-sensing archive; it appears under its name once it is complete.

    Parameters
    ----------
    out : str or Path
        Folder to create; it must not exist or be empty.
    sites : int
        Number of sites, at least 1. A site's content does not depend on how many there are.
    seed : int
        The same seed gives the same archive, 0 or more.
    scenes_per_site : int
        Scenes in each site, at least 1.
    scene_px : int
        Side of a scene in 10 m pixels, at least 96.

    Returns
    -------
    list of Path
        The scenes' folders.

    Raises
    ------
    SettingError
        A number is out of range.
    DataError
        ``out`` holds something already.
    """
    for name, value, least in (
        ("--sites", sites, 1),
        ("--seed", seed, 0),
        ("--scenes-per-site", scenes_per_site, 1),
        ("--scene-px", scene_px, LEAST_SCENE_PX),
    ):
        if value < least:
            raise SettingError(f"{name} is {value}: choose {least} or more")
    drawn = [draw_site(seed, index) for index in range(sites)]
    scenes = []
    with staged_folder(out) as folder:
        for index, site in enumerate(drawn):
            patches = patches_across(scene_px) ** 2
            rng = np.random.default_rng([seed, index, 0])
            covers = draw_patch_covers(site, scenes_per_site, patches, rng)
            for number, of_scene in enumerate(covers):
                rng = np.random.default_rng([seed, index, 1, number])
                scene = render_scene(site, of_scene, scene_px, rng)
                name = f"{site.name}/scene-{number:02d}"
                _write_scene(folder / name, scene, site, number)
                scenes.append(Path(out) / name)
        names = {str(int(cover)): name for cover, (name, _) in CLASSES.items()}
        _write_json(folder / "classes.json", names)
        _write_json(folder / "archive.json", _describe(drawn, seed, scenes_per_site, scene_px))
    return scenes


def _write_scene(folder: Path, scene: Scene, site: Site, number: int) -> None:
    """Write a scene's rasters and polygons; the scenes of a site lie apart on a 3-column grid."""
    folder.mkdir(parents=True)
    # multiples of 60 m, on which the grids of image and elevation coincide
    pitch = PIXEL_M * (scene.labels.shape[0] // 60 * 60 + 120)
    west = site.origin[0] + number % 3 * pitch
    north = site.origin[1] - number // 3 * pitch
    grid = Affine(PIXEL_M, 0, west, 0, -PIXEL_M, north)
    coarse_m = PIXEL_M * ELEVATION_STEP
    acquisition = {name: f"{value:.4g}" for name, value in asdict(scene.acquisition).items()}
    shared: dict[str, Any] = {
        "tags": {"synthetic": "true", "landscape": site.landscape_name} | acquisition,
        "crs": f"EPSG:{site.epsg}",
        "block_px": 256,
        "zlevel": 4,
    }
    write_geotiff(
        folder / "optical.tif", scene.counts, BANDS, transform=grid, nodata=NODATA, **shared
    )
    colors = {0: (0, 0, 0, 0)} | {int(c): (*color, 255) for c, (_, color) in CLASSES.items()}
    labels = scene.labels[None]
    write_geotiff(
        folder / "labels.tif", labels, ("land cover",), colors, transform=grid, nodata=0, **shared
    )
    write_geotiff(
        folder / "elevation.tif",
        coarsen(scene.elevation, ELEVATION_STEP)[None],
        ("elevation",),
        transform=Affine(coarse_m, 0, west, 0, -coarse_m, north),
        nodata=ELEVATION_NODATA,
        units=("m",),
        **shared,
    )
    write_polygons(folder / "labels.gpkg", scene.labels, grid, site.epsg)


def coarsen(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Average blocks of step × step pixels; the last ones repeat the edge where it does not fit."""
    pad = -image.shape[0] % step
    padded = np.pad(image, ((0, pad), (0, pad)), mode="edge")
    side = padded.shape[0] // step
    blocks = padded.reshape(side, step, side, step)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def write_polygons(path: Path, labels: NDArray[np.uint8], transform: Affine, epsg: int) -> None:
    """Outline the classes of a label raster and write them, without code 0, as a GeoPackage."""
    regions = list(shapes(labels, mask=labels > 0, transform=transform))
    outlines = np.array([shapely.geometry.shape(outline) for outline, _ in regions], dtype=object)
    codes = np.array([int(code) for _, code in regions], dtype=np.int32)
    large = shapely.area(outlines) >= LEAST_POLYGON_M2
    # simplified outlines may cross themselves: repair makes parts of them, lines among these
    valid = shapely.make_valid(shapely.simplify(outlines[large], OUTLINE_TOLERANCE_M))
    parts, outline_of = shapely.get_parts(valid, return_index=True)
    polygons = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON.value
    codes = codes[large][outline_of][polygons]
    names = np.array([CLASSES[Cover(code)][0] for code in codes], dtype=object)
    previous = {name: pyogrio.get_gdal_config_option(name) for name in _FIXED_DATE}
    pyogrio.set_gdal_config_options(_FIXED_DATE)
    try:
        write_layer(
            path,
            geometry=shapely.to_wkb(parts[polygons]),
            field_data=[codes, names],
            fields=np.array(["code", "class"]),
            crs=f"EPSG:{epsg}",
            geometry_type="Polygon",
            layer="labels",
            driver="GPKG",
        )
    finally:
        pyogrio.set_gdal_config_options(previous)


def _describe(sites: list[Site], seed: int, scenes_per_site: int, scene_px: int) -> dict[str, Any]:
    return {
        "synthetic": True,
        "description": "Synthetic remote-sensing archive: no pixel of it was ever measured.",
        "format": FORMAT,
        "seed": seed,
        "scenes_per_site": scenes_per_site,
        "scene_px": scene_px,
        "bands": list(BANDS),
        "sites": [
            {
                "name": site.name,
                "landscape": site.landscape_name,
                "crs": f"EPSG:{site.epsg}",
                "gain": [round(float(value), 4) for value in site.gain],
                "offset": [round(float(value), 4) for value in site.offset],
                "mix": {
                    name: round(float(share), 4)
                    for (name, _), share in zip(CLASSES.values(), site.mix, strict=True)
                },
            }
            for site in sites
        ],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
