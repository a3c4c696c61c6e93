import pytest

from rsdgc import protocol
from strategies.joiners import Joiners
from strategies.roster import Roster, call_the_roll
from tests.loopback import LoopbackGrid
from tests.strategies.test_roster import site


def federation(*names: str) -> tuple[LoopbackGrid, Roster, Joiners]:
    """Return nodes 101, 102, … of which only the first is there at the start."""
    grid = LoopbackGrid(site, [{protocol.NAMES: [name]} for name in names], {})
    grid.away = set(list(grid.contexts)[1:])
    roster = call_the_roll(grid, 1, join_timeout_s=0.2)
    return grid, roster, Joiners(roster)


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
