"""Runs with one site whose replies are malformed on the wire, over Flower's own serialization.

The model and the scores must be, bit for bit, those of a run without the site.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import validate_object_content

from rsdgc.errors import WireError
from strategies import DenseFedAvg, Ledger, messages
from strategies.base import SiteStrategy
from strategies.ledger import SiteEntry
from strategies.model_record import to_record, to_vector
from strategies.reply_objects import SMALL_REPLY, listed_objects, open_reply
from strategies.transport import (
    INCOMPLETE_REPLY,
    MALFORMED_REPLY,
    OVERSIZED_REPLY,
    chunk_upload,
)
from tests.flower_link import LinkGrid, Objects, Tamper
from tests.strategies.fake_sites import (
    SPEC,
    FakeSites,
    initial_weights,
    rates,
    round_settings,
    rs_dgc,
    site_manager,
)
from tests.strategies.reply_mutants import mutant

HONEST = ("east", "north", "south")
HOSTILE = "west"
HOSTILE_NODE = 104
ROUNDS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 10
METHODS = ("rs-dgc", "fedavg")

pytestmark = pytest.mark.timeout(3600)  # for the thorough profile


class KeptLedger(Ledger):
    """Keeps the entries of all messages."""

    def __init__(self) -> None:
        super().__init__(None, SPEC.dense_bytes)
        self.entries: list[SiteEntry] = []

    def count(self, entries: list[SiteEntry]) -> None:
        self.entries += entries
        super().count(entries)

    def of(self, site: str, phase: str = "train") -> list[SiteEntry]:
        return [each for each in self.entries if (each.site, each.phase) == (site, phase)]


def run(
    method: str, tamper: Tamper | None = None, rounds: int = ROUNDS
) -> tuple[SiteStrategy, np.ndarray[Any, Any]]:
    """Run a method with the honest sites, and the hostile one if its replies are tampered with."""
    names = HONEST if tamper is None else (*HONEST, HOSTILE)

    def of_the_hostile(message: Message, objects: Objects) -> Objects | None:
        hostile = message.metadata.dst_node_id == HOSTILE_NODE
        return tamper(message, objects) if tamper and hostile else objects

    grid = LinkGrid(FakeSites(dense=method == "fedavg"), len(names), of_the_hostile)
    strategy: SiteStrategy
    if method == "rs-dgc":
        strategy = rs_dgc(names=names)
        strategy.rates = rates(2.0)
        strategy.ledger = KeptLedger()
    else:
        strategy = DenseFedAvg(site_manager(names), KeptLedger(), round_settings())
    arrays = to_record(initial_weights(), SPEC)
    result = strategy.start(grid, arrays, num_rounds=rounds, timeout=2.0)
    return strategy, to_vector(result.arrays, SPEC)


@pytest.fixture(scope="module", params=METHODS)
def honest(request: pytest.FixtureRequest) -> tuple[str, SiteStrategy, np.ndarray[Any, Any]]:
    return request.param, *run(request.param)


def check(
    honest: tuple[str, SiteStrategy, np.ndarray[Any, Any]], tamper: Tamper, reasons: set[str]
) -> KeptLedger:
    """Compare a run with a hostile site to the run without it; return its ledger."""
    method, alone, expected = honest
    strategy, model = run(method, tamper)
    assert np.array_equal(model.view(np.uint32), expected.view(np.uint32))
    ledger = strategy.ledger
    assert isinstance(ledger, KeptLedger)
    assert isinstance(alone.ledger, KeptLedger)
    assert [entry.accuracy for entry in ledger.rounds] == [
        entry.accuracy for entry in alone.ledger.rounds
    ]
    assert all(entry.accepted for name in HONEST for entry in ledger.of(name))
    refused = ledger.of(HOSTILE)
    assert len(refused) == ROUNDS
    assert {entry.reason for entry in refused} <= reasons
    assert set(ledger.refusals) <= reasons
    assert all(entry.bytes_up > 0 for entry in refused)
    return ledger


def storable(objects: Objects) -> bool:
    """Return whether the SuperLink takes all of a reply's objects."""
    try:
        for content in objects.contents.values():
            validate_object_content(content)
    except Exception:
        return False
    return objects.root in objects.contents


def is_refused(objects: Objects) -> bool:
    try:
        listed = listed_objects(objects.declared(), SMALL_REPLY)
        contents = {each: objects.contents[each] for each in listed if each in objects.contents}
        open_reply(objects.root, contents, SMALL_REPLY)
    except WireError:
        return True
    return False


@pytest.mark.slow
def test_malformed_objects_cost_their_site_its_rounds_and_nobody_else_anything(
    honest: tuple[str, SiteStrategy, np.ndarray[Any, Any]],
) -> None:
    rng = np.random.default_rng(15)

    def tamper(message: Message, objects: Objects) -> Objects:
        while True:
            changed = mutant(rng, objects)
            if storable(changed) and changed.tree is None and is_refused(changed):
                return changed

    ledger = check(honest, tamper, {MALFORMED_REPLY, OVERSIZED_REPLY, INCOMPLETE_REPLY})
    assert len({entry.bytes_up for entry in ledger.of(HOSTILE)}) > 5


@pytest.mark.slow
def test_large_uploads_are_refused_and_change_nobodys_budget(
    honest: tuple[str, SiteStrategy, np.ndarray[Any, Any]],
) -> None:
    def tamper(message: Message, objects: Objects) -> Objects:
        upload = chunk_upload(np.random.default_rng(0).bytes(100 * SPEC.dense_bytes))
        content = RecordDict({messages.UPDATE: upload})
        return Objects.of(Message(content, reply_to=message))

    ledger = check(honest, tamper, {OVERSIZED_REPLY})
    assert ledger.totals()["dense_bytes_up"] == SPEC.dense_bytes * ROUNDS * len(HONEST)


@pytest.mark.slow
def test_errors_count_their_bytes(
    honest: tuple[str, SiteStrategy, np.ndarray[Any, Any]],
) -> None:
    def tamper(message: Message, objects: Objects) -> Objects:
        return Objects.of(Message(Error(code=0, reason="x" * 1000), reply_to=message))

    ledger = check(honest, tamper, {"error at the site"})
    assert {entry.bytes_up for entry in ledger.of(HOSTILE)} == {1000}
    assert {entry.bytes_up for entry in ledger.of(HOSTILE, "evaluate")} == {1000}
    assert not ledger.of(HOSTILE)[0].silent


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_no_change_of_a_reply_ends_a_run(method: str) -> None:
    """Changes that leave a message intact may be accepted; whatever it is, the others go on."""
    rng = np.random.default_rng(16)

    def tamper(message: Message, objects: Objects) -> Objects:
        while True:
            changed = mutant(rng, objects)
            if storable(changed) and changed.tree is None:
                return changed

    strategy, model = run(method, tamper)
    ledger = strategy.ledger
    assert isinstance(ledger, KeptLedger)
    assert np.isfinite(model).all()
    assert all(entry.accepted for name in HONEST for entry in ledger.of(name))
