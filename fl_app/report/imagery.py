"""What the report shows of the imagery: maps, a gallery of chips, or why there is neither."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset import Dataset, open_data
from data_prep.manifest import column
from data_prep.pictures.images import photo_uri
from data_prep.pictures.mosaic import THUMB_PX, chip_pictures
from data_prep.pictures.plot import Plot
from data_prep.pictures.site_overview import overview
from data_prep.rasters import natural_key
from data_prep.store import Store
from fl_app.report.land_cover_map import (
    MAX_SAMPLES,
    MOSAIC_PX,
    LandCoverMap,
    draw_map,
    lay_out_tested,
    rank_scenes,
)
from fl_app.report.prediction import predict
from fl_app.runs.records import Run
from rsdgc.errors import DataError, RsdgcError

#: Test chips that are predicted for the gallery: enough to find errors in every class, and done in
#: seconds. Of more, evenly spaced ones.
MAX_GALLERY_CHIPS = 2000
#: Scenes that are drawn, and samples of them that are predicted, where nobody has asked for more:
#: some seconds of work, and at most two megabytes of the page.
MAX_SCENES, MAX_PREDICTED = 24, 3000
#: Longest side of the mosaics of all scenes but the first.
OTHER_PX = 440
#: Most right chips that are shown, and most wrong ones: two rows of each on a wide screen.
EACH = 12


@dataclass(frozen=True)
class Thumb:
    """One chip of the gallery."""

    uri: str
    reference: str
    predicted: str


@dataclass(frozen=True)
class Gallery:
    """For data without scenes: some right and some wrong test chips, and how many in all."""

    right: list[Thumb]
    wrong: list[Thumb]
    num_right: int
    num_wrong: int


@dataclass(frozen=True)
class Imagery:
    """Maps, a gallery, or the reason why both are absent; and where the sites lie."""

    maps: list[LandCoverMap] = field(default_factory=list)
    first: str = ""  #: the scene that is shown before a reader chooses another
    num_scenes: int = 0  #: scenes that could be drawn
    gallery: Gallery | None = None
    overview: Plot | None = None
    absent: str = ""
    unit: str = "chips"  # or "pixels": what a cell of the map is


def show_imagery(run: Run, data: Path | None = None, scenes: int | None = None) -> Imagery:
    """Predict and draw scenes, those with most classes first, or a gallery where there are none.

    ``data`` is a store or partition; default: the one that the configuration names. ``scenes`` is
    the number of scenes; default: as many as are predicted within seconds. Where the data or the
    model cannot be used here, the result says why: the rest of the report does not depend on them.
    """
    recorded = run.config.data.path
    folder = data or Path(recorded)
    if not (data or recorded) or not folder.is_dir():
        named = f"The data folder {folder}" if data or recorded else "The run's data"
        return Imagery(
            absent=f"{named} is not on this machine; "
            f"`rsdgc report {shlex.quote(str(run.folder))} --data FOLDER` adds the pictures."
        )
    try:
        return _draw(run, open_data(folder), scenes)
    except (RsdgcError, OSError) as error:
        return Imagery(absent=f"There are no pictures: {error}")


def _draw(run: Run, data: Dataset, scenes: int | None) -> Imagery:
    store = data.store
    ranked = rank_scenes(store)
    if ranked:
        unit = "pixels" if store.meta.kind == "pixels" else "chips"
        maps = _draw_maps(run, store, ranked, scenes)
        places = overview(data)
        return Imagery(maps, ranked[0][0], len(ranked), overview=places, unit=unit)
    chips = np.flatnonzero(column(store.manifest, "split") == "test")
    if not len(chips):
        raise DataError(f"{store.path} has no test chips")
    chips = chips[:: -(-len(chips) // MAX_GALLERY_CHIPS)]
    gallery = draw_gallery(store, chips, predict(run, store, chips), run.classes)
    return Imagery(gallery=gallery, overview=overview(data))


def _draw_maps(
    run: Run,
    store: Store,
    ranked: list[tuple[str, NDArray[np.int64]]],
    scenes: int | None,
) -> list[LandCoverMap]:
    grids = [lay_out_tested(store, *ranked[0])]
    total = len(grids[0].samples)
    for name, samples in ranked[1 : MAX_SCENES if scenes is None else scenes]:
        total += min(len(samples), MAX_SAMPLES)
        if scenes is None and total > MAX_PREDICTED:
            break
        grids.append(lay_out_tested(store, name, samples))
    # together, so that the model is loaded once
    predicted = predict(run, store, np.concatenate([grid.samples for grid in grids]))
    ends = np.cumsum([len(grid.samples) for grid in grids])[:-1]
    maps = [
        draw_map(store, grid, part, run.classes, MOSAIC_PX if number == 0 else OTHER_PX)
        for number, (grid, part) in enumerate(zip(grids, np.split(predicted, ends), strict=True))
    ]
    return sorted(maps, key=lambda each: natural_key(each.scene))


def draw_gallery(
    store: Store, chips: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]
) -> Gallery:
    """Pick right and wrong chips, spread over the classes, and make their pictures."""
    labels = column(store.manifest, "label")[chips].astype(np.int64)
    right = predicted == labels
    chosen_right, chosen_wrong = _spread(labels, right), _spread(labels, ~right)
    chosen = np.concatenate([chosen_right, chosen_wrong])
    # All together, so that one stretch makes them comparable.
    thumbs = [
        Thumb(photo_uri(picture, THUMB_PX), classes[labels[i]], classes[predicted[i]])
        for picture, i in zip(chip_pictures(store, chips[chosen]), chosen.tolist(), strict=True)
    ]
    count = len(chosen_right)
    return Gallery(thumbs[:count], thumbs[count:], int(right.sum()), int((~right).sum()))


def _spread(labels: NDArray[np.int64], eligible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Choose from each class in turn until there are enough; return their positions."""
    positions = np.flatnonzero(eligible)
    classes = labels[positions]
    rank_in_class = np.zeros(len(positions), np.int64)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        rank_in_class[members] = np.arange(len(members))
    return positions[np.lexsort((classes, rank_in_class))[:EACH]]
