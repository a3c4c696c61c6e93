from __future__ import annotations

from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from rsdgc.errors import RunError
from strategies import messages
from strategies.sites import DataInfo, SiteDiscovery, SiteInfo, SiteManager, discover_sites
from tests.loopback import LoopbackGrid

REPORT: dict[str, Any] = {
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
    report = ConfigRecord({**REPORT, **context.node_config})
    return Message(RecordDict({messages.SITE: report}), reply_to=message)


def discover(*changes: dict[str, Any], min_sites: int = 1) -> SiteManager:
    return discover_sites(LoopbackGrid(site, changes, {}), min_sites, join_timeout_s=0.2)


def test_every_site_is_entered_with_its_node() -> None:
    manager = discover({messages.NAMES: ["b"]}, {messages.NAMES: ["a"]}, min_sites=2)
    assert [(site.name, site.node_id) for site in manager.connected()] == [("a", 102), ("b", 101)]
    assert manager.data == DataInfo("here", False, ("water", "town"), 4, 64)


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
        discover({}, change)


def test_too_few_sites_is_an_error() -> None:
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined within 0\.2 s"):
        discover({}, min_sites=2)


def test_a_draw_depends_on_seed_and_round_only() -> None:
    sites = {name: SiteInfo(name, 1, 1, 1) for name in "abcdefgh"}
    one = SiteManager(DataInfo("x", False, ("c",), 1, 8), sites)
    two = SiteManager(one.data, dict(reversed(sites.items())))
    draws = [[site.name for site in one.draw(0.5, 3, number)] for number in range(20)]
    assert draws == [[site.name for site in two.draw(0.5, 3, number)] for number in range(20)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert {name for draw in draws for name in draw} == set(sites)


def federation(*names: str) -> tuple[LoopbackGrid, SiteManager, SiteDiscovery]:
    """Return nodes 101, 102, … of which only the first is there at the start."""
    grid = LoopbackGrid(site, [{messages.NAMES: [name]} for name in names], {})
    grid.away = set(list(grid.contexts)[1:])
    manager = discover_sites(grid, 1, join_timeout_s=0.2)
    return grid, manager, SiteDiscovery(manager)


def test_a_site_joins_in_the_middle() -> None:
    grid, manager, discovery = federation("a", "b")
    assert discovery.poll(grid) == {101}
    assert list(manager.sites) == ["a"]
    grid.away.clear()
    assert discovery.poll(grid) == {101, 102}
    assert list(manager.sites) == ["a", "b"]
    seen = len(grid.seen)
    discovery.poll(grid)
    assert len(grid.seen) == seen  # nobody is asked twice


def test_a_site_comes_back_behind_another_node() -> None:
    grid, manager, discovery = federation("a", "a")
    grid.away = {101}
    discovery.poll(grid)
    assert manager.sites["a"].node_id == 102
    assert [site.name for site in manager.draw(1.0, 0, 1, {102})] == ["a"]
    assert manager.draw(1.0, 0, 1, {101}) == []


def test_a_second_site_of_a_name_that_is_connected_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid, manager, discovery = federation("a", "a")
    grid.away.clear()
    discovery.poll(grid)
    assert manager.sites["a"].node_id == 101
    assert "a node was refused: two sites are called 'a'" in caplog.text
