"""The land-cover map: what the sensor saw, the reference, the prediction, and where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import column
from data_prep.pictures.band_choice import picture_modality
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.map_colors import class_colors, hex_color
from data_prep.pictures.map_frame import MapFrame, frame
from data_prep.pictures.modality_picture import ColorBar, picture
from data_prep.pictures.scene_grid import SceneGrid, lay_out, outline_path, samples_by_scene
from data_prep.store import Store
from fl_app.report.intervals import Interval, wilson

#: Longest side of the mosaic in the page, which shows it at about 500 px, on fine screens 1000.
MOSAIC_PX = 720
#: Samples of a scene that are mapped, as predicting them takes minutes; of a larger scene, those
#: nearest to its test samples.
MAX_SAMPLES = 30_000

#: Light blue and dark orange: color-blind readers, too, see which is which, and so does a printer.
RIGHT, WRONG = (158, 196, 234), (181, 64, 0)
_OPAQUE, _FADED = 255, 120


@dataclass(frozen=True)
class Panel:
    """One picture of the map; one of ``cells`` has a pixel for each, to enlarge without blur."""

    title: str
    uri: str
    alt: str
    cells: bool = True
    bar: ColorBar | None = None


@dataclass(frozen=True)
class LegendEntry:
    """A class of the map: its color, and its samples in reference and prediction."""

    name: str
    color: str
    reference: int
    predicted: int


@dataclass(frozen=True)
class LandCoverMap:
    """A map ready to be put in the page."""

    scene: str
    #: width, height: cells
    width: int
    height: int
    frame: MapFrame
    panels: list[Panel]
    outline: str  #: SVG path around the test samples, in cells
    legend: list[LegendEntry]
    num_test: int
    num_train: int
    num_other: int  #: samples in neither the test nor the train split
    #: test_accuracy, train_accuracy: share of right predictions; None without samples
    test_accuracy: float | None
    train_accuracy: float | None
    interval: Interval | None  #: Wilson's, of the test accuracy
    table: CsvTable  #: a line for each sample


def rank_scenes(store: Store) -> list[tuple[str, NDArray[np.int64]]]:
    """Return scenes and their samples: the one with most classes among its test samples first.

    Then come those with most test samples. Only scenes count that have samples at several rows and
    columns, some of them for testing.
    """
    test = column(store.manifest, "split") == "test"
    label, row, col = (column(store.manifest, name) for name in ("label", "row", "col"))

    def rank(candidate: tuple[str, NDArray[np.int64]]) -> tuple[int, int]:
        tested = candidate[1][test[candidate[1]]]
        return -len(np.unique(label[tested])), -len(tested)

    candidates = [
        (name, samples)
        for name, samples in samples_by_scene(store).items()
        if test[samples].any() and np.ptp(row[samples]) and np.ptp(col[samples])
    ]
    return sorted(candidates, key=rank)


def lay_out_tested(store: Store, name: str, samples: NDArray[np.int64]) -> SceneGrid:
    """Lay out the samples of a scene; of very many, those nearest to its test samples."""
    test = column(store.manifest, "split")[samples] == "test"
    axes = [column(store.manifest, axis)[samples] for axis in ("row", "col")]
    away = [np.abs(axis - np.median(axis[test])) for axis in axes]
    nearest = np.argsort(np.maximum(*away), kind="stable")[:MAX_SAMPLES]
    return lay_out(store, name, samples[np.sort(nearest)])


def draw_map(
    store: Store,
    scene: SceneGrid,
    predicted: NDArray[np.int64],
    classes: Sequence[str],
    mosaic_px: int = MOSAIC_PX,
) -> LandCoverMap:
    """Draw the map of a scene, given the predicted class of each of its samples."""
    reference = column(store.manifest, "label")[scene.samples].astype(np.int64)
    split = column(store.manifest, "split")[scene.samples]
    test, train = split == "test", split == "train"
    colors = class_colors(classes)
    right = predicted == reference
    photo = picture(store, scene, picture_modality(store.meta.modalities), mosaic_px)
    reference_map, predicted_map = (
        scene.paint(colors[labels]) for labels in (reference, predicted)
    )
    verdicts = np.array([WRONG, RIGHT], np.uint8)[right.astype(np.int64)]
    # Faded where the model was trained: to be right there proves little.
    verdict_map = scene.paint(verdicts, np.where(train, _FADED, _OPAQUE))
    name = f"scene {scene.name}"
    alt = f"Mosaic of {name}, put together from its chips"
    panels = [
        Panel(photo.caption, photo.uri, alt, cells=False, bar=photo.bar),
        Panel("Reference", reference_map, f"Reference classes of {name}"),
        Panel("Predicted", predicted_map, f"Classes that the model predicts for {name}"),
        Panel(
            "Right and wrong", verdict_map, f"Chips of {name} that the model gets right and wrong"
        ),
    ]
    counts = [np.bincount(labels, minlength=len(classes)) for labels in (reference, predicted)]
    return LandCoverMap(
        scene=scene.name,
        width=scene.shape[1],
        height=scene.shape[0],
        frame=frame(store, scene),
        panels=panels,
        outline=outline_path(scene.fill(test)),
        # The classes that occur in the scene, the most frequent first.
        legend=[
            LegendEntry(classes[i], hex_color(colors[i]), int(counts[0][i]), int(counts[1][i]))
            for i in np.argsort(-counts[0], kind="stable").tolist()
            if counts[0][i] or counts[1][i]
        ],
        num_test=int(test.sum()),
        num_train=int(train.sum()),
        num_other=int((~test & ~train).sum()),
        test_accuracy=_mean(right[test]),
        train_accuracy=_mean(right[train]),
        interval=wilson(int(right[test].sum()), int(test.sum())),
        table=_table(store, scene, reference, predicted, classes),
    )


def _mean(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if right.size else None


def _table(
    store: Store,
    scene: SceneGrid,
    reference: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
) -> CsvTable:
    names = ("row", "col", "split")
    parts = [column(store.manifest, name)[scene.samples].tolist() for name in names]
    rows = [
        [scene.name, row, col, split, classes[label], classes[guess]]
        for row, col, split, label, guess in zip(
            *parts, reference.tolist(), predicted.tolist(), strict=True
        )
    ]
    return CsvTable(["scene", *names, "reference", "predicted"], rows)
