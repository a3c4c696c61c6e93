"""The data page: one self-contained HTML file about a store or a partition.

It shows maps, classes, bands, examples, and what was left out and why.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from data_prep.common_statistics import scaling
from data_prep.data_page_template import TEMPLATE
from data_prep.dataset import Dataset, open_data
from data_prep.inspect import describe, nodata_text
from data_prep.manifest import column
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.html_page import render_page
from data_prep.pictures.images import photo_uri
from data_prep.pictures.map_colors import SPLIT_COLORS, class_colors, hex_color, site_colors
from data_prep.pictures.map_frame import frame
from data_prep.pictures.modality_picture import ModalityPicture, picture
from data_prep.pictures.mosaic import THUMB_PX, chip_pictures
from data_prep.pictures.scene_grid import SceneGrid, lay_out, outline_path, samples_by_scene
from data_prep.pictures.site_overview import overview
from data_prep.rasters import natural_key
from data_prep.schema import SPLITS
from data_prep.store import Store
from rsdgc.durable import replace_text
from rsdgc.errors import DataError

#: Scenes that are drawn, of all those with most samples, and modalities of each.
MAX_SCENES = 24
MAX_MODALITIES = 4
#: Bytes of the mosaics in a page. Of many scenes, mosaics have fewer pixels.
MAX_MOSAIC_BYTES = 1_300_000
#: Bands of a modality that are listed: a spectrometer has hundreds.
MAX_BANDS = 60
#: Samples of a class that are shown.
EXAMPLES = 8
#: Train samples whose pixels make the histograms: their shape does not change with more.
HISTOGRAM_SAMPLES = 400
HISTOGRAM_BINS = 48
#: Longest side of a mosaic in the page, which shows it at about 480 px, on fine screens 960; and
#: with very many scenes.
MOSAIC_PX, LEAST_PX = 720, 220
#: Opacity of splits and sites over imagery: both the color and the ground stay visible.
_OVERLAY_ALPHA = 125


def write_data_page(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    facts: dict[str, Any] | None = None,
) -> Path:
    """Write one HTML file about a store or a partition, which fetches nothing; return its path.

    ``facts`` is what :func:`data_prep.inspect.describe` returned for the path, if that was called.

    Raises
    ------
    DataError
        The path is neither, or the file cannot be written.
    """
    facts = facts or describe(path)
    data = open_data(path)
    store = data.store
    colors = {
        "splits": np.array([SPLIT_COLORS[split] for split in SPLITS], np.uint8),
        "sites": site_colors(len(data.sites), store.classes),
        "classes": class_colors(store.classes),
    }
    page = render_page(
        TEMPLATE,
        title=f"{facts['name']}: data",
        stem=facts["name"],
        synthetic=facts["synthetic"],
        facts=facts,
        splits=[split for split in SPLITS if facts["splits"]["counts"].get(split)],
        split_colors={split: hex_color(color) for split, color in SPLIT_COLORS.items()},
        site_colors=dict(zip(data.sites, map(hex_color, colors["sites"]), strict=True)),
        class_colors=dict(zip(store.classes, map(hex_color, colors["classes"]), strict=True)),
        scenes=_scenes(data, colors),
        more_scenes=max(0, len(store.meta.scenes) - MAX_SCENES),
        overview=overview(data),
        class_table=_class_table(facts),
        band_table=_band_table(facts),
        # of the largest class of any site, whose bar is the longest
        most_samples=max(1, *(np.sum(list(c.values()), 0).max() for c in facts["sites"].values())),
        bands=_bands(store, facts),
        more_bands=sum(max(0, len(m.bands) - MAX_BANDS) for m in store.meta.modalities),
        examples=_examples(store),
        refused=[item for item in facts["skipped"] if item["refused"]],
        passed_over=[item for item in facts["skipped"] if not item["refused"]],
    )
    target = Path(target)
    try:
        replace_text(target, page)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written ({error.strerror}): choose another --html"
        ) from error
    return target


def _scenes(data: Dataset, colors: dict[str, NDArray[np.uint8]]) -> list[dict[str, Any]]:
    """Draw the scenes with most samples, in the order of their names."""
    if not data.store.meta.scenes:
        return []  # single images
    site_of = np.full(len(data.store), -1, np.int64)
    for number, name in enumerate(data.sites):
        site_of[column(data.site(name).manifest, "chip").astype(np.int64)] = number
    groups = sorted(samples_by_scene(data.store).items(), key=lambda item: -len(item[1]))
    shown = sorted(groups[:MAX_SCENES], key=lambda item: natural_key(item[0]))
    grids = [lay_out(data.store, name, samples) for name, samples in shown]
    photos = _photos(data.store, grids)
    return [
        _draw_scene(data.store, grid, site_of[grid.samples], colors)
        | {"number": number, "photos": photos[number], "frame": frame(data.store, grid)}
        for number, grid in enumerate(grids)
    ]


def _photos(store: Store, grids: list[SceneGrid]) -> list[list[ModalityPicture]]:
    """Draw the modalities of scenes, with as many pixels as :data:`MAX_MOSAIC_BYTES` allow."""
    numbers = range(min(MAX_MODALITIES, len(store.meta.modalities)))
    side = MOSAIC_PX
    if len(grids) > 1:
        # some scenes tell how many bytes all of them will take
        some = grids[:: -(-len(grids) // 3)]
        drawn = [len(picture(store, grid, i, side).uri) for grid in some for i in numbers]
        expected = sum(drawn) / len(some) * len(grids)
        side = min(side, max(LEAST_PX, round(side * (MAX_MOSAIC_BYTES / expected) ** 0.5)))
    return [[picture(store, grid, i, side) for i in numbers] for grid in grids]


def _draw_scene(
    store: Store, grid: SceneGrid, site: NDArray[np.int64], colors: dict[str, NDArray[np.uint8]]
) -> dict[str, Any]:
    """Draw the labels of a scene, and what lies over its imagery, in cells of one grid."""
    split, label, block = (
        column(store.manifest, name)[grid.samples] for name in ("split", "label", "block")
    )
    labels = label.astype(np.int64)
    codes = {"splits": np.array([SPLITS.index(name) for name in split])}
    if len(colors["sites"]) > 1:
        codes["sites"] = site
    # 0 is the ground outside all blocks.
    blocks = 1 + np.unique(block.astype(str), return_inverse=True)[1]
    return {
        "name": grid.name,
        "samples": len(grid.samples),
        "width": grid.shape[1],
        "height": grid.shape[0],
        "labels": grid.paint(colors["classes"][labels]),
        "classes": np.bincount(labels, minlength=len(store.classes)).tolist(),
        # Samples at no site have the number -1 and stay transparent.
        "overlays": [
            (name, grid.paint(colors[name][code], _OVERLAY_ALPHA * (code >= 0)))
            for name, code in codes.items()
        ],
        "blocks": outline_path(grid.fill(blocks)),
    }


def _class_table(facts: dict[str, Any]) -> CsvTable:
    rows = [
        [name, site, split, counts[i]]
        for i, name in enumerate(facts["classes"])
        for site, splits in facts["sites"].items()
        for split, counts in splits.items()
        if any(counts)
    ]
    return CsvTable(["class", "site", "split", "samples"], rows)


def _band_table(facts: dict[str, Any]) -> CsvTable:
    columns = ("modality", "band", "unit", "dtype", "nodata", "mean", "std", "min", "max", "count")
    return CsvTable(columns, [[band[name] for name in columns] for band in facts["bands"]])


def _bands(store: Store, facts: dict[str, Any]) -> list[dict[str, Any]]:
    train = np.flatnonzero(column(store.manifest, "split") == "train")
    if len(train) > HISTOGRAM_SAMPLES:
        rng = np.random.default_rng(0)  # the same page for the same data
        train = np.sort(rng.choice(train, HISTOGRAM_SAMPLES, replace=False))
    rows: list[dict[str, Any]] = []
    samples = store.take(train)
    masks = store.valid(train, samples)
    for values, valid, meta in zip(samples, masks, store.meta.modalities, strict=True):
        scale, offset = scaling(meta)
        bands = [band for band in facts["bands"] if band["modality"] == meta.name]
        for i, band in enumerate(bands[:MAX_BANDS]):
            histogram = _histogram(values[:, i][valid[:, i]])
            own = {"histogram": histogram, "scale": scale[i], "offset": offset[i]}
            rows.append(band | {"nodata": nodata_text(band)} | own)
    return rows


def _histogram(values: NDArray[Any]) -> Markup:
    """Draw the values between the 0.5th and 99.5th percentiles as bars; tails would hide them."""
    width, height = 144, 30
    if not len(values):
        return Markup()
    low, high = np.percentile(values, [0.5, 99.5])
    counts = np.histogram(values, np.linspace(low, max(high, low + 1e-6), HISTOGRAM_BINS + 1))[0]
    step = width / HISTOGRAM_BINS
    path = "".join(
        f"M{i * step:.1f} {height}v{-bar:.1f}h{step:.1f}v{bar:.1f}z"
        for i, bar in enumerate(counts / max(1, counts.max()) * height)
        if bar
    )
    return Markup(  # noqa: S704  numbers alone
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="from {low:.4g} to {high:.4g}"><path d="{path}" fill="currentColor"/></svg>'
    )


def _examples(store: Store) -> list[dict[str, Any]]:
    """Choose samples of each class, evenly spaced over the store, and make their pictures."""
    labels = column(store.manifest, "label")
    members = [np.flatnonzero(labels == label) for label in range(len(store.classes))]
    chosen = [
        of_class[np.linspace(0, len(of_class) - 1, min(EXAMPLES, len(of_class))).astype(int)]
        for of_class in members
    ]
    # All classes together, so that one stretch makes them comparable.
    pictures = iter(chip_pictures(store, np.concatenate(chosen)))
    return [
        {
            "name": name,
            "count": len(of_class),
            "pictures": [photo_uri(next(pictures), THUMB_PX) for _ in chips],
        }
        for name, of_class, chips in zip(store.classes, members, chosen, strict=True)
    ]
