"""Real runs with a site that cannot take part, from the start or when the run is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fl_app import client_app
from rsdgc.errors import RunError
from strategies import messages
from strategies.checkpoints import Checkpoints
from tests.federation import grid, serve, settings
from tests.loopback import LoopbackGrid

pytestmark = pytest.mark.slow

BAD = 103


def lose_its_store(loopback: LoopbackGrid, folder: Path) -> None:
    own = {"data-dir": str(folder / "lost"), "site-name": "site-02"}
    loopback.contexts[BAD].node_config.clear()
    loopback.contexts[BAD].node_config.update(own)


def answer(loopback: LoopbackGrid, **changes: Any) -> None:
    """Change what the bad node answers to the roll call."""

    def fault(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == BAD and message.metadata.message_type == "query":
            for key, value in changes.items():
                reply.content[messages.SITE][key.replace("_", "-")] = value
        return reply

    loopback.fault = fault


def federate(
    data: Path, out: Path, bad: str, *, report: bool = False, **options: Any
) -> LoopbackGrid:
    client_app.opened_sites.clear()
    chosen = settings(data, out, rounds=2, min_sites=2, join_timeout_s=0.2, **options)
    loopback = grid(chosen, run_id=8 if options.get("resume") else 7)
    if bad == "absent":
        loopback.away = {BAD}
    elif bad == "lost store":
        lose_its_store(loopback, out.parent)
    elif bad == "other classes":
        answer(loopback, classes=["bare", "forest", "sea"])
    elif bad == "another's name":
        answer(loopback, names=["site-00"])
    elif bad == "silent":
        loopback.fault = lambda m, reply: None if m.metadata.dst_node_id == BAD else reply
    serve(loopback, chosen, 8 if options.get("resume") else 7, report=report)
    return loopback


@pytest.fixture(scope="module")
def without(data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the model of the run that never saw the site."""
    out = tmp_path_factory.mktemp("without") / "run"
    federate(data, out, "absent")
    return (out / "model.safetensors").read_bytes()


BAD_SITES = {
    "lost store": ("node 103", "error at the site"),
    "other classes": ("site site-02", "other classes"),
    "another's name": ("node 103", "name taken"),
    "silent": ("node 103", "no answer"),
}


@pytest.mark.parametrize("bad", BAD_SITES)
def test_a_run_goes_on_without_a_site_that_cannot_take_part(
    data: Path, tmp_path: Path, without: bytes, bad: str
) -> None:
    out = tmp_path / "run"
    federate(data, out, bad, report=True)
    assert (out / "model.safetensors").read_bytes() == without
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["num_sites"], summary["refused"]) == (2, {})
    name, reason = BAD_SITES[bad]
    (left,) = summary["left_out"]
    assert (left["name"], left["reason"]) == (name, reason)
    if bad == "lost store":
        assert "at site site-02: " in left["detail"]
    ledger = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    (entry,) = [row for row in ledger if row["phase"] == "roll-call"]
    assert (entry["site"], entry["round"], entry["bytes_up"]) == (name, 0, 0)
    assert entry["reason"].startswith(reason)
    page = (out / "report.html").read_text()
    assert "Nodes that took no part" in page
    assert reason in page


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("bad", ["lost store", "other classes"])
def test_a_resumed_run_goes_on_without_it_too(
    data: Path, tmp_path: Path, without: bytes, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    out = tmp_path / "run"
    save = Checkpoints.save

    def save_and_stop(self: Checkpoints, checkpoint: Any) -> None:
        save(self, checkpoint)
        raise StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(StoppedError):
            federate(data, out, "absent", checkpoint_every=1)
    federate(data, out, bad, checkpoint_every=1, resume=True)
    assert (out / "model.safetensors").read_bytes() == without
    summary = json.loads((out / "summary.json").read_text())
    assert [left["reason"] for left in summary["left_out"]] == [BAD_SITES[bad][1]]


def test_a_run_fails_below_min_sites_alone(data: Path, tmp_path: Path) -> None:
    chosen = settings(data, tmp_path / "run", min_sites=3, join_timeout_s=0.2)
    loopback = grid(chosen)
    lose_its_store(loopback, tmp_path)
    with pytest.raises(RunError, match=r"2 of at least 3 sites joined .* at site site-02: .*lost"):
        serve(loopback, chosen)
