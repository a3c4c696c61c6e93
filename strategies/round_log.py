"""A run's log: its times, and the line of a round.

Flower mirrors the log line by line, so there is no progress bar.
"""

from __future__ import annotations

import logging
import time

from flwr.common.logger import FLOWER_LOGGER

from rsdgc.time_text import time_left
from strategies.ledger import RoundEntry, utc_time


class _Times(logging.Filter):
    """Puts the time in UTC (ISO 8601) before each message."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record, and let it pass."""
        record.msg = f"{utc_time()} {record.msg}"
        return True


def log_times() -> None:
    """Let this process log with times: a deployment's log is read long after."""
    if not any(isinstance(each, _Times) for each in FLOWER_LOGGER.filters):
        FLOWER_LOGGER.addFilter(_Times())


class RoundLog:
    """Formats the log line of a round, with an estimate of the remaining time.

    ``done`` is the number of rounds that were done before this start of the run.
    """

    def __init__(self, done: int = 0) -> None:
        self.done = done
        self.start_time = time.monotonic()

    def line(self, num_rounds: int, before: RoundEntry, now: RoundEntry) -> str:
        """Return the line of a round of so many, given the round before it as well.

        The accuracy is that of the model at the start of the round: sites score what they
        receive, so it is known one round late.
        """
        accuracy = "  –  "
        if before.accuracy is not None:
            accuracy = f"{before.accuracy:.3f} of {before.num_test} chips"
        seconds_per_round = (time.monotonic() - self.start_time) / (now.round - self.done)
        left = seconds_per_round * (num_rounds - now.round)
        if before.val_balanced_accuracy is not None:
            accuracy += f", val balanced {before.val_balanced_accuracy:.3f}"
        parts = [
            f"round {now.round:>{len(str(num_rounds))}}/{num_rounds}",
            f"{now.sites} of {now.asked} sites",
            f"accuracy {accuracy} (after round {before.round})",
            f"up {human_bytes(now.bytes_up)} {_times(now.dense_bytes_up, now.bytes_up)}",
            f"down {human_bytes(now.bytes_down)} {_times(now.dense_bytes_down, now.bytes_down)}",
            f"{now.seconds:.1f} s",
            time_left(left),
        ]
        if now.resyncs:
            parts.append(f"{now.resyncs} resynchronized")
        if now.clipped:
            parts.append(f"{now.clipped} clipped")
        if now.refused:
            parts.append(f"{now.refused} refused")
        if now.suspended:
            parts.append(f"{now.suspended} set aside")
        return " | ".join(parts)


def human_bytes(count: float) -> str:
    """Return bytes with a decimal unit: 1_234_567 → '1.23 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:  # what rounds to 1000 takes the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _times(dense: int, real: int) -> str:
    return f"({dense / real:.1f}×)" if real else "(–)"
