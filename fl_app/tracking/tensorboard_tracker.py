"""TensorBoard: event files that ``tensorboard --logdir runs`` shows."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from fl_app.tracking.tracker import TrackedRun


class TensorBoardTracker:
    """Writes event files; those of a resumed run replace the rounds that are run again."""

    replaces = True

    def __init__(self, run: TrackedRun) -> None:
        self.identity = "events"
        purge = run.first_round if run.identity else None
        # Named by the run folder, which is what TensorBoard shows beside a curve.
        self._writer = SummaryWriter(str(run.folder), purge_step=purge)
        self._last_round = 0
        if not run.identity:
            rows = [f"| {name} | {value} |" for name, value in run.facts.items()]
            table = "\n".join(["| setting | value |", "|---|---|", *rows])
            self._writer.add_text("settings", table, 0)

    def log(self, round_number: int, figures: Mapping[str, float]) -> None:
        """Add a scalar for each figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, round_number)
        self._last_round = max(self._last_round, round_number)

    def flush(self) -> None:
        """Write the events to disk."""
        self._writer.flush()

    def finish(self, figures: Mapping[str, float], *, complete: bool) -> None:
        """Add the figures of the whole run at its last round."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, self._last_round)
        self._writer.close()
