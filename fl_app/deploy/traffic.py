"""The ledger of a run beside Flower's own count of what crossed the network.

Flower counts, per run, the calls by which sites fetch messages and send replies: the contents that
the ledger counts, and round them the lists of objects, the acknowledgements, and the roll call.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fl_app.flower.command import FlowerRun
from rsdgc.durable import replace_text
from strategies.round_log import human_bytes

FILE = "traffic.json"


@dataclass(frozen=True)
class Traffic:
    """Both counts of a run, bytes.

    Attributes
    ----------
    ledger_up, ledger_down : int
        Contents of the messages, as ``summary.json`` has them.
    wire_up, wire_down : int
        What Flower counted.
    """

    ledger_up: int
    ledger_down: int
    wire_up: int
    wire_down: int

    @property
    def framing_up(self) -> float:
        """What Flower counted beyond the ledger, as a share of the ledger."""
        return self.wire_up / self.ledger_up - 1.0

    @property
    def framing_down(self) -> float:
        """What Flower counted beyond the ledger, as a share of the ledger."""
        return self.wire_down / self.ledger_down - 1.0

    def line(self) -> str:
        """Return both counts for a person."""
        return (
            f"on the wire, as Flower counts it: up {human_bytes(self.wire_up)} "
            f"({self.framing_up:+.2%} of the ledger), down {human_bytes(self.wire_down)} "
            f"({self.framing_down:+.2%})"
        )


def reconcile(folder: Path, run: FlowerRun) -> Traffic | None:
    """Write ``traffic.json`` beside a run's summary, and return what it says.

    Returns None for a run that was resumed: its ledger covers all attempts since the first,
    Flower's count this one alone.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if str(config["run_id"]) != run.run_id:
        return None
    traffic = Traffic(summary["bytes_up"], summary["bytes_down"], run.bytes_up, run.bytes_down)
    replace_text(folder / FILE, json.dumps(asdict(traffic), indent=1))
    return traffic
