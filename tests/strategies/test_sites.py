from __future__ import annotations

from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from rsdgc.errors import RunError
from strategies import messages
from strategies.sites import DataInfo, SiteDiscovery, SiteInfo, SiteManager, discover_sites
from tests.loopback import LoopbackGrid

CARD: dict[str, Any] = {
    messages.NAMES: ["a"],
    messages.NUM_TRAIN: [10],
    messages.NUM_TEST: [3],
    messages.CLASSES: ["water", "town"],
    messages.BANDS: 4,
    messages.CHIP_PX: 64,
    messages.DATASET: "here",
    messages.SYNTHETIC: False,
}


def site(message: Message, context: Context) -> Message:
    card = ConfigRecord({**CARD, **context.node_config})
    return Message(RecordDict({messages.SITE: card}), reply_to=message)


def roll(*changes: dict[str, Any], min_sites: int = 1) -> SiteManager:
    return discover_sites(LoopbackGrid(site, changes, {}), min_sites, join_timeout_s=0.2)


def test_every_site_is_entered_with_its_node() -> None:
    roster = roll({messages.NAMES: ["b"]}, {messages.NAMES: ["a"]}, min_sites=2)
    assert [(card.name, card.node_id) for card in roster.everyone()] == [("a", 102), ("b", 101)]
    assert roster.data == DataInfo("here", False, ("water", "town"), 4, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "two sites are called 'a'"),
        ({messages.NAMES: ["b"], messages.BANDS: 3}, "site b has 3 bands, the others 4"),
        ({messages.NAMES: ["b"], messages.CHIP_PX: 32}, "site b has 32 px chips"),
        ({messages.NAMES: ["b"], messages.CLASSES: ["water", "sea"]}, r"\(sea, town\)"),
        ({messages.NAMES: ["b"], messages.CLASSES: ["town", "water"]}, "another order"),
    ],
)
def test_sites_that_do_not_agree_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        roll({}, change)


def test_too_few_sites_is_an_error() -> None:
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined within 0\.2 s"):
        roll({}, min_sites=2)


def test_a_draw_depends_on_seed_and_round_only() -> None:
    cards = {name: SiteInfo(name, 1, 1, 1) for name in "abcdefgh"}
    one = SiteManager(DataInfo("x", False, ("c",), 1, 8), cards)
    two = SiteManager(one.data, dict(reversed(cards.items())))
    draws = [[card.name for card in one.draw(0.5, 3, number)] for number in range(20)]
    assert draws == [[card.name for card in two.draw(0.5, 3, number)] for number in range(20)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert {name for draw in draws for name in draw} == set(cards)


def federation(*names: str) -> tuple[LoopbackGrid, SiteManager, SiteDiscovery]:
    """Return nodes 101, 102, … of which only the first is there at the start."""
    grid = LoopbackGrid(site, [{messages.NAMES: [name]} for name in names], {})
    grid.away = set(list(grid.contexts)[1:])
    roster = discover_sites(grid, 1, join_timeout_s=0.2)
    return grid, roster, SiteDiscovery(roster)


def test_a_site_joins_in_the_middle() -> None:
    grid, roster, joiners = federation("a", "b")
    assert joiners.look(grid) == {101}
    assert list(roster.sites) == ["a"]
    grid.away.clear()
    assert joiners.look(grid) == {101, 102}
    assert list(roster.sites) == ["a", "b"]
    seen = len(grid.seen)
    joiners.look(grid)
    assert len(grid.seen) == seen  # nobody is asked twice


def test_a_site_comes_back_behind_another_node() -> None:
    grid, roster, joiners = federation("a", "a")
    grid.away = {101}
    joiners.look(grid)
    assert roster.sites["a"].node_id == 102
    assert [card.name for card in roster.draw(1.0, 0, 1, {102})] == ["a"]
    assert roster.draw(1.0, 0, 1, {101}) == []


def test_a_second_site_of_a_name_that_is_there_is_not_let_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid, roster, joiners = federation("a", "a")
    grid.away.clear()
    joiners.look(grid)
    assert roster.sites["a"].node_id == 101
    assert "a node was not let in: two sites are called 'a'" in caplog.text
