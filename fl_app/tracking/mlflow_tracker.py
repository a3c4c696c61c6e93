"""MLflow: a database in the run folder, or the server that ``MLFLOW_TRACKING_URI`` names."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.tracking import MlflowClient

from fl_app.tracking.tracker import TrackedRun

EXPERIMENT = "rsdgc"
MAX_PARAM = 500
"""Characters of a parameter's value that every version of MLflow takes."""
_REFUSED = re.compile(r"[^\w\-. :/]")


class MlflowTracker:
    """Logs to one run of an experiment, which a resumed run continues.

    The experiment is ``MLFLOW_EXPERIMENT_NAME``, by default ``rsdgc``. MLflow keeps every value
    that it was given.
    """

    replaces = False

    def __init__(self, run: TrackedRun) -> None:
        server = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=server or f"sqlite:///{run.folder / 'mlflow.db'}")
        if run.identity:
            self.identity = run.identity
            self._client.set_terminated(self.identity, RunStatus.to_string(RunStatus.RUNNING))
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # Nothing but figures is logged, yet MLflow wants a place for files.
            place = None if server else (run.folder / "files").as_uri()
            experiment_id = self._client.create_experiment(name, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
        self.identity = self._client.create_run(experiment_id, run_name=run.name).info.run_id
        facts = {_name(key): str(value)[:MAX_PARAM] for key, value in run.facts.items()}
        self._client.log_batch(
            self.identity,
            params=[Param(key, value) for key, value in facts.items()],
            tags=[RunTag("rsdgc.folder", run.folder.parents[1].as_posix())],
        )

    def log(self, round_number: int, figures: Mapping[str, float]) -> None:
        """Log the figures with the round as their step."""
        now = round(1000 * time.time())
        metrics = [Metric(_name(key), value, now, round_number) for key, value in figures.items()]
        for start in range(0, len(metrics), 1000):  # MLflow's limit of a batch
            self._client.log_batch(self.identity, metrics=metrics[start : start + 1000])

    def flush(self) -> None:
        """Do nothing: every batch is written when it is logged."""

    def finish(self, figures: Mapping[str, float], *, complete: bool) -> None:
        """Log the figures of the whole run, and its status."""
        if figures:
            self.log(0, figures)
        status = RunStatus.FINISHED if complete else RunStatus.KILLED
        self._client.set_terminated(self.identity, RunStatus.to_string(status))


def _name(text: str) -> str:
    """Return a name of a figure as MLflow takes it; the name of a site may hold anything."""
    return _REFUSED.sub("_", text)[:250]
