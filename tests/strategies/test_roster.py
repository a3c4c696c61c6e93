from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from rsdgc import protocol
from rsdgc.errors import RunError
from strategies.roster import DataCard, Roster, SiteCard, call_the_roll
from tests.loopback import LoopbackGrid

CARD: dict[str, Any] = {
    protocol.NAMES: ["a"],
    protocol.NUM_TRAIN: [10],
    protocol.NUM_TEST: [3],
    protocol.CLASSES: ["water", "town"],
    protocol.BANDS: 4,
    protocol.CHIP_PX: 64,
    protocol.DATASET: "here",
    protocol.SYNTHETIC: False,
}


def site(message: Message, context: Context) -> Message:
    card = ConfigRecord({**CARD, **context.node_config})
    return Message(RecordDict({protocol.SITE: card}), reply_to=message)


def roll(*changes: dict[str, Any], min_sites: int = 1) -> Roster:
    return call_the_roll(LoopbackGrid(site, changes, {}), min_sites, join_timeout_s=0.2)


def test_every_site_is_entered_with_its_node() -> None:
    roster = roll({protocol.NAMES: ["b"]}, {protocol.NAMES: ["a"]}, min_sites=2)
    assert [(card.name, card.node_id) for card in roster.everyone()] == [("a", 102), ("b", 101)]
    assert roster.data == DataCard("here", False, ("water", "town"), 4, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "two sites are called 'a'"),
        ({protocol.NAMES: ["b"], protocol.BANDS: 3}, "site b has 3 bands, the others 4"),
        ({protocol.NAMES: ["b"], protocol.CHIP_PX: 32}, "site b has 32 px chips"),
        ({protocol.NAMES: ["b"], protocol.CLASSES: ["water", "sea"]}, r"\(sea, town\)"),
        ({protocol.NAMES: ["b"], protocol.CLASSES: ["town", "water"]}, "another order"),
    ],
)
def test_sites_that_do_not_agree_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        roll({}, change)


def test_too_few_sites_is_an_error() -> None:
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined within 0\.2 s"):
        roll({}, min_sites=2)


def test_a_draw_depends_on_seed_and_round_only() -> None:
    cards = {name: SiteCard(name, 1, 1, 1) for name in "abcdefgh"}
    one = Roster(DataCard("x", False, ("c",), 1, 8), cards)
    two = Roster(one.data, dict(reversed(cards.items())))
    draws = [[card.name for card in one.draw(0.5, 3, number)] for number in range(20)]
    assert draws == [[card.name for card in two.draw(0.5, 3, number)] for number in range(20)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert {name for draw in draws for name in draw} == set(cards)
