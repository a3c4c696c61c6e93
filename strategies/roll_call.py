"""The roll call: ask every node which sites it hosts and what data they have.

It is called once before the first round, and again for each node that joins during the run. A node
that does not answer, or whose answer cannot be used, is left out under its name, with a warning;
most are asked again from time to time (:data:`strategies.node_book.REFUSED_POLL_S`). The run fails
only if too few sites remain.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from logging import INFO, WARNING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from rsdgc.errors import RunError
from rsdgc.plain_text import plain_line
from rsdgc.site_weights import WeightRules
from strategies import messages
from strategies.agreement import agree, differences
from strategies.node_answer import NodeAnswer, claimed_names, read_answer
from strategies.node_book import JoinRefused, NodeBook
from strategies.party_versions import differing_versions, own_versions
from strategies.sites import DataInfo, ModelCode, SiteManager

DISCOVERY_POLL_S = 0.5
"""Pause between two looks for new nodes: each is a request to the SuperLink, and SuperNodes take
seconds to start."""


def discover_sites(
    grid: Grid,
    min_sites: int,
    join_timeout_s: float,
    modalities: Sequence[str] = (),
    record: DataInfo | None = None,
    code: ModelCode | None = None,
    *,
    weights: WeightRules | None = None,
    registered_only: bool = False,
    simulated: bool = False,
) -> SiteManager:
    """Ask every node which sites it hosts until at least ``min_sites`` fit together.

    All connected nodes are given until ``join_timeout_s`` to answer. What is right is what most of
    them say (:mod:`strategies.agreement`), or the ``record`` of a resumed run. The modalities of
    the run are then fixed, in the order of ``modalities`` if they are given (see
    :meth:`SiteManager.fix_modalities`). A node that is left out may join later.

    Parameters
    ----------
    code : ModelCode, optional
        What every site must have; by default no code is compared.
    weights : WeightRules, optional
        How much a site may count for in the mean.
    registered_only : bool
        Whether a node without a registered name is left out (:mod:`strategies.node_book`).
    simulated : bool
        Whether the nodes are those of a simulation, to which no other can come: once all of them
        have answered there is nothing to wait for.

    Raises
    ------
    RunError
        Too few sites fit in time, or of all nodes of a simulation, or no site has one of the
        ``modalities``.
    """
    nodes = NodeBook(registered_only=registered_only)
    answers: dict[int, NodeAnswer] = {}
    manager: SiteManager | None = None
    deadline = time.monotonic() + join_timeout_s
    pause_s = min(0.1, DISCOVERY_POLL_S)
    changed = False
    while True:
        connected = nodes.connected(grid)
        _ask(grid, nodes, connected)
        for node, answer in _collect(grid, nodes, code):
            answers.pop(node, None)
            if answer is not None:
                answers[node] = answer
            changed = True
        is_over = time.monotonic() >= deadline
        waiting = nodes.waiting & connected
        if is_over:
            for node in sorted(waiting):
                nodes.miss(node, f"it did not answer within {join_timeout_s:g} s; it may still do")
        if changed and (is_over or not waiting):
            manager, changed = _form(answers, modalities, record, nodes), False
        num_sites = 0 if manager is None else len(manager.sites)
        if manager is not None and num_sites >= max(1, min_sites):
            manager.code, manager.min_sites = code, min_sites
            manager.weights = weights or WeightRules()
            _log_agreement(manager, answers, record)
            return manager
        # Asked for again, because an answer may have come before the last node was registered.
        if is_over or (simulated and nodes.answered_by(nodes.connected(grid))):
            over = f" within {join_timeout_s:g} s" if is_over else ", and all nodes have answered"
            raise RunError(
                f"{num_sites} of at least {min_sites} sites joined{over}; "
                f"{nodes.summary()}{_remedy(nodes, simulated=simulated, is_over=is_over)}"
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, DISCOVERY_POLL_S)


class SiteDiscovery:
    """Finds sites that join, leave and return during a run, and registers them with its manager."""

    def __init__(self, manager: SiteManager) -> None:
        self._manager = manager
        self._away: set[str] = set()  # sites whose node was not connected at the last look
        for site in manager.sites.values():
            manager.nodes.asked(site.node_id)

    def poll(self, grid: Grid) -> set[int]:
        """Ask new nodes for their sites, without waiting; return the connected nodes.

        The sites of nodes that have answered since the last call are registered.
        """
        manager, nodes = self._manager, self._manager.nodes
        connected = nodes.connected(grid)
        # Each node is asked once: one that does not answer must not cost a message per round.
        _ask(grid, nodes, connected)
        for node, answer in _collect(grid, nodes, manager.code, manager.sites):
            if answer is None:
                continue
            names = [site.name for site in answer.sites]
            # One that is known comes back with another node, or has answered twice.
            new = [name for name in names if name not in manager.sites]
            try:
                manager.register(answer.data, answer.sites, connected)
            except JoinRefused as refusal:
                nodes.refuse(node, nodes.label(node, names, manager.sites), refusal)
                continue
            nodes.admit(node)
            if new:
                log(INFO, "%s joined", ", ".join(new[:10]))
            _log_versions([answer])
        self._note_absence(connected)
        return connected

    def _note_absence(self, connected: Collection[int]) -> None:
        """Log which sites have gone since the last look, and which are back."""
        away = {site.name for site in self._manager.sites.values() if site.node_id not in connected}
        present = len(self._manager.sites) - len(away)
        for names, text in ((away - self._away, "gone"), (self._away - away, "back")):
            if names:
                level = WARNING if text == "gone" else INFO
                listed = ", ".join(sorted(names)[:10])
                num_sites = len(self._manager.sites)
                log(level, "%s: %s; %d of %d sites are connected", listed, text, present, num_sites)
        self._away = away

    def wait_for(self, grid: Grid, num_sites: int, timeout_s: float) -> None:
        """Wait until so many sites are connected, but no longer than the time-out."""
        deadline = time.monotonic() + timeout_s
        while len(self._manager.connected(self.poll(grid))) < num_sites:
            if time.monotonic() >= deadline:
                return
            time.sleep(min(DISCOVERY_POLL_S, timeout_s))


def _remedy(nodes: NodeBook, *, simulated: bool, is_over: bool) -> str:
    """Return what to do where too few sites have joined."""
    if not simulated:
        return "start more sites, lower min-sites, or raise join-timeout-s"
    if is_over:
        return "raise join-timeout-s, or give the simulation fewer sites"
    if nodes.left_out:
        return "remove the cause, and start the run again"
    return "lower min-sites to the number of sites in the data"


def _ask(grid: Grid, nodes: NodeBook, connected: Collection[int]) -> None:
    due = nodes.due(connected)
    if due:
        queries = _discovery_messages(due)
        nodes.expect(list(grid.push_messages(queries)), queries)


def _collect(
    grid: Grid, nodes: NodeBook, code: ModelCode | None, taken: Collection[str] = ()
) -> Iterator[tuple[int, NodeAnswer | None]]:
    """Yield the nodes that have answered, with their answers; None if an answer is refused."""
    for node, reply in nodes.collect(grid):
        try:
            answer = read_answer(reply, node, code)
        except JoinRefused as refusal:
            nodes.refuse(node, nodes.label(node, claimed_names(reply), taken), refusal)
            yield node, None
        else:
            yield node, answer


def _discovery_messages(node_ids: Sequence[int]) -> list[Message]:
    # The kind is never read, but it counts in the bytes of the message.
    content = RecordDict({messages.TASK: ConfigRecord({"kind": "roll-call"})})
    return [Message(content, node, MessageType.QUERY) for node in node_ids]


def _form(
    answers: Mapping[int, NodeAnswer],
    modalities: Sequence[str],
    record: DataInfo | None,
    nodes: NodeBook,
) -> SiteManager | None:
    """Return the sites that fit together, or None if no node has a site; leave the others out."""
    hosts = [answer for answer in answers.values() if answer.sites]
    if not hosts:
        return None
    manager = SiteManager(agree(hosts, record), nodes=nodes)
    for node, answer in sorted(answers.items()):
        try:
            manager.register(answer.data, answer.sites)
        except JoinRefused as refusal:
            names = [site.name for site in answer.sites]
            nodes.refuse(node, nodes.label(node, names, manager.sites), refusal)
    manager.fix_modalities(modalities)
    for site in manager.sites.values():
        nodes.admit(site.node_id)
    return manager


def _log_agreement(
    manager: SiteManager, answers: Mapping[int, NodeAnswer], record: DataInfo | None
) -> None:
    hosts = [answers[node] for node in sorted(answers) if answers[node].sites]
    for line in differences(hosts, manager.data, recorded=record is not None):
        log(WARNING, "%s", line)
    _log_versions(hosts)


def _log_versions(answers: Sequence[NodeAnswer]) -> None:
    """Log in one line which sites have other versions than the server."""
    parties = [(answer.sites[0].name, answer.versions) for answer in answers if answer.sites]
    line = differing_versions(parties, own_versions())
    if line:
        log(WARNING, "versions differ: %s", plain_line(line))
