"""Who is set aside, and that the rounds of the others do not change by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message
from hypothesis import given
from hypothesis import strategies as st

from strategies import RsDgc, messages
from strategies.base import RoundSettings
from strategies.checkpoints import Checkpoint, Checkpoints
from strategies.ledger import SiteEntry
from strategies.model_record import to_record
from strategies.suspension import FIRST_ROUNDS, MOST_ROUNDS, NO_REPLY_CODES, Suspensions
from tests.loopback import LoopbackGrid
from tests.strategies.fake_sites import SPEC, FakeSites, initial_weights, loopback, rs_dgc


def error(code: int = 2) -> Message:
    return Message(Error(code=code, reason="no space left"), reply_to=sent())


def sent() -> Message:
    grid = loopback(FakeSites())
    strategy = rs_dgc()
    strategy.start(grid, to_record(initial_weights(), SPEC), num_rounds=1, timeout=1.0)
    return grid.seen[0]


ERROR, GONE = error(), error(NO_REPLY_CODES[0])


def observe(suspensions: Suspensions, number: int, outcome: str) -> list[SiteEntry]:
    """Observe a round in which one site is asked, unless it is set aside."""
    if "a" in suspensions.sites(number):
        return []
    entry = SiteEntry(number, "a", accepted=outcome == "accepted", reason="not a valid upload")
    replies = {"accepted": ERROR, "refused": ERROR, "gone": GONE}
    reply = replies.get(outcome)
    return suspensions.observe(number, {"a": entry}, {} if reply is None else {"a": reply})


def test_a_site_is_set_aside_for_longer_and_longer() -> None:
    suspensions = Suspensions(after=3)
    asked = []
    for number in range(1, 200):
        if "a" not in suspensions.sites(number):
            asked.append(number)
        observe(suspensions, number, "refused")
    absent = np.diff(asked) - 1
    assert absent.tolist() == [0, 0, FIRST_ROUNDS, 4, 8, 16, MOST_ROUNDS, 32, 32, 32]
    while "a" in suspensions.sites(number):
        number += 1
    observe(suspensions, number, "accepted")
    assert suspensions.records == {}


@given(st.lists(st.sampled_from(["accepted", "refused", "none", "gone"]), max_size=40))
def test_only_failures_in_a_row_count(outcomes: list[str]) -> None:
    suspensions = Suspensions(after=3)
    in_a_row = 0
    for number, outcome in enumerate(outcomes, start=1):
        was_asked = "a" not in suspensions.sites(number)
        started = observe(suspensions, number, outcome)
        failed = outcome in ("refused", "none")
        if was_asked and outcome != "gone":
            in_a_row = in_a_row + 1 if failed else 0
        assert bool(started) == (was_asked and failed and in_a_row >= 3)
    assert {"refused", "none"} & set(outcomes) or not suspensions.records


def test_a_suspension_does_not_cost_the_quorum() -> None:
    suspensions = Suspensions(after=1)
    for number, name in enumerate("abc"):
        entry = SiteEntry(number, name, reason="x")
        suspensions.observe(number, {name: entry}, {name: ERROR})
    names = ["a", "b", "c", "d"]
    assert suspensions.absent(2, names, needed=1) == {"a", "b", "c"}
    assert suspensions.absent(2, names, needed=3) == {"c"}  # those that are due first are asked
    assert suspensions.absent(2, names, needed=9) == set()
    assert suspensions.absent(2, ["a", "b"], needed=1) == {"b"}
    assert suspensions.absent(2, [], needed=1) == set()


class Hostile(FakeSites):
    """One site of three always sends something that is not an upload."""

    def encode(self, task: messages.ConfigRecord) -> bytes:  # type: ignore[name-defined]
        payload = super().encode(task)
        return b"x" * len(payload) if task[messages.SITE] == "north" else payload


def strategy(folder: Path | None, after: int, quorum: int = 1) -> RsDgc:
    made = rs_dgc(run_folder=folder)
    made.round_settings = RoundSettings(1.0, quorum, 0, lambda _: 0.01, suspend_after=after)
    made.suspensions.after = after
    return made


def run(made: RsDgc, rounds: int, sites: FakeSites | None = None) -> LoopbackGrid:
    grid = loopback(sites or Hostile())
    made.start(grid, to_record(initial_weights(), SPEC), num_rounds=rounds, timeout=5.0)
    return grid


def asked_in(grid: LoopbackGrid, site: str) -> list[int]:
    tasks = [m.content["task"] for m in grid.seen if m.metadata.message_type == "train"]
    return [task[messages.ROUND] for task in tasks if task[messages.SITE] == site]


def test_a_hostile_site_is_asked_less_often_and_the_result_is_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = strategy(tmp_path, after=2)
    grid = run(made, 12)
    assert asked_in(grid, "north") == [1, 2, 5, 10]
    assert asked_in(grid, "south") == list(range(1, 13))
    without = strategy(None, after=0)
    run(without, 12)
    np.testing.assert_array_equal(made.model.published, without.model.published)
    assert made.ledger.suspensions == {"north": 3}
    assert made.ledger.refusals == {"not a valid upload": 4}
    assert [e.suspended for e in made.ledger.rounds] == [0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1]
    text = "north is set aside for 2 rounds: not a valid upload (2 replies in a row were refused"

    assert text in caplog.text
    assert "| 1 set aside" in caplog.text
    ledger = (tmp_path / "rounds.jsonl").read_text()
    assert ledger.count('"phase": "suspended"') == 3


@pytest.mark.slow
def test_a_site_that_never_replies_costs_few_rounds_their_time_out() -> None:
    grid = loopback(FakeSites())
    grid.fault = lambda message, reply: (
        None if message.content["task"].get(messages.SITE) == "north" else reply
    )
    made = strategy(None, after=2)
    made.start(grid, to_record(initial_weights(), SPEC), num_rounds=12, timeout=0.05)
    assert asked_in(grid, "north") == [1, 2, 5, 10]
    assert made.ledger.refusals["no reply"] >= 4
    last = made.ledger.rounds[-2]
    assert list(last.by_site) == ["south"]


def test_the_quorum_is_asked_all_the_same() -> None:
    grid = run(strategy(None, after=2, quorum=2), 6)
    # No round reaches the quorum, so the run makes up for each.
    assert asked_in(grid, "north") == list(range(1, 13))


def test_a_run_without_refusals_is_the_same_with_and_without() -> None:
    one, two = strategy(None, after=1), strategy(None, after=0)
    for made in (one, two):
        run(made, 5, FakeSites())
    np.testing.assert_array_equal(one.model.published, two.model.published)
    assert one.suspensions.records == {}
    assert one.ledger.rounds[1:] != []
    assert "suspended" not in one.ledger.refusals


@pytest.mark.slow
def test_a_resumed_run_sets_the_same_sites_aside(tmp_path: Path) -> None:
    folders = tmp_path / "whole", tmp_path / "resumed"
    for folder in folders:
        folder.mkdir()
    whole = strategy(folders[0], after=2)
    run(whole, 12)

    run(strategy(folders[1], after=2), 4)
    (folders[1] / "checkpoints" / "round-000006.safetensors").unlink(missing_ok=True)
    resumed = strategy(folders[1], after=2)
    checkpoint = next(Checkpoints(folders[1], every=2, keep=1).newest())
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.round == 4
    resumed.resume(checkpoint)
    grid = run(resumed, 12)
    assert asked_in(grid, "north") == [5, 10]
    np.testing.assert_array_equal(whole.model.published, resumed.model.published)
    assert whole.suspensions == resumed.suspensions
    assert whole.ledger.suspensions == resumed.ledger.suspensions
