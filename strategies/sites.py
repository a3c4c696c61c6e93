"""Who takes part: the sites behind the nodes, and what each has.

A node hosts one site in a deployment. In a simulation with fewer nodes than sites a node hosts
several, so that a run has the same sites however many nodes the simulation was given.

Sites that join, or come back behind another node, while a run goes on.
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


@dataclass(frozen=True)
class SiteInfo:
    """What a site said of itself when the roll was called.

    Attributes
    ----------
    name : str
        Stable name of the site.
    node_id : int
        Flower's node that hosts it at present.
    num_train, num_test : int
        Chips it trains and is scored on; an upload's weight may not exceed ``num_train``.
    """

    name: str
    node_id: int
    num_train: int
    num_test: int


@dataclass(frozen=True)
class DataInfo:
    """What all sites must agree on before one model can serve them."""

    dataset: str
    synthetic: bool
    classes: tuple[str, ...]
    bands: int
    chip_px: int


@dataclass
class SiteManager:
    """The sites known so far, by name.

    Attributes
    ----------
    data : DataInfo
        What all of them share.
    sites : dict of str to SiteInfo
        In the order of their names.
    """

    data: DataInfo
    sites: dict[str, SiteInfo] = field(default_factory=dict)

    def draw(
        self, fraction: float, seed: int, round_number: int, present: Collection[int] | None = None
    ) -> list[SiteInfo]:
        """Draw the sites of a round: a fixed share, at random, the same for the same seed.

        With ``present``, the nodes that are there, the sites of others are left out of the draw:
        asking them would cost the round its whole time-out.
        """
        names = sorted(
            name for name, card in self.sites.items() if present is None or card.node_id in present
        )
        if not names:
            return []
        count = max(1, round(fraction * len(names)))
        chosen = random.Random(f"{seed}/{round_number}").sample(names, count)
        return [self.sites[name] for name in sorted(chosen)]

    def everyone(self, present: Collection[int] | None = None) -> list[SiteInfo]:
        """All sites, or those whose nodes are there, in the order of their names."""
        return self.draw(1.0, 0, 0, present)

    def admit(self, reply: Message, present: Collection[int]) -> list[str]:
        """Enter the sites of a node that came after the start; return their names.

        A site whose node has gone may come back behind another.

        Raises
        ------
        RunError
            The sites do not fit the others, or one of them is here already.
        """
        _enter(self, reply, present)
        node = reply.metadata.src_node_id
        return [name for name, card in self.sites.items() if card.node_id == node]


def discover_sites(grid: Grid, min_sites: int, join_timeout_s: float) -> SiteManager:
    """Ask every node which sites it hosts until at least ``min_sites`` have answered.

    Raises
    ------
    RunError
        If too few sites answer in time, a site reports an error, two sites share a name, or
        sites disagree on classes, bands or chip size.
    """
    deadline = time.monotonic() + join_timeout_s
    asked: set[int] = set()
    roster: SiteManager | None = None
    while True:
        fresh = [node for node in grid.get_node_ids() if node not in asked]
        asked.update(fresh)
        for reply in _query(grid, fresh, deadline - time.monotonic()):
            roster = _enter(roster, reply)
        if roster is not None and len(roster.sites) >= min_sites:
            return roster
        if time.monotonic() >= deadline:
            found = 0 if roster is None else len(roster.sites)
            raise RunError(
                f"{found} of at least {min_sites} sites joined within {join_timeout_s:g} s; "
                "start more sites, lower min-sites, or raise join-timeout-s"
            )
        time.sleep(0.5)


def _query(grid: Grid, node_ids: Sequence[int], timeout_s: float) -> Iterable[Message]:
    replies = send_and_receive(grid, discovery_messages(node_ids), timeout_s)
    return [reply for reply in replies if reply is not None]


def discovery_messages(node_ids: Sequence[int]) -> list[Message]:
    """Return a message to each node that asks which sites it hosts."""
    content = RecordDict({messages.TASK: ConfigRecord({"kind": "roll-call"})})
    return [
        Message(content=content, message_type=MessageType.QUERY, dst_node_id=node)
        for node in node_ids
    ]


def _enter(
    roster: SiteManager | None, reply: Message, present: Collection[int] | None = None
) -> SiteManager:
    if reply.has_error():
        raise RunError(f"a site could not join: {error_summary(reply.error.reason)}")
    record = reply.content.config_records[messages.SITE]
    data = DataInfo(
        dataset=str(record[messages.DATASET]),
        synthetic=bool(record[messages.SYNTHETIC]),
        classes=tuple(str(name) for name in _items(record, messages.CLASSES)),
        bands=_integer(record, messages.BANDS),
        chip_px=_integer(record, messages.CHIP_PX),
    )
    names = [str(name) for name in _items(record, messages.NAMES)]
    if roster is None:
        roster = SiteManager(data)
    _check_agreement(roster.data, data, names)
    trains = _items(record, messages.NUM_TRAIN)
    tests = _items(record, messages.NUM_TEST)
    for name, num_train, num_test in zip(names, trains, tests, strict=True):
        known = roster.sites.get(name)
        if known is not None and (present is None or known.node_id in present):
            raise RunError(f"two sites are called '{name}'; give each its own site-name")
        node = reply.metadata.src_node_id
        roster.sites[name] = SiteInfo(name, node, int(num_train), int(num_test))
    return roster


def _check_agreement(expected: DataInfo, found: DataInfo, names: Sequence[str]) -> None:
    who = ", ".join(names)
    if found.classes != expected.classes:
        odd = sorted(set(found.classes) ^ set(expected.classes)) or ["another order"]
        raise RunError(f"site {who} has another class list ({', '.join(odd)}); use one for all")
    if found.bands != expected.bands:
        raise RunError(f"site {who} has {found.bands} bands, the others {expected.bands}")
    if found.chip_px != expected.chip_px:
        raise RunError(f"site {who} has {found.chip_px} px chips, the others {expected.chip_px} px")


def _items(record: ConfigRecord, key: str) -> list[int | float | str | bytes | bool]:
    value = record[key]
    return list(value) if isinstance(value, list) else []


def _integer(record: ConfigRecord, key: str) -> int:
    value = record[key]
    if not isinstance(value, int):
        raise RunError(f"a site answered {key}={value!r}; it should be a whole number")
    return value


class SiteDiscovery:
    """Asks nodes that were not there before which sites they host, without waiting for them.

    Parameters
    ----------
    roster : SiteManager
        The sites of the run; joiners are entered here.
    """

    def __init__(self, roster: SiteManager) -> None:
        self._roster = roster
        self._asked = {card.node_id for card in roster.sites.values()}
        self._calls = PendingReplies()

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
            self._calls.waiting |= {
                sent for sent in grid.push_messages(discovery_messages(fresh)) if sent
            }
        self._calls.look(grid)
        for reply in self._calls.arrived:
            try:
                names = self._roster.admit(reply, present)
                log(INFO, "%s joined", ", ".join(names))
            except RunError as error:
                log(WARNING, "a node was not let in: %s", error)
        self._calls.arrived.clear()
        return present
