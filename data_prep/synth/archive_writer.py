"""Write the synthetic archive: GeoTIFFs, polygons, and the two JSON files at its root.

::

    OUT/classes.json                      {"1": "water", …}
    OUT/archive.json                      {"synthetic": true, "seed": …, "sites": […], …}
    OUT/site-00/scene-00/optical.tif      uint16, blue green red near infrared, 10 m, nodata 0
    OUT/site-00/scene-00/elevation.tif    float32, metres, 30 m, nodata -9999
    OUT/site-00/scene-00/labels.tif       uint8, class codes, 10 m, 0 = unlabelled
    OUT/site-00/scene-00/labels.gpkg      polygons with the columns "code" and "class"
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine

from data_prep.staging import staged_folder
from data_prep.synth.compose import Scene, make_scene
from data_prep.synth.cover_classes import CLASS_COLOURS, CLASS_NAMES, Cover
from data_prep.synth.landcover import patches_across
from data_prep.synth.polygons import write_polygons
from data_prep.synth.radiometry import NODATA
from data_prep.synth.sites import Site, deal_patches, draw_site
from data_prep.synth.terrain import PIXEL_M
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
BANDS = ("blue", "green", "red", "near-infrared")
ELEVATION_NODATA = -9999.0
SCENES_PER_SITE = 5
SCENE_PX = 576
_ELEVATION_STEP = 3
_LEAST_PX = 96


@dataclass(frozen=True)
class ArchiveReport:
    """What `write_archive` wrote.

    Attributes
    ----------
    path : Path
        The archive's root.
    sites : tuple of str
        Names of the sites' folders.
    scenes : int
        Scenes over all sites.
    pixels : dict of str to int
        Labelled pixels of each class, by its name.
    """

    path: Path
    sites: tuple[str, ...]
    scenes: int
    pixels: dict[str, int]


def write_archive(
    out: str | Path,
    *,
    sites: int = 4,
    seed: int = 0,
    scenes_per_site: int = SCENES_PER_SITE,
    scene_px: int = SCENE_PX,
) -> ArchiveReport:
    """Write a synthetic remote-sensing archive.

    Parameters
    ----------
    out : str or Path
        Folder to create; it must not exist, or be empty.
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
    ArchiveReport
        Counts of what was written.

    Raises
    ------
    SettingError
        A number is out of range.
    DataError
        `out` holds something already.

    Notes
    -----
    The archive appears under its name only once it is complete.
    """
    _check_settings(sites, seed, scenes_per_site, scene_px)
    drawn = [draw_site(seed, index) for index in range(sites)]
    counts = np.zeros(256, dtype=np.int64)
    with staged_folder(out) as folder:
        for index, site in enumerate(drawn):
            counts += _write_site(
                folder / site.name, site, (seed, index), scenes_per_site, scene_px
            )
        _write_json(folder / "classes.json", {str(int(c)): n for c, n in CLASS_NAMES.items()})
        _write_json(folder / "archive.json", _describe(drawn, seed, scenes_per_site, scene_px))
    return ArchiveReport(
        path=Path(out),
        sites=tuple(site.name for site in drawn),
        scenes=sites * scenes_per_site,
        pixels={name: int(counts[cover]) for cover, name in CLASS_NAMES.items()},
    )


def _check_settings(sites: int, seed: int, scenes_per_site: int, scene_px: int) -> None:
    """Raise SettingError for the first number that is out of range."""
    least = {"sites": (sites, 1), "seed": (seed, 0)}
    least |= {"scenes_per_site": (scenes_per_site, 1), "scene_px": (scene_px, _LEAST_PX)}
    for name, (value, smallest) in least.items():
        if value < smallest:
            msg = f"{name} is {value}: choose {smallest} or more"
            raise SettingError(msg)


def _write_site(
    folder: Path, site: Site, key: tuple[int, int], scenes: int, scene_px: int
) -> NDArray[np.int64]:
    """Write all scenes of a site and return its labelled pixels by class code, int64 (256,)."""
    patches = patches_across(scene_px) ** 2
    deck = deal_patches(site, scenes, patches, np.random.default_rng([*key, 0]))
    counts = np.zeros(256, dtype=np.int64)
    for number in range(scenes):
        scene = make_scene(site, deck[number], scene_px, np.random.default_rng([*key, 1, number]))
        place = folder / f"scene-{number:02d}"
        place.mkdir(parents=True)
        _write_scene(place, scene, site, number)
        counts += np.bincount(scene.labels.ravel(), minlength=256)
    return counts


def _write_scene(folder: Path, scene: Scene, site: Site, number: int) -> None:
    """Write one scene's rasters and polygons; scenes of a site lie apart on a 3-column grid."""
    pitch = PIXEL_M * (scene.labels.shape[0] // 60 * 60 + 120)
    west = site.origin[0] + number % 3 * pitch
    north = site.origin[1] - number // 3 * pitch
    transform = Affine(PIXEL_M, 0, west, 0, -PIXEL_M, north)
    acquisition = {name: f"{value:.4g}" for name, value in asdict(scene.acquisition).items()}
    tags = {"synthetic": "true", "landscape": site.landscape_name} | acquisition
    _write_raster(folder / "optical.tif", scene.counts, transform, site, NODATA, BANDS, tags)
    _write_raster(
        folder / "labels.tif", scene.labels[None], transform, site, 0, ("land cover",), tags
    )
    step = PIXEL_M * _ELEVATION_STEP
    coarse = Affine(step, 0, west, 0, -step, north)
    _write_raster(
        folder / "elevation.tif",
        coarsen(scene.elevation, _ELEVATION_STEP)[None],
        coarse,
        site,
        ELEVATION_NODATA,
        ("elevation",),
        tags,
    )
    write_polygons(folder / "labels.gpkg", scene.labels, transform, site.epsg)


def coarsen(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Average blocks of step × step pixels; the last ones repeat the edge where it does not fit."""
    pad = -image.shape[0] % step
    padded = np.pad(image, ((0, pad), (0, pad)), mode="edge")
    side = padded.shape[0] // step
    blocks = padded.reshape(side, step, side, step)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def _write_raster(
    path: Path,
    bands: NDArray[Any],
    transform: Affine,
    site: Site,
    nodata: float,
    names: tuple[str, ...],
    tags: dict[str, str],
) -> None:
    """Write bands (C, H, W) as a tiled, deflated GeoTIFF with names, tags and nodata."""
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype.name,
        "crs": f"EPSG:{site.epsg}",
        "transform": transform,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "zlevel": 4,
        "predictor": 3 if bands.dtype.kind == "f" else 2 if bands.dtype.itemsize > 1 else 1,
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(bands)
        target.update_tags(**tags)
        for number, name in enumerate(names, start=1):
            target.set_band_description(number, name)
        if path.stem == "labels":
            colours = {int(cover): (*CLASS_COLOURS[cover], 255) for cover in Cover}
            target.write_colormap(1, {0: (0, 0, 0, 0)} | colours)


def _describe(sites: list[Site], seed: int, scenes_per_site: int, scene_px: int) -> dict[str, Any]:
    """Return the content of archive.json."""
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
                    CLASS_NAMES[cover]: round(float(share), 4)
                    for cover, share in zip(Cover, site.mix, strict=True)
                },
            }
            for site in sites
        ],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented UTF-8 JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
