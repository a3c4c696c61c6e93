"""Writing the page: what is shown, and the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment

from data_prep.dataset import Dataset, open_data
from data_prep.inspect import describe
from data_prep.manifest import column
from data_prep.page.canvas import (
    SceneMap,
    mosaic,
    outline,
    paint,
    picture_bands,
    scene_maps,
    stretch,
)
from data_prep.page.charts import (
    EXAMPLES,
    SPLIT_COLORS,
    as_png,
    color_of,
    example_sheet,
    histograms,
)
from data_prep.page.html import TEMPLATE
from data_prep.schema import SPLITS
from rsdgc.errors import DataError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

#: Scenes that are drawn, of all those with most samples.
MOST_SCENES = 6
#: Layers of a scene that are drawn.
MOST_LAYERS = 4


def write_page(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write one HTML file about a store or a partition, which needs nothing else to be seen.

    Parameters
    ----------
    path
        A store or a partition.
    target
        The file to write; an existing one is replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        The path is neither, or the file cannot be written.
    """
    facts = describe(path, quiet=True)
    data = open_data(path)
    scenes = scene_maps(data.store, MOST_SCENES)
    site_of = _sites(data)
    page = (
        Environment(autoescape=True)
        .from_string(TEMPLATE)
        .render(
            facts=facts,
            splits=[name for name in SPLITS if facts["splits"]["counts"].get(name)],
            split_colors=SPLIT_COLORS,
            site_colors={name: color_of(i) for i, name in enumerate(data.sites)},
            class_colors={name: color_of(i) for i, name in enumerate(data.store.classes)},
            scenes=[_draw(data, scene, site_of) for scene in scenes],
            more_scenes=max(0, len(data.store.meta.scenes) - len(scenes)),
            classes=_class_bars(facts),
            bands=_bands(data, facts),
            examples=_examples(data),
            refused=[item for item in facts["skipped"] if item["refused"]],
            passed=[item for item in facts["skipped"] if not item["refused"]],
        )
    )
    target = Path(target)
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror}): choose another") from error
    return target


def _sites(data: Dataset) -> NDArray[np.int64]:
    """Return the number of each sample's site; -1 for those at none."""
    out = np.full(len(data.store), -1, np.int64)
    for number, name in enumerate(data.sites):
        out[column(data.site(name).manifest, "chip").astype(np.int64)] = number
    return out


def _draw(data: Dataset, scene: SceneMap, site_of: NDArray[np.int64]) -> dict[str, Any]:
    """Layers of a scene, and what lies over them, as pictures of one size."""
    store = data.store
    splits = column(store.manifest, "split")[scene.samples]
    labels = column(store.manifest, "label")[scene.samples].astype(np.int64)
    codes = np.array([SPLITS.index(name) for name in splits])
    classes = [color_of(i) for i in range(len(store.classes))]
    sites = [color_of(i) for i in range(len(data.sites))]
    layers = [
        (meta.name, as_png(stretch(mosaic(store, scene, i))))
        for i, meta in enumerate(store.meta.modalities[:MOST_LAYERS])
    ]
    layers.append(("labels", as_png(paint(scene, labels, classes, 255))))
    overlays = [
        ("splits", as_png(paint(scene, codes, [SPLIT_COLORS[s] for s in SPLITS], 120))),
        ("blocks", as_png(outline(scene, column(store.manifest, "block")[scene.samples]))),
    ]
    if len(data.sites) > 1:
        painted = paint(scene, site_of[scene.samples], sites, 130)
        overlays.insert(1, ("sites", as_png(painted)))
    height, width = scene.shape
    return {
        "name": scene.name,
        "samples": len(scene.samples),
        "width": width,
        "height": height,
        "step": scene.step,
        "layers": layers,
        "overlays": overlays,
    }


def _class_bars(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Count samples of each class by site and split, with widths of bars in percent."""
    most = max(
        (
            sum(counts[split][i] for split in SPLITS)
            for counts in facts["sites"].values()
            for i in range(len(facts["classes"]))
        ),
        default=1,
    )
    return [
        {
            "name": name,
            "sites": [
                {
                    "name": site,
                    "bars": [
                        (split, counts[split][i], 100 * counts[split][i] / max(1, most))
                        for split in SPLITS
                        if counts[split][i]
                    ],
                    "count": sum(counts[split][i] for split in SPLITS),
                }
                for site, counts in facts["sites"].items()
            ],
        }
        for i, name in enumerate(facts["classes"])
    ]


def _bands(data: Dataset, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Statistics of the bands, with their histograms."""
    train = np.flatnonzero(column(data.store.manifest, "split") == "train")
    charts = [chart for charts in histograms(data.store, train) for chart in charts]
    rows: list[dict[str, Any]] = []
    shown = 0
    for meta in data.store.meta.modalities:
        of_layer = [band for band in facts["bands"] if band["modality"] == meta.name]
        for i, band in enumerate(of_layer[:60]):
            scale = meta.scale[i] if meta.scale else 1.0
            offset = meta.offset[i] if meta.offset else 0.0
            rows.append(band | {"chart": charts[shown], "scale": scale, "offset": offset})
            shown += 1
    return rows


def _examples(data: Dataset) -> list[dict[str, Any]]:
    """Pick samples of each class, of the layer that makes the best picture."""
    store = data.store
    counts = [len(meta.bands) for meta in store.meta.modalities]
    modality = next((i for i, count in enumerate(counts) if count >= 3), 0)
    bands = picture_bands(store.meta.modalities[modality].bands)
    labels = column(store.manifest, "label")
    examples = []
    for i, name in enumerate(store.classes):
        found = np.flatnonzero(labels == i)
        chosen = found[np.linspace(0, len(found) - 1, min(EXAMPLES, len(found))).astype(int)]
        sheet = example_sheet(store, chosen.tolist(), modality, bands) if len(found) else ""
        examples.append({"name": name, "count": len(found), "sheet": sheet})
    return examples
