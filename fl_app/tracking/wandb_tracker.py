"""Weights & Biases: an offline run in the run folder, unless ``WANDB_MODE`` says otherwise."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping

import wandb

from fl_app.tracking.tracker import TrackedRun

PROJECT = "rsdgc"


class WandbTracker:
    """Logs to one run, which a resumed run continues; ``wandb sync`` uploads what is offline.

    Project, entity and mode are those of ``WANDB_PROJECT``, ``WANDB_ENTITY`` and ``WANDB_MODE``.
    Code, output and the state of the machine are not recorded.
    """

    replaces = False

    def __init__(self, run: TrackedRun) -> None:
        self.identity = run.identity or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            id=self.identity,
            resume="allow" if run.identity else None,
            name=run.name,
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            dir=str(run.folder),
            mode=_mode(),
            config=dict(run.facts),
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                silent=True,
                x_disable_stats=True,
            ),
        )
        # wandb's own steps only grow, and bytes of a late reply belong to an earlier round.
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")

    def log(self, round_number: int, figures: Mapping[str, float]) -> None:
        """Log the figures with the round as their step."""
        self._run.log({"round": round_number, **figures})

    def flush(self) -> None:
        """Do nothing: wandb's own process writes what was logged."""

    def finish(self, figures: Mapping[str, float], *, complete: bool) -> None:
        """Add the figures of the whole run to its summary."""
        self._run.summary.update(dict(figures))
        self._run.finish(exit_code=0 if complete else 1)


def _mode() -> str:
    mode = os.environ.get("WANDB_MODE", "offline")
    return mode if mode in ("online", "offline", "disabled", "shared") else "offline"
