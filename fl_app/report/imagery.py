"""What the report shows of the imagery: a map, a gallery, or why there is neither."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.dataset import open_data
from data_prep.manifest import column
from fl_app.report.gallery import Gallery, draw_gallery
from fl_app.report.land_cover_map import LandCoverMap, choose_scene, draw_map
from fl_app.report.prediction import predict
from rsdgc.errors import DataError, RsdgcError

if TYPE_CHECKING:
    from data_prep.store import Store
    from fl_app.runs.records import Run

#: Test chips that are predicted for the gallery: enough to find errors in every class, and done in
#: seconds. Of more, evenly spaced ones.
MAX_GALLERY_CHIPS = 2000


@dataclass(frozen=True)
class Imagery:
    """Exactly one of map, gallery and the reason why both are absent.

    Attributes
    ----------
    pixels : bool
        Whether the map's samples are single pixels, not chips.
    """

    map: LandCoverMap | None = None
    gallery: Gallery | None = None
    absent: str = ""
    pixels: bool = False


def show_imagery(run: Run, data: Path | None = None) -> Imagery:
    """Predict and draw the scene with most classes, or a gallery where there are no scenes.

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
        return Imagery(absent=f"There are no pictures: {error}")


def _draw(run: Run, store: Store) -> Imagery:
    scene = choose_scene(store)
    if scene is not None:
        predicted = predict(run, store, scene.samples)
        drawn = draw_map(store, scene, predicted, run.classes)
        return Imagery(map=drawn, pixels=store.meta.kind == "pixels")
    chips = np.flatnonzero(column(store.manifest, "split") == "test")
    if not len(chips):
        raise DataError(f"{store.path} has no test chips")
    chips = chips[:: -(-len(chips) // MAX_GALLERY_CHIPS)]
    labels = column(store.manifest, "label")[chips].astype(np.int64)
    predicted = predict(run, store, chips)
    return Imagery(gallery=draw_gallery(store, chips, labels, predicted, run.classes))
