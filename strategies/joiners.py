"""Sites that join, or come back behind another node, while a run goes on."""

from __future__ import annotations

from logging import INFO, WARNING

from flwr.common import log
from flwr.serverapp import Grid

from rsdgc.errors import RunError
from strategies.exchange import Overdue
from strategies.roster import Roster, roll_calls


class Joiners:
    """Asks nodes that were not there before which sites they host, without waiting for them.

    Parameters
    ----------
    roster : Roster
        The sites of the run; joiners are entered here.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._asked = {card.node_id for card in roster.sites.values()}
        self._calls = Overdue()

    def look(self, grid: Grid) -> set[int]:
        """Ask new nodes, take in what earlier ones have answered, and say which are there.

        Returns
        -------
        set of int
            The nodes that are connected.
        """
        present = set(grid.get_node_ids())
        fresh = sorted(present - self._asked)
        self._asked |= present
        if fresh:
            self._calls.waiting |= {sent for sent in grid.push_messages(roll_calls(fresh)) if sent}
        self._calls.look(grid)
        for reply in self._calls.arrived:
            try:
                names = self._roster.admit(reply, present)
                log(INFO, "%s joined", ", ".join(names))
            except RunError as error:
                log(WARNING, "a node was not let in: %s", error)
        self._calls.arrived.clear()
        return present
