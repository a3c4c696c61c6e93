"""The land-cover map: what the sensor saw, the reference, the prediction, and where it errs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fl_app.report.palette import class_colors
from fl_app.report.raster import cells_uri, outline_path, photo_uri, stretch
from fl_app.report.scene_cells import quick_look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.store import Store
    from fl_app.report.scene_cells import Scene

PHOTO_PX = 720
"""Longest side of the quick-look that is stored in the page."""

RIGHT, WRONG = (150, 176, 168), (203, 62, 52)
_UNTRAINED_ALPHA, _TRAINED_ALPHA = 255, 110


@dataclass(frozen=True)
class Panel:
    """One picture of the map."""

    title: str
    uri: str
    alt: str
    exact: bool = True
    """Whether the picture has one pixel a cell, to be enlarged without blurring."""


@dataclass(frozen=True)
class LegendEntry:
    """A class of the map: its colour and its cells."""

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
        SVG path round the test chips, in cells.
    num_test, num_train, num_other : int
        Chips of the test split, trained on, and neither (the buffer between them).
    test_accuracy, train_accuracy : float or None
        Share of this scene's test chips, and of those trained on, that are right.
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


def draw_map(
    store: Store, scene: Scene, predicted: NDArray[np.int64], classes: Sequence[str]
) -> LandCoverMap:
    """Draw a scene's map.

    Parameters
    ----------
    store : Store
        Where the scene's pixels are.
    scene : Scene
        n chips and their cells.
    predicted : int64[n]
        Predicted class of each chip.
    classes : sequence of str
        Class names.
    """
    colors = class_colors(classes)
    right = predicted == scene.labels
    height, width = scene.shape
    name = scene.name
    panels = [
        Panel(
            "Seen from above",
            photo_uri(stretch(quick_look(store, scene)), PHOTO_PX),
            f"Quick-look of scene {name}, put together from its chips",
            exact=False,
        ),
        Panel(
            "Reference",
            cells_uri(_paint(scene, colors[scene.labels])),
            f"Reference classes of scene {name}",
        ),
        Panel(
            "Predicted",
            cells_uri(_paint(scene, colors[predicted])),
            f"Classes that the model predicts for scene {name}",
        ),
        Panel(
            "Right and wrong",
            cells_uri(_paint(scene, _verdicts(right), _fade(scene))),
            f"Chips of scene {name} that the model gets right and wrong",
        ),
    ]
    return LandCoverMap(
        scene=name,
        width=width,
        height=height,
        panels=panels,
        outline=outline_path(scene.grid(scene.test, 0).astype(np.bool_)),
        legend=_legend(scene.labels, predicted, classes, colors),
        num_test=int(scene.test.sum()),
        num_train=int(scene.train.sum()),
        num_other=int((~scene.test & ~scene.train).sum()),
        test_accuracy=_share(right[scene.test]),
        train_accuracy=_share(right[scene.train]),
    )


def _paint(
    scene: Scene, colors: NDArray[np.uint8], alpha: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Lay one RGB colour a chip on the grid; cells without a chip stay transparent."""
    rgba = np.zeros((*scene.shape, 4), dtype=np.uint8)
    rgba[scene.rows, scene.cols, :3] = colors
    rgba[scene.rows, scene.cols, 3] = 255 if alpha is None else alpha
    return rgba


def _verdicts(right: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.array([WRONG, RIGHT], dtype=np.uint8)[right.astype(np.int64)]


def _fade(scene: Scene) -> NDArray[np.uint8]:
    """Pale where the chip was trained on: being right there proves little."""
    return np.where(scene.train, _TRAINED_ALPHA, _UNTRAINED_ALPHA).astype(np.uint8)


def _legend(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
    colors: NDArray[np.uint8],
) -> list[LegendEntry]:
    """Classes that occur in the scene, the most frequent first."""
    reference = np.bincount(labels, minlength=len(classes))
    guessed = np.bincount(predicted, minlength=len(classes))
    order = np.argsort(-reference, kind="stable")
    return [
        LegendEntry(
            classes[at],
            "#" + bytes(colors[at].tolist()).hex(),
            int(reference[at]),
            int(guessed[at]),
        )
        for at in order.tolist()
        if reference[at] or guessed[at]
    ]


def _share(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if right.size else None
