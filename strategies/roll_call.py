"""The roll call: ask every node which sites it hosts and what data they have.

It is called once before the first round, and again for each node that joins during the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from logging import INFO, WARNING
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from rsdgc.errors import RunError
from strategies import messages
from strategies.sites import (
    DataInfo,
    ModalityInfo,
    ModelCode,
    OtherCodeError,
    SiteInfo,
    SiteManager,
)
from strategies.transport import (
    PendingReplies,
    error_summary,
    expected_replies,
    send_and_receive,
)
from strategies.validation import MAX_COUNT

Value = TypeVar("Value", str, int)
Scalar = TypeVar("Scalar", str, bool)

DISCOVERY_POLL_S = 0.5
"""Pause between two looks for new nodes: each is a request to the SuperLink, and SuperNodes take
seconds to start."""
REFUSED_POLL_S = 60.0
"""A refused node is asked again after this time: in a deployment that costs it a process."""


def discover_sites(
    grid: Grid,
    min_sites: int,
    join_timeout_s: float,
    modalities: Sequence[str] = (),
    known: Sequence[ModalityInfo] = (),
    code: ModelCode | None = None,
) -> SiteManager:
    """Ask every node which sites it hosts until at least ``min_sites`` are known.

    The modalities of the run are then fixed, in the order of ``modalities`` if they are given (see
    :meth:`SiteManager.fix_modalities`). A resumed run passes those that are ``known``. A site with
    other ``code`` of the model is refused, and the wait goes on.

    Raises
    ------
    RunError
        Too few sites answer in time, a site reports an error, two sites share a name, or sites
        disagree on classes, modalities, bands or chip size.
    """
    deadline = time.monotonic() + join_timeout_s
    asked: set[int] = set()
    refusals = _Refusals()
    manager: SiteManager | None = None
    while True:
        nodes = [node for node in grid.get_node_ids() if node not in asked or refusals.is_due(node)]
        asked.update(nodes)
        timeout_s = deadline - time.monotonic()
        for reply in send_and_receive(grid, _discovery_messages(nodes), timeout_s):
            if reply is not None:
                try:
                    data, sites = _read_sites(reply, code)
                except OtherCodeError as error:
                    refusals.add(reply.metadata.src_node_id, error)
                    continue
                manager = manager or SiteManager(replace(data, modalities=tuple(known)), code=code)
                manager.register(data, sites)
                refusals.remove(reply.metadata.src_node_id)
        num_sites = 0 if manager is None else len(manager.sites)
        if manager is not None and num_sites >= min_sites:
            manager.fix_modalities(modalities)
            return manager
        if time.monotonic() >= deadline:
            raise RunError(
                f"{num_sites} of at least {min_sites} sites joined within {join_timeout_s:g} s; "
                f"{refusals.summary()}start more sites, lower min-sites, or raise join-timeout-s"
            )
        time.sleep(DISCOVERY_POLL_S)


class _Refusals:
    """The nodes that were refused. Each is asked again now and then: it may have been repaired."""

    def __init__(self) -> None:
        self._reasons: dict[int, str] = {}
        self._asked_at: dict[int, float] = {}

    def add(self, node: int, error: RunError) -> None:
        """Enter a refusal now; log it if its reason is new."""
        if self._reasons.get(node) != str(error):
            log(WARNING, "a node was refused: %s", error)
        self._reasons[node], self._asked_at[node] = str(error), time.monotonic()

    def ask(self, nodes: Iterable[int]) -> None:
        """Note that nodes are asked now: one that does not answer is not due again at once."""
        self._asked_at.update((node, time.monotonic()) for node in nodes if node in self._asked_at)

    def remove(self, node: int) -> None:
        """Forget a node, which has joined."""
        self._reasons.pop(node, None)
        self._asked_at.pop(node, None)

    def is_due(self, node: int) -> bool:
        """Return whether a node was refused, and is to be asked again."""
        asked_at = self._asked_at.get(node)
        return asked_at is not None and time.monotonic() - asked_at >= REFUSED_POLL_S

    def summary(self) -> str:
        """Return the reasons as a part of a message; empty if there are none."""
        reasons = "; ".join(dict.fromkeys(self._reasons.values()))
        return f"refused: {reasons}; " if reasons else ""


class SiteDiscovery:
    """Finds sites that join during a run, and registers them with its manager."""

    def __init__(self, manager: SiteManager) -> None:
        self._manager = manager
        self._asked = {site.node_id for site in manager.sites.values()}
        self._refusals = _Refusals()
        self._queries = PendingReplies()

    def poll(self, grid: Grid) -> set[int]:
        """Ask new nodes for their sites, without waiting; return the connected nodes.

        The sites of nodes that have answered since the last call are registered.
        """
        nodes = set(grid.get_node_ids())
        # Each node is asked once: one that does not answer must not cost a message per round.
        new_nodes = sorted(
            node for node in nodes if node not in self._asked or self._refusals.is_due(node)
        )
        self._asked |= nodes
        self._refusals.ask(new_nodes)
        if new_nodes:
            queries = _discovery_messages(new_nodes)
            ids = list(grid.push_messages(queries))
            self._queries.expect(expected_replies(ids, queries))
        self._queries.poll(grid)
        for reply in self._queries.arrived:
            node = reply.metadata.src_node_id
            try:
                data, sites = _read_sites(reply, self._manager.code)
                self._manager.register(data, sites, nodes)
                self._refusals.remove(node)
                log(INFO, "%s joined", ", ".join(site.name for site in sites))
            except RunError as error:
                self._refusals.add(node, error)
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


def _read_sites(reply: Message, code: ModelCode | None) -> tuple[DataInfo, list[SiteInfo]]:
    """Return what a node answers; refuse it if it has other code of the run's model."""
    if reply.has_error():
        raise RunError(f"a site could not join: {error_summary(reply.error.reason)}")
    record = reply.content.config_records.get(messages.SITE, ConfigRecord())
    if code is not None:
        title = ", ".join(_read_list(record, messages.NAMES, str))
        if messages.MODEL_ERROR in record:
            raise OtherCodeError(
                f"site {title}: {error_summary(str(record[messages.MODEL_ERROR]))}"
            )
        code.compare(title, str(record.get(messages.MODEL_CODE, "an earlier version of rsdgc")))
    data = DataInfo(
        dataset=_read_value(record, messages.DATASET, str),
        synthetic=_read_value(record, messages.SYNTHETIC, bool),
        classes=tuple(_read_list(record, messages.CLASSES, str)),
        modalities=read_modalities(record),
    )
    names = _read_list(record, messages.NAMES, str)
    lacking, num_vals = (
        _read_list(record, key, int) if key in record else []
        for key in (messages.LACKING, messages.NUM_VAL)
    )
    columns = (
        names,
        _read_list(record, messages.NUM_TRAIN, int),
        _read_list(record, messages.NUM_TEST, int),
        lacking or [0] * len(names),
        num_vals or [0] * len(names),
    )
    if len({len(column) for column in columns}) != 1:
        raise _unreadable(f"{len(names)} sites with other numbers of counts")
    node_id = reply.metadata.src_node_id
    sites = []
    for name, num_train, num_test, mask, num_val in zip(*columns, strict=True):
        own = [m for index, m in enumerate(data.modality_names) if not mask >> index & 1]
        if not own:
            raise _unreadable(f"a site {name} without a modality")
        # Means are weighted by the chips of training, and scores limited by the others.
        if num_train < 1 or max(num_train, num_test, num_val) >= MAX_COUNT:
            raise _unreadable(f"a site {name} of {num_train}, {num_test} and {num_val} chips")
        sites.append(SiteInfo(name, node_id, num_train, num_test, tuple(own), num_val))
    return data, sites


def site_record(data: DataInfo, sites: Sequence[SiteInfo]) -> ConfigRecord:
    """Return what a node answers to the roll call."""
    record = ConfigRecord(
        {
            messages.NAMES: [site.name for site in sites],
            messages.NUM_TRAIN: [site.num_train for site in sites],
            messages.NUM_TEST: [site.num_test for site in sites],
            messages.CLASSES: list(data.classes),
            **modality_fields(data.modalities),
            messages.DATASET: data.dataset,
            messages.SYNTHETIC: data.synthetic,
        }
    )
    lacking = [
        sum(1 << i for i, name in enumerate(data.modality_names) if name not in site.modalities)
        for site in sites
    ]
    if any(lacking):
        record[messages.LACKING] = lacking
    if any(site.num_val for site in sites):
        record[messages.NUM_VAL] = [site.num_val for site in sites]
    return record


def modality_fields(modalities: Sequence[ModalityInfo]) -> dict[str, Any]:
    """Return the fields of a message that describe modalities."""
    return {
        messages.MODALITIES: [modality.name for modality in modalities],
        messages.NUM_BANDS: [len(modality.bands) for modality in modalities],
        messages.BANDS: [band for modality in modalities for band in modality.bands],
        messages.CHIP_PX: [modality.px for modality in modalities],
    }


def read_modalities(record: ConfigRecord) -> tuple[ModalityInfo, ...]:
    """Return the modalities of :func:`modality_fields`; :class:`RunError` if they are malformed."""
    names = _read_list(record, messages.MODALITIES, str)
    counts = _read_list(record, messages.NUM_BANDS, int)
    bands = _read_list(record, messages.BANDS, str)
    sides = _read_list(record, messages.CHIP_PX, int)
    if not (0 < len(names) == len(set(names)) == len(counts) == len(sides)):
        raise _unreadable(f"the modalities {names} with the band counts {counts} and sizes {sides}")
    if min(counts) < 1 or min(sides) < 1 or sum(counts) != len(bands):
        raise _unreadable(f"{len(bands)} bands, {counts} by modality, in chips of {sides} px")
    remaining = iter(bands)
    return tuple(
        ModalityInfo(name, tuple(islice(remaining, count)), px)
        for name, count, px in zip(names, counts, sides, strict=True)
    )


def _read_value(record: ConfigRecord, key: str, kind: type[Scalar]) -> Scalar:
    value = record.get(key)
    if not isinstance(value, kind):
        raise _unreadable(f"{key}={value!r}")
    return value


def _read_list(record: ConfigRecord, key: str, kind: type[Value]) -> list[Value]:
    """Return a list of names, or of whole numbers from 0."""
    values = record.get(key)
    # Flower makes a list of bytes of an empty one, and Python counts True as a number.
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise _unreadable(f"{key}={values!r}")
    if any(isinstance(value, int) and value < 0 for value in values):
        raise _unreadable(f"{key}={values!r}, in which no number may be negative")
    return values  # type: ignore[return-value]


def _unreadable(what: str) -> RunError:
    return RunError(
        f"a message has {what}, which cannot be read: install the same version at the server and "
        "at all sites"
    )
