"""The byte ledger: what crossed the network, per round, site, direction and layer group.

Two files in the run folder, written as the run goes, a line of JSON each time:

``rounds.jsonl``
    a line per round × site;
``history.jsonl``
    a line per round, with the accuracy of the global model after it (round 0: before training).

Counted are the contents of the messages that were really sent, as Flower serialises them: arrays
with their headers, and every other field of task and report.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from strategies.scores import Scores


@dataclass
class SiteEntry:
    """One site in one round."""

    round: int
    site: str
    bytes_down: int
    bytes_up: int = 0
    accepted: bool = False
    reason: str = ""
    num_examples: int = 0
    train_loss: float | None = None
    seconds: float = 0.0
    up_by_group: dict[str, int] = field(default_factory=dict)


@dataclass
class RoundEntry:
    """One round of all sites, complete once the model after it has been scored."""

    round: int
    bytes_up: int = 0
    bytes_down: int = 0
    dense_bytes_up: int = 0
    dense_bytes_down: int = 0
    sites: int = 0
    refused: int = 0
    seconds: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    kappa: float | None = None
    loss: float | None = None


class Ledger:
    """Counts bytes and refusals, and writes them down as the run goes.

    Parameters
    ----------
    folder : Path or None
        The run folder; None keeps the ledger in memory only.
    dense_bytes : int
        The whole model in float32: what FedAvg would send to a site, and what it would send back.
    """

    def __init__(self, folder: Path | None, dense_bytes: int) -> None:
        self.folder = folder
        self.dense_bytes = dense_bytes
        self.rounds: list[RoundEntry] = [RoundEntry(0)]
        self.refusals: dict[str, int] = {}
        self.final: Scores | None = None

    def close_round(
        self, entries: list[SiteEntry], ratios: dict[str, float], seconds: float
    ) -> None:
        """Enter a round's sites and its sums; its score follows with :meth:`score_round`."""
        entry = RoundEntry(
            round=len(self.rounds),
            bytes_up=sum(e.bytes_up for e in entries),
            bytes_down=sum(e.bytes_down for e in entries),
            dense_bytes_up=self.dense_bytes * sum(e.bytes_up > 0 for e in entries),
            dense_bytes_down=self.dense_bytes * len(entries),
            sites=sum(e.accepted for e in entries),
            refused=sum(not e.accepted for e in entries),
            seconds=round(seconds, 3),
            ratios={name: float(f"{ratio:.5g}") for name, ratio in ratios.items()},
        )
        self.rounds.append(entry)
        for site in entries:
            if not site.accepted:
                self.refusals[site.reason] = self.refusals.get(site.reason, 0) + 1
            self._append("rounds.jsonl", asdict(site))

    def score_round(self, round_number: int, scores: Scores | None) -> None:
        """Write the line of a round with the accuracy of the model that came out of it."""
        entry = self.rounds[round_number]
        if scores is not None and scores.num_examples:
            entry.accuracy = scores.accuracy
            entry.balanced_accuracy = scores.balanced_accuracy
            entry.kappa = scores.kappa
            entry.loss = scores.loss
        self._append("history.jsonl", asdict(entry))

    def totals(self) -> dict[str, float]:
        """Return bytes and compression of the whole run, as ``summary.json`` has them."""
        up, down, dense_up, dense_down = (
            sum(getattr(entry, name) for entry in self.rounds)
            for name in ("bytes_up", "bytes_down", "dense_bytes_up", "dense_bytes_down")
        )
        return {
            "bytes_up": up,
            "bytes_down": down,
            "dense_bytes_up": dense_up,
            "dense_bytes_down": dense_down,
            "compression_up": _ratio(dense_up, up),
            "compression_down": _ratio(dense_down, down),
            "compression_total": _ratio(dense_up + dense_down, up + down),
        }

    def _append(self, name: str, line: dict[str, Any]) -> None:
        if self.folder is None:
            return
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def content_bytes(content: RecordDict) -> int:
    """Bytes of a message's content: every array, metric and config value, and their names."""
    return sum(len(name) + record.count_bytes() for name, record in content.items())


def layer_group(layer: str) -> str:
    """Name of the part of a network that a layer belongs to: the first word of its name."""
    return layer.partition(".")[0]


def _ratio(dense: float, real: float) -> float:
    return round(dense / real, 3) if real else 0.0
