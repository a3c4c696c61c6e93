"""Tracking a run in TensorBoard, MLflow or Weights & Biases: the setting ``tracking``.

=======================  ==========================================================================
module                   purpose
=======================  ==========================================================================
``tracker``              :class:`Tracker`, what an adapter is
``run_tracking``         reads a run's ledger in the background and passes it to its trackers
``tracked_figures``      names and values of what the ledger has
``tensorboard_tracker``  event files below the run folder
``mlflow_tracker``       an SQLite file there, or the server of ``MLFLOW_TRACKING_URI``
``wandb_tracker``        an offline run there, or online with ``WANDB_MODE=online``
=======================  ==========================================================================

A tracker of your own is a :class:`~fl_app.tracking.tracker.Tracker`, named as
``tracking=package.module:Class``. Trackers work in threads of the server application. One that is
slow keeps no round waiting, and one that fails costs a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from rsdgc.documents import shorten
from rsdgc.errors import SettingError

NONE = "none"
TRACKERS = {
    "tensorboard": "fl_app.tracking.tensorboard_tracker:TensorBoardTracker",
    "mlflow": "fl_app.tracking.mlflow_tracker:MlflowTracker",
    "wandb": "fl_app.tracking.wandb_tracker:WandbTracker",
}
"""Classes by name. Each name is also that of the package that it needs, and of the extra."""


def parse_tracking(text: str) -> tuple[str, ...]:
    """Return the trackers that a setting names; ValueError if it names something else."""
    names = tuple(word.strip() for word in text.split(","))
    if names == (NONE,):
        return ()
    for name in names:
        if name not in TRACKERS and ":" not in name:
            listed = ", ".join((NONE, *TRACKERS))
            raise ValueError(
                f"{shorten(name)} is not a tracker: choose {listed}, several with commas between"
            )
    if len(set(names)) < len(names):
        raise ValueError("a tracker is named twice")
    return names


def check_installed(names: Sequence[str]) -> None:
    """Raise :class:`SettingError` if the package that a tracker needs is not installed."""
    for name in names:
        if name in TRACKERS and find_spec(name) is None:
            raise SettingError(
                f"tracking={name} needs the package {name}, which is not installed: "
                f'pip install "rsdgc[{name}]", where the server application runs'
            )
