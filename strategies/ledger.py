"""The byte ledger: what crossed the network, per round, site, direction and layer group.

Two files in the run folder, written as the run goes, a line of JSON each time:

``rounds.jsonl``
    a line per round × site;
``history.jsonl``
    a line per round, with the accuracy of the global model after it (round 0: before training).

A line of ``rounds.jsonl`` has a ``phase``: ``train`` for a round's own message and reply,
``evaluate`` for the final evaluation, ``late`` for a reply that came after its round had ended,
``statistics`` for a site's sums, which are asked for before the first round.
The bytes of all of them are counted, those of resynchronisations among them.

Counted are the contents of the messages that were really sent, as Flower serialises them: arrays
with their headers, and every other field of task and report.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from rsdgc.errors import RunError
from strategies.metrics import Scores

FILES = ("rounds.jsonl", "history.jsonl")

WHOLE_MODEL = "whole model"
"""Group of the bytes down of a model sent whole."""


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
    down_by_group: dict[str, int] = field(default_factory=dict)
    phase: str = "train"
    resynced: bool = False
    bytes_resync: int = 0

    def send(self, groups: dict[str, int], num_bytes: int) -> None:
        """Count a message to the site: its bytes by group, the rest of it as ``task``."""
        self.bytes_down += num_bytes
        rest = {"task": num_bytes - sum(groups.values())}
        for group, count in {**groups, **rest}.items():
            self.down_by_group[group] = self.down_by_group.get(group, 0) + count


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
    resyncs: int = 0
    bytes_resync: int = 0
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
        self._scored = 0

    def begin(self, entries: list[SiteEntry]) -> None:
        """Enter what was asked of the sites before the first round."""
        self.rounds[0].refused = sum(not entry.accepted for entry in entries)
        self.count(entries)
        self._count_refusals(entries)

    def close_round(
        self, entries: list[SiteEntry], ratios: dict[str, float], seconds: float
    ) -> None:
        """Enter a round's sites and its sums; its score follows with :meth:`score_round`."""
        trained = [entry for entry in entries if entry.phase == "train"]
        entry = RoundEntry(
            round=len(self.rounds),
            sites=sum(e.accepted for e in trained),
            refused=sum(not e.accepted for e in entries),
            seconds=round(seconds, 3),
            ratios={name: float(f"{ratio:.5g}") for name, ratio in ratios.items()},
        )
        self.rounds.append(entry)
        self.count(entries)
        self._count_refusals(entries)

    def count(self, entries: list[SiteEntry]) -> None:
        """Add messages to the last round's bytes, and write their lines.

        Dense FedAvg would have sent a model for every message to a site, resynchronisations
        aside, and one back for every reply to a round's work.
        """
        entry = self.rounds[-1]
        for site in entries:
            entry.bytes_up += site.bytes_up
            entry.bytes_down += site.bytes_down
            entry.dense_bytes_up += self.dense_bytes * (
                site.bytes_up > 0 and site.phase in ("train", "late")
            )
            entry.dense_bytes_down += self.dense_bytes * (site.phase in ("train", "evaluate"))
            entry.resyncs += site.resynced
            entry.bytes_resync += site.bytes_resync
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
        self._scored = round_number + 1

    def totals(self) -> dict[str, float]:
        """Return bytes and compression of the whole run, as ``summary.json`` has them."""
        up, down, dense_up, dense_down = (
            sum(getattr(entry, name) for entry in self.rounds)
            for name in ("bytes_up", "bytes_down", "dense_bytes_up", "dense_bytes_down")
        )
        return {
            "resyncs": sum(entry.resyncs for entry in self.rounds),
            "bytes_resync": sum(entry.bytes_resync for entry in self.rounds),
            "bytes_up": up,
            "bytes_down": down,
            "dense_bytes_up": dense_up,
            "dense_bytes_down": dense_down,
            "compression_up": _ratio(dense_up, up),
            "compression_down": _ratio(dense_down, down),
            "compression_total": _ratio(dense_up + dense_down, up + down),
        }

    # ---- checkpoints --------------------------------------------------------------------------

    def position(self) -> dict[str, Any]:
        """Return where the ledger stands, as JSON values, with its files forced to disk."""
        lengths = {}
        for name in FILES if self.folder else ():
            assert self.folder is not None
            with (self.folder / name).open("ab") as file:
                os.fsync(file.fileno())
                lengths[name] = file.tell()
        pending = [asdict(entry) for entry in self.rounds[self._scored :]]
        return {"lengths": lengths, "pending": pending, "refusals": self.refusals}

    def return_to(self, position: dict[str, Any]) -> None:
        """Cut the files back to a position, and take up the counts from there.

        Raises
        ------
        RunError
            The files are shorter than they were, or damaged.
        """
        assert self.folder is not None
        for name, length in position["lengths"].items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size < length:
                raise RunError(f"{path} is shorter than at the checkpoint: the folder is damaged")
            os.truncate(path, length)
        scored = (self.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        try:
            self.rounds = [RoundEntry(**json.loads(line)) for line in scored]
        except (ValueError, TypeError) as error:
            raise RunError(f"{self.folder / 'history.jsonl'} is damaged: {error}") from None
        self._scored = len(self.rounds)
        self.rounds += [RoundEntry(**entry) for entry in position["pending"]]
        self.refusals = dict(position["refusals"])

    def start_over(self) -> None:
        """Empty the files, as for a run that begins."""
        for name in FILES if self.folder else ():
            assert self.folder is not None
            (self.folder / name).unlink(missing_ok=True)

    def _count_refusals(self, entries: list[SiteEntry]) -> None:
        for site in entries:
            if not site.accepted:
                self.refusals[site.reason] = self.refusals.get(site.reason, 0) + 1

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
