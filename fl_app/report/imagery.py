"""What the report shows of the imagery: a map, a gallery, or why there is neither."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.dataset import open_data
from fl_app.report.gallery import Gallery, draw_gallery
from fl_app.report.land_cover_map import LandCoverMap, draw_map
from fl_app.report.prediction import predict
from fl_app.report.scene_cells import best_scene
from rsdgc.errors import DataError, RsdgcError

if TYPE_CHECKING:
    from data_prep.store import Store
    from fl_app.runs.records import Run

MAX_GALLERY_CHIPS = 2000
"""Test chips that are predicted for the gallery; of more, as many evenly spaced ones."""


@dataclass(frozen=True)
class Imagery:
    """One of the three is set; ``pixels`` tells patches of single pixels from chips."""

    map: LandCoverMap | None = None
    gallery: Gallery | None = None
    absent: str = ""
    pixels: bool = False


def show_imagery(run: Run, data: Path | None = None) -> Imagery:
    """Predict and draw the most telling scene, or a gallery where there are no scenes.

    Parameters
    ----------
    run : Run
    data : Path or None
        Store or partition; None for the one that the configuration names.

    Returns
    -------
    Imagery
        With ``absent`` set when the data or the model cannot be used here: the rest of the
        report does not depend on them.
    """
    recorded = run.config.data.path
    folder = data or Path(recorded)
    if not (data or recorded) or not folder.is_dir():
        named = f"The data folder {folder}" if data or recorded else "The run's data"
        return Imagery(
            absent=f"{named} is not on this machine; "
            f"`rsdgc report {run.folder} --data FOLDER` adds the pictures."
        )
    try:
        return _draw(run, open_data(folder).store)
    except (RsdgcError, OSError) as error:
        return Imagery(absent=f"There is no picture: {error}")


def _draw(run: Run, store: Store) -> Imagery:
    scene = best_scene(store)
    if scene is not None:
        predicted = predict(run, store, scene.chips)
        drawn = draw_map(store, scene, predicted, run.classes)
        return Imagery(map=drawn, pixels=store.meta.kind == "pixels")
    test = np.array(store.manifest.column("split").to_pylist(), dtype=str) == "test"
    places = np.flatnonzero(test)
    if not len(places):
        raise DataError(f"{store.path} has no test chips")
    places = places[:: max(1, -(-len(places) // MAX_GALLERY_CHIPS))]
    chips, labels = (
        store.manifest.column(name).to_numpy()[places].astype(np.int64)
        for name in ("chip", "label")
    )
    predicted = predict(run, store, chips)
    return Imagery(gallery=draw_gallery(store, chips, labels, predicted, run.classes))
