"""The sites behind Flower's nodes: who takes part, what each has, and who joins late.

In a deployment a node hosts one site. In a simulation with fewer nodes than sites a node hosts
several, so a run has the same sites however many nodes the simulation was given.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from logging import INFO, WARNING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from rsdgc.errors import RunError
from strategies import messages
from strategies.transport import PendingReplies, error_summary, send_and_receive

DISCOVERY_POLL_S = 0.5
"""Pause between two looks for new nodes: each is a request to the SuperLink, and SuperNodes take
seconds to start."""


@dataclass(frozen=True)
class SiteInfo:
    """What a site reported about itself when it joined.

    It is known by its name: the ``node_id`` of Flower's node that hosts it may change.
    ``num_train`` and ``num_test`` count its chips; an upload's weight may not exceed ``num_train``.
    """

    name: str
    node_id: int
    num_train: int
    num_test: int


@dataclass(frozen=True)
class DataInfo:
    """What all sites must agree on so that one model can serve them."""

    dataset: str
    synthetic: bool
    classes: tuple[str, ...]
    bands: int
    chip_px: int


@dataclass
class SiteManager:
    """The sites known so far, by name, and the data that all of them share."""

    data: DataInfo
    sites: dict[str, SiteInfo] = field(default_factory=dict)

    def draw(
        self, fraction: float, seed: int, server_round: int, nodes: Collection[int] | None = None
    ) -> list[SiteInfo]:
        """Draw a share of the sites for a round; return them in the order of their names.

        The draw depends on the seed, the round and the names of the sites alone, so names are
        sorted first: the order in which sites joined must not matter. If ``nodes`` are given, sites
        of other nodes are left out: a message to them would cost the round its whole time-out.
        """
        names = [site.name for site in self.connected(nodes)]
        if not names:
            return []
        count = max(1, round(fraction * len(names)))
        # A string seed mixes both numbers: seed 1 of round 2 is not seed 2 of round 1.
        drawn = random.Random(f"{seed}/{server_round}").sample(names, count)
        return [self.sites[name] for name in sorted(drawn)]

    def connected(self, nodes: Collection[int] | None = None) -> list[SiteInfo]:
        """Return the sites of the given nodes, or all sites, in the order of their names."""
        sites = [self.sites[name] for name in sorted(self.sites)]
        return [site for site in sites if nodes is None or site.node_id in nodes]

    def register(
        self, data: DataInfo, sites: Iterable[SiteInfo], nodes: Collection[int] | None = None
    ) -> None:
        """Add the sites of a node; a known site may come back with a node if its own has gone.

        Raises
        ------
        RunError
            The sites do not fit the others, or a name is taken.
        """
        sites = list(sites)
        self._check_agreement(data, ", ".join(site.name for site in sites))
        for site in sites:
            known = self.sites.get(site.name)
            if known is not None and (nodes is None or known.node_id in nodes):
                raise RunError(f"two sites are called '{site.name}'; give each its own site-name")
            self.sites[site.name] = site

    def _check_agreement(self, data: DataInfo, names: str) -> None:
        if data.classes != self.data.classes:
            differing = sorted(set(data.classes) ^ set(self.data.classes)) or ["another order"]
            raise RunError(
                f"site {names} has another class list ({', '.join(differing)}); use one for all"
            )
        if data.bands != self.data.bands:
            raise RunError(f"site {names} has {data.bands} bands, the others {self.data.bands}")
        if data.chip_px != self.data.chip_px:
            own, others = data.chip_px, self.data.chip_px
            raise RunError(f"site {names} has {own} px chips, the others {others} px")


def discover_sites(grid: Grid, min_sites: int, join_timeout_s: float) -> SiteManager:
    """Ask every node which sites it hosts until at least ``min_sites`` are known.

    Raises
    ------
    RunError
        Too few sites answer in time, a site reports an error, two sites share a name, or sites
        disagree on classes, bands or chip size.
    """
    deadline = time.monotonic() + join_timeout_s
    asked: set[int] = set()
    manager: SiteManager | None = None
    while True:
        new_nodes = [node for node in grid.get_node_ids() if node not in asked]
        asked.update(new_nodes)
        timeout_s = deadline - time.monotonic()
        for reply in send_and_receive(grid, _discovery_messages(new_nodes), timeout_s):
            if reply is not None:
                data, sites = _read_sites(reply)
                manager = manager or SiteManager(data)
                manager.register(data, sites)
        num_sites = 0 if manager is None else len(manager.sites)
        if manager is not None and num_sites >= min_sites:
            return manager
        if time.monotonic() >= deadline:
            raise RunError(
                f"{num_sites} of at least {min_sites} sites joined within {join_timeout_s:g} s; "
                "start more sites, lower min-sites, or raise join-timeout-s"
            )
        time.sleep(DISCOVERY_POLL_S)


class SiteDiscovery:
    """Finds sites that join during a run, and registers them with its manager."""

    def __init__(self, manager: SiteManager) -> None:
        self._manager = manager
        self._asked = {site.node_id for site in manager.sites.values()}
        self._queries = PendingReplies()

    def poll(self, grid: Grid) -> set[int]:
        """Ask new nodes for their sites, without waiting; return the connected nodes.

        The sites of nodes that have answered since the last call are registered.
        """
        nodes = set(grid.get_node_ids())
        # Each node is asked once: one that does not answer must not cost a message per round.
        new_nodes = sorted(nodes - self._asked)
        self._asked |= nodes
        if new_nodes:
            ids = grid.push_messages(_discovery_messages(new_nodes))
            self._queries.waiting.update(message_id for message_id in ids if message_id)
        self._queries.poll(grid)
        for reply in self._queries.arrived:
            try:
                data, sites = _read_sites(reply)
                self._manager.register(data, sites, nodes)
                log(INFO, "%s joined", ", ".join(site.name for site in sites))
            except RunError as error:
                log(WARNING, "a node was refused: %s", error)
        self._queries.arrived.clear()
        return nodes

    def wait_for(self, grid: Grid, num_sites: int, timeout_s: float) -> None:
        """Wait until so many sites are connected, but no longer than the time-out."""
        deadline = time.monotonic() + timeout_s
        while len(self._manager.connected(self.poll(grid))) < num_sites:
            if time.monotonic() >= deadline:
                return
            time.sleep(min(DISCOVERY_POLL_S, timeout_s))


def _discovery_messages(node_ids: Sequence[int]) -> list[Message]:
    # The kind is never read, but it counts in the bytes of the message.
    content = RecordDict({messages.TASK: ConfigRecord({"kind": "roll-call"})})
    return [Message(content, node, MessageType.QUERY) for node in node_ids]


def _read_sites(reply: Message) -> tuple[DataInfo, list[SiteInfo]]:
    if reply.has_error():
        raise RunError(f"a site could not join: {error_summary(reply.error.reason)}")
    record = reply.content.config_records[messages.SITE]
    data = DataInfo(
        dataset=str(record[messages.DATASET]),
        synthetic=bool(record[messages.SYNTHETIC]),
        classes=tuple(str(name) for name in _read_list(record, messages.CLASSES)),
        bands=_read_integer(record, messages.BANDS),
        chip_px=_read_integer(record, messages.CHIP_PX),
    )
    columns = (messages.NAMES, messages.NUM_TRAIN, messages.NUM_TEST)
    rows = zip(*(_read_list(record, key) for key in columns), strict=True)
    node_id = reply.metadata.src_node_id
    return data, [SiteInfo(str(name), node_id, int(a), int(b)) for name, a, b in rows]


def _read_integer(record: ConfigRecord, key: str) -> int:
    value = record[key]
    if not isinstance(value, int):
        raise RunError(
            f"a site reports {key}={value!r}, which must be a whole number: "
            "install the same version at the server and at all sites"
        )
    return value


def _read_list(record: ConfigRecord, key: str) -> list[int | float | str | bytes | bool]:
    value = record[key]
    return list(value) if isinstance(value, list) else []
