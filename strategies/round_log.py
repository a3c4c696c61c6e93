"""One line per round, fit for a log that is mirrored line by line."""

from __future__ import annotations

import time

from strategies.ledger import RoundEntry


class RoundLog:
    """Writes the line of a round, with the time that is left.

    Parameters
    ----------
    num_rounds : int
        Rounds in all.
    done : int
        Of these, done before this start of the run.
    """

    def __init__(self, num_rounds: int, done: int = 0) -> None:
        self.num_rounds = num_rounds
        self.done = done
        self.began = time.monotonic()

    def line(self, entries: list[RoundEntry]) -> str:
        """Return the line of the round ``entries[1]``; ``entries[0]`` is the one before it.

        The accuracy is of the model that the round started from: the sites score what they
        receive, so it is known one round late.
        """
        before, now = entries[0], entries[1]
        accuracy = "  –  " if before.accuracy is None else f"{before.accuracy:.3f}"
        each = (time.monotonic() - self.began) / (now.round - self.done)
        left = each * (self.num_rounds - now.round)
        parts = [
            f"round {now.round:>{len(str(self.num_rounds))}}/{self.num_rounds}",
            f"accuracy {accuracy} (after round {before.round})",
            f"up {human_bytes(now.bytes_up)} {_times(now.dense_bytes_up, now.bytes_up)}",
            f"down {human_bytes(now.bytes_down)} {_times(now.dense_bytes_down, now.bytes_down)}",
            f"{now.seconds:.1f} s",
            f"left {human_seconds(left)}",
        ]
        if now.resyncs:
            parts.append(f"{now.resyncs} resynchronised")
        if now.refused:
            parts.append(f"{now.refused} refused")
        return " | ".join(parts)


def human_bytes(count: float) -> str:
    """Bytes with a decimal unit: 1_234_567 → '1.23 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:  # what rounds to 1000 takes the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def human_seconds(seconds: float) -> str:
    """Duration for a person: '42 s', '3 min 5 s', '2 h 10 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _times(dense: int, real: int) -> str:
    return f"({dense / real:.1f}×)" if real else "(–)"
