"""The land-cover map: what the sensor saw, the reference, the prediction, and where it errs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.manifest import column
from data_prep.pictures.band_choice import picture_modality
from data_prep.pictures.images import cells_uri, photo_uri, stretch
from data_prep.pictures.map_colors import class_colors, hex_color
from data_prep.pictures.mosaic import mosaic
from data_prep.pictures.scene_grid import lay_out, outline_path, samples_by_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.pictures.scene_grid import SceneGrid
    from data_prep.store import Store

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
    """One picture of the map.

    Attributes
    ----------
    cells : bool
        Whether the picture has one pixel a cell, to be enlarged without blurring.
    """

    title: str
    uri: str
    alt: str
    cells: bool = True


@dataclass(frozen=True)
class LegendEntry:
    """A class of the map: its color and its samples."""

    name: str
    color: str
    reference: int
    predicted: int


@dataclass(frozen=True)
class LandCoverMap:
    """A map ready to be put in the page.

    Attributes
    ----------
    width, height : int
        Cells.
    outline : str
        SVG path around the test samples, in cells.
    num_test, num_train, num_other : int
        Samples of the test split, trained on, and neither (validation and buffer).
    test_accuracy, train_accuracy : float or None
        Share of this scene's test samples, and of those trained on, that are right.
    """

    scene: str
    width: int
    height: int
    panels: list[Panel]
    outline: str
    legend: list[LegendEntry]
    num_test: int
    num_train: int
    num_other: int
    test_accuracy: float | None
    train_accuracy: float | None


def choose_scene(store: Store) -> SceneGrid | None:
    """Choose the scene with the most classes among its test samples, then the most of those.

    Returns
    -------
    SceneGrid or None
        None when no scene has samples at several rows and columns, some of them for testing.
    """
    test = column(store.manifest, "split") == "test"
    label, row, col = (column(store.manifest, name) for name in ("label", "row", "col"))
    candidates = [
        (name, samples)
        for name, samples in samples_by_scene(store).items()
        if test[samples].any() and np.ptp(row[samples]) and np.ptp(col[samples])
    ]
    if not candidates:
        return None

    def rank(candidate: tuple[str, NDArray[np.int64]]) -> tuple[int, int]:
        tested = candidate[1][test[candidate[1]]]
        return len(np.unique(label[tested])), len(tested)

    name, samples = max(candidates, key=rank)
    away = [np.abs(axis[samples] - np.median(axis[samples][test[samples]])) for axis in (row, col)]
    nearest = np.argsort(np.maximum(*away), kind="stable")[:MAX_SAMPLES]
    return lay_out(store, name, samples[np.sort(nearest)])


def draw_map(
    store: Store, scene: SceneGrid, predicted: NDArray[np.int64], classes: Sequence[str]
) -> LandCoverMap:
    """Draw a scene's map.

    Parameters
    ----------
    store : Store
        Where the scene's pixels are.
    scene : SceneGrid
        n samples and their cells.
    predicted : int64 [n]
        Predicted class of each sample.
    classes : sequence of str
        Class names.
    """
    reference = column(store.manifest, "label")[scene.samples].astype(np.int64)
    split = column(store.manifest, "split")[scene.samples]
    test, train = split == "test", split == "train"
    colors = class_colors(classes)
    right = predicted == reference
    height, width = scene.shape
    modality = picture_modality(store.meta.modalities)
    # Faded where the model was trained: to be right there proves little.
    verdicts = np.array([WRONG, RIGHT], np.uint8)[right.astype(np.int64)]
    opacity = np.where(train, _FADED, _OPAQUE)
    panels = [
        Panel(
            "Seen from above",
            photo_uri(stretch(mosaic(store, scene, modality)), MOSAIC_PX),
            f"Mosaic of scene {scene.name}, put together from its chips",
            cells=False,
        ),
        Panel(
            "Reference",
            _paint(scene, colors[reference]),
            f"Reference classes of scene {scene.name}",
        ),
        Panel(
            "Predicted",
            _paint(scene, colors[predicted]),
            f"Classes that the model predicts for scene {scene.name}",
        ),
        Panel(
            "Right and wrong",
            _paint(scene, verdicts, opacity),
            f"Chips of scene {scene.name} that the model gets right and wrong",
        ),
    ]
    return LandCoverMap(
        scene=scene.name,
        width=width,
        height=height,
        panels=panels,
        outline=outline_path(scene.fill(test)),
        legend=_legend(reference, predicted, classes, colors),
        num_test=int(test.sum()),
        num_train=int(train.sum()),
        num_other=int((~test & ~train).sum()),
        test_accuracy=_mean(right[test]),
        train_accuracy=_mean(right[train]),
    )


def _paint(
    scene: SceneGrid, colors: NDArray[np.uint8], opacity: NDArray[np.int64] | None = None
) -> str:
    """Return a picture with one RGB color a sample; cells without a sample are transparent."""
    alpha = np.full(len(colors), _OPAQUE) if opacity is None else opacity
    return cells_uri(scene.fill(np.column_stack([colors, alpha.astype(np.uint8)])))


def _legend(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
    colors: NDArray[np.uint8],
) -> list[LegendEntry]:
    """Return the classes that occur in the scene, the most frequent first."""
    reference_counts = np.bincount(labels, minlength=len(classes))
    predicted_counts = np.bincount(predicted, minlength=len(classes))
    return [
        LegendEntry(
            classes[label],
            hex_color(colors[label]),
            int(reference_counts[label]),
            int(predicted_counts[label]),
        )
        for label in np.argsort(-reference_counts, kind="stable").tolist()
        if reference_counts[label] or predicted_counts[label]
    ]


def _mean(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if right.size else None
