from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from rsdgc.errors import RunError
from strategies import messages, node_book, roll_call
from strategies.node_answer import MAX_SITES
from strategies.node_book import LeftOut
from strategies.party_versions import WIRE_FORMAT
from strategies.roll_call import SiteDiscovery, discover_sites
from strategies.sites import DataInfo, ModalityInfo, ModelCode, SiteManager
from tests.flower_link import LinkGrid, Objects, Tamper
from tests.loopback import LoopbackGrid
from tests.strategies.reply_mutants import mutant

OPTICAL = ModalityInfo("optical", ("blue", "green", "red", "nir"), 64)
ELEVATION = ModalityInfo("elevation", ("dem",), 11)
REPORT: dict[str, Any] = {
    messages.NAMES: ["a"],
    messages.NUM_TRAIN: [10],
    messages.NUM_TEST: [3],
    messages.CLASSES: ["water", "town"],
    messages.MODALITIES: ["optical", "elevation"],
    messages.NUM_BANDS: [4, 1],
    messages.BANDS: ["blue", "green", "red", "nir", "dem"],
    messages.CHIP_PX: [64, 11],
    messages.DATASET: "here",
    messages.SYNTHETIC: False,
}
DROP = "this field is left out"


def site(message: Message, context: Context) -> Message:
    fields = {**REPORT, **context.node_config}
    error = fields.pop("error", None)
    if error is not None:
        raise RuntimeError(error)
    more = fields.pop("more", {})
    record = ConfigRecord({key: value for key, value in fields.items() if value != DROP})
    return Message(RecordDict({messages.SITE: record, **more}), reply_to=message)


def discover(*changes: dict[str, Any], min_sites: int = 1, **options: Any) -> SiteManager:
    return discover_sites(LoopbackGrid(site, changes, {}), min_sites, 0.2, **options)


def left_out(manager: SiteManager) -> list[tuple[str, str]]:
    return [(entry.name, entry.reason) for entry in manager.nodes.names_left_out()]


def test_every_site_is_entered_with_its_node() -> None:
    manager = discover({messages.NAMES: ["b"]}, {messages.NAMES: ["a"]}, min_sites=2)
    assert [(site.name, site.node_id) for site in manager.connected()] == [("a", 102), ("b", 101)]
    assert manager.data == DataInfo("here", False, ("water", "town"), (OPTICAL, ELEVATION))
    assert (manager.data.bands, manager.data.chip_px) == (5, 64)
    assert left_out(manager) == []


UNREADABLE: dict[str, dict[str, Any]] = {
    "bands unlike their count": {messages.NUM_BANDS: [4, 2]},
    "a modality without bands": {messages.NUM_BANDS: [5, 0]},
    "a billion bands": {messages.NUM_BANDS: [10**9, 1]},
    "bands in words": {messages.NUM_BANDS: ["x", "y"]},
    "a count that is a truth": {messages.NUM_TRAIN: [True]},
    "a size too few": {messages.CHIP_PX: [64]},
    "no list": {messages.CHIP_PX: 64},
    "a negative size": {messages.CHIP_PX: [64, -1]},
    "a chip of a billion pixels": {messages.CHIP_PX: [10**9, 11]},
    "a modality twice": {messages.MODALITIES: ["optical", "optical"]},
    "no modality": {messages.MODALITIES: [], messages.NUM_BANDS: [], messages.CHIP_PX: []},
    "numbers for names": {messages.BANDS: [1, 2, 3, 4, 5]},
    "no counts": {messages.NUM_TRAIN: []},
    "a negative count": {messages.NUM_TEST: [-1]},
    "lacks of another length": {messages.LACKING: [0, 0]},
    "lacks all": {messages.LACKING: [3]},
    "no chips": {messages.NUM_TRAIN: [0]},
    "chips beyond counting": {messages.NUM_TRAIN: [10**15]},
    "test chips beyond counting": {messages.NUM_TEST: [2**40]},
    "validation chips beyond counting": {messages.NUM_VAL: [2**40]},
    "not a number": {messages.NUM_TRAIN: [math.nan]},
    "infinitely many": {messages.NUM_TRAIN: [math.inf]},
    "no classes": {messages.CLASSES: []},
    "a class twice": {messages.CLASSES: ["water", "water"]},
    "classes as bytes": {messages.CLASSES: [b"water", b"town"]},
    "a class that forges a line": {messages.CLASSES: ["water", "town\nINFO : all well"]},
    "a name of a million letters": {messages.NAMES: ["b" * 10**6]},
    "a name that drives a terminal": {messages.NAMES: ["\x1b[2Jb"]},
    "an empty name": {messages.NAMES: [""]},
    "more names than counts": {messages.NAMES: ["b", "c"]},
    "twenty thousand sites": {
        messages.NAMES: [f"s{number}" for number in range(2 * MAX_SITES)],
        messages.NUM_TRAIN: [1] * 2 * MAX_SITES,
        messages.NUM_TEST: [1] * 2 * MAX_SITES,
    },
    "no truth": {messages.SYNTHETIC: 1},
    "no data": {messages.DATASET: 3},
    "an unknown field": {"payload": b"x" * 10_000},
    "unknown records": {"more": {"model": ArrayRecord({"x": Array(np.zeros(1, np.uint8))})}},
    "metrics": {"more": {"metrics": MetricRecord({"x": 1.0})}},
    **{f"without {key}": {key: DROP} for key in REPORT},
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("arrival", ["before the others", "after the others", "during the run"])
def test_an_odd_answer_leaves_out_its_node_alone(
    case: str, arrival: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd = {messages.NAMES: ["odd"], **UNREADABLE[case]}
    good = [{messages.NAMES: ["a"]}, {messages.NAMES: ["b"]}]
    nodes = [odd, *good] if arrival == "before the others" else [*good, odd]
    grid = LoopbackGrid(site, nodes, {})
    number = 101 + nodes.index(odd)
    grid.away = {number} if arrival == "during the run" else set()
    manager = discover_sites(grid, 2, join_timeout_s=0.2)
    grid.away.clear()
    SiteDiscovery(manager).poll(grid)
    assert sorted(manager.sites) == ["a", "b"]
    assert manager.data.classes == ("water", "town")
    ((name, reason),) = left_out(manager)
    assert name in (f"node {number}", "site odd")
    assert reason == "unreadable answer"
    warning = next(r for r in caplog.records if "is left out" in r.message)
    assert warning.message.startswith(f"{name} is left out: unreadable answer: a message has ")
    assert warning.message.isprintable()
    assert len(warning.message) < 1200
    assert manager.nodes.news  # for the ledger


def linked(odd: dict[str, Any], tamper: Tamper) -> LinkGrid:
    """Return the grid of a deployment: node 101 gives an odd answer, and b and c good ones."""

    def answer(message: Message, context: Context) -> Message:
        own = [odd, {messages.NAMES: ["b"]}, {messages.NAMES: ["c"]}]
        context.node_config = own[context.node_id - 101]
        return site(message, context)

    return LinkGrid(answer, 3, tamper, names=["odd", "b", "c"])


def untouched(message: Message, objects: Objects) -> Objects:
    return objects


def test_an_odd_answer_comes_through_flower_and_leaves_out_its_node_alone() -> None:
    for case, change in UNREADABLE.items():
        grid = linked({messages.NAMES: ["odd"], **change}, untouched)
        manager = discover_sites(grid, 2, join_timeout_s=5.0)
        assert sorted(manager.sites) == ["b", "c"], case
        ((name, reason),) = left_out(manager)
        assert name == "site odd"
        # What is too large is not opened.
        assert reason in ("unreadable answer", "oversized reply"), case


def test_answers_with_changed_bytes_leave_out_their_node_alone() -> None:
    rng = np.random.default_rng(0)

    def change(message: Message, objects: Objects) -> Objects:
        return mutant(rng, objects) if message.metadata.dst_node_id == 101 else objects

    reasons: Counter[str] = Counter()
    for _ in range(120):
        grid = linked({messages.NAMES: ["odd"]}, change)
        manager = discover_sites(grid, 2, join_timeout_s=0.5)
        SiteDiscovery(manager).poll(grid)
        assert {"b", "c"} <= manager.sites.keys() <= {"odd", "b", "c"}
        assert (manager.data.classes, manager.data.dataset) == (("water", "town"), "here")
        names = left_out(manager)
        assert len(manager.sites) + len(names) == 3
        assert all(name == "site odd" for name, _ in names)
        reasons.update(reason for _, reason in names)
    assert reasons["malformed reply"] > 40
    assert reasons["unreadable answer"] > 0


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_error_leaves_out_its_node_alone(position: int) -> None:
    nodes: list[dict[str, Any]] = [{messages.NAMES: ["a"]}, {messages.NAMES: ["b"]}]
    nodes.insert(position, {"error": "manifest.parquet is damaged"})
    manager = discover(*nodes, min_sites=2)
    assert sorted(manager.sites) == ["a", "b"]
    (entry,) = manager.nodes.names_left_out()
    assert (entry.name, entry.reason) == (f"node {101 + position}", "error at the site")
    assert "manifest.parquet is damaged" in entry.detail


def test_no_record_at_all_leaves_out_its_node_alone() -> None:
    def empty(message: Message, context: Context) -> Message:
        if context.node_id == 101:
            return Message(RecordDict(), reply_to=message)
        return site(message, context)

    manager = discover_sites(LoopbackGrid(empty, [{}, {}], {}), 1, join_timeout_s=0.2)
    assert manager.sites["a"].node_id == 102
    assert left_out(manager) == [("node 101", "unreadable answer")]


def test_a_run_needs_as_many_sites_as_are_asked_for_and_says_who_is_missing() -> None:
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined within 0\.2 s; left out: "):
        discover({}, {"error": "no chips"}, min_sites=2)
    with pytest.raises(RunError, match=r"node 102 \(error at the site: no chips\); start more"):
        discover({}, {"error": "no chips"}, min_sites=2)
    with pytest.raises(RunError, match=r"0 of at least 1 sites joined .*\(unreadable answer: a me"):
        discover({messages.CLASSES: []})
    with pytest.raises(RunError, match=r"1 of at least 2 .*102 \(error at .*site . \(unreadable"):
        discover({}, {"error": "no chips"}, {messages.CLASSES: []}, min_sites=2)
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined within 0\.2 s; start more"):
        discover({}, min_sites=2)


@pytest.mark.parametrize("working", [0, 2])
def test_a_simulation_that_lacks_sites_ends_once_all_nodes_have_answered(working: int) -> None:
    good = [{messages.NAMES: [f"good-{number}"]} for number in range(working)]
    grid = LoopbackGrid(site, [*good, *[{"error": "no module 'spectral'"}] * 4], {})
    begin = time.monotonic()
    with pytest.raises(RunError) as caught:
        discover_sites(grid, working + 4, 60.0, simulated=True)
    assert time.monotonic() - begin < 10
    assert str(caught.value) == (
        f"{working} of at least {working + 4} sites joined, and all nodes have answered; left "
        "out: 4 nodes (error at the site: no module 'spectral'); remove the cause, and start the "
        "run again"
    )


def test_a_simulation_of_fewer_sites_than_are_asked_for_says_what_helps() -> None:
    nodes = [{}, {messages.NAMES: [], messages.NUM_TRAIN: [], messages.NUM_TEST: []}]
    with pytest.raises(
        RunError, match=r"^1 of at least 2 .* have answered; lower min-sites to the"
    ):
        discover_sites(LoopbackGrid(site, nodes, {}), 2, 60.0, simulated=True)


def test_a_simulation_waits_for_nodes_that_have_not_answered() -> None:
    grid = LoopbackGrid(site, [{"error": "no chips"}, {}], {})
    held_back: dict[str, Message] = {}
    looks: Counter[str] = Counter()

    def hold_back(message: Message, reply: Message) -> Message | None:
        if message.metadata.dst_node_id == 102:
            held_back[message.metadata.message_id] = reply
            return None
        return reply

    def deliver(ids: Any) -> list[Message]:
        looks["pulls"] += 1
        if looks["pulls"] == 4:
            grid.replies |= held_back
        return pull(ids)

    pull, grid.fault = grid.pull_messages, hold_back
    grid.pull_messages = deliver  # type: ignore[method-assign]
    manager = discover_sites(grid, 1, 60.0, simulated=True)
    assert list(manager.sites) == ["a"]
    grid.replies.clear()
    held_back.clear()
    looks["pulls"] = 4  # it never answers
    with pytest.raises(RunError, match=r"within 0\.3 s; .*no answer: .*; raise join-timeout-s, or"):
        discover_sites(grid, 1, 0.3, simulated=True)


def test_a_simulation_waits_for_nodes_that_are_still_being_registered() -> None:
    """Flower starts the server app before it registers the last node."""
    grid = LoopbackGrid(site, [{"error": "no chips"}, {}], {})
    grid.away = {102}
    looks: Counter[str] = Counter()
    connected = grid.get_node_ids

    def look() -> list[int]:
        looks["nodes"] += 1
        if looks["nodes"] == 2:
            grid.away.clear()
        return connected()

    grid.get_node_ids = look  # type: ignore[method-assign]
    assert list(discover_sites(grid, 1, 60.0, simulated=True).sites) == ["a"]


def test_a_reason_that_keeps_several_sites_away_is_given_once() -> None:
    nodes = [{"error": "no chips"}] * 3 + [{"error": "no disk"}, {messages.CLASSES: []}]
    grid = LoopbackGrid(site, [*nodes, {"error": "no chips"}], {})
    grid.names = {101: "bergen", 103: "oslo"}
    with pytest.raises(RunError) as caught:
        discover_sites(grid, 1, 0.2)
    text = str(caught.value)
    assert "left out: site bergen, site oslo, 2 nodes (error at the site: no chips); " in text
    assert text.count("no chips") == 1
    assert "node 104 (error at the site: no disk)" in text
    grid = LoopbackGrid(site, [{"error": "no chips"}] * 25, {})
    grid.names = {101 + number: f"s{number:02}" for number in range(25)}
    with pytest.raises(RunError, match=r"site s18, site s19, 5 more sites \(error at the site: no"):
        discover_sites(grid, 1, 0.2)


def test_a_node_that_does_not_answer_is_named_and_joins_when_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid = LoopbackGrid(site, [{}, {messages.NAMES: ["b"]}], {})
    late: dict[str, Message] = {}

    def hold_back(message: Message, reply: Message) -> Message | None:
        if message.metadata.dst_node_id == 102:
            late[message.metadata.message_id] = reply
            return None
        return reply

    grid.fault, grid.names = hold_back, {101: "a", 102: "b"}
    manager = discover_sites(grid, 1, join_timeout_s=0.2)
    assert list(manager.sites) == ["a"]
    assert "site b is left out: no answer: it did not answer within 0.2 s" in caplog.text
    discovery = SiteDiscovery(manager)
    asked = len(grid.seen)
    discovery.poll(grid)
    assert (list(manager.sites), len(grid.seen)) == (["a"], asked)  # not asked in every round
    grid.replies |= late
    discovery.poll(grid)
    assert list(manager.sites) == ["a", "b"]
    assert left_out(manager) == []


# ---- what is right -----------------------------------------------------------------------------

OTHER_CLASSES = {messages.CLASSES: ["water", "sea"]}
OTHER_BANDS = {messages.BANDS: ["blue", "green", "nir", "red", "dem"]}
OTHER_SIZE = {messages.CHIP_PX: [64, 64]}


@pytest.mark.parametrize("position", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        (OTHER_CLASSES, "other classes", "it has another class list (sea, town); use one for all"),
        ({messages.CLASSES: ["town", "water"]}, "other classes", "(another order)"),
        (
            OTHER_BANDS,
            "other bands",
            "it has modality optical with the bands blue, green, nir, red (64 px), the others with "
            "blue, green, red, nir (64 px): ingest all sites with the same bands",
        ),
        (OTHER_SIZE, "other bands", "modality elevation with the bands dem (64 px), the others"),
    ],
)
def test_the_majority_decides_whoever_answers_first(
    change: dict[str, Any], reason: str, detail: str, position: int
) -> None:
    nodes = [{messages.NAMES: [name]} for name in "bcd"]
    nodes.insert(position, {messages.NAMES: ["a"], **change})
    manager = discover(*nodes, min_sites=3)
    assert sorted(manager.sites) == ["b", "c", "d"]
    assert manager.data.classes == ("water", "town")
    assert manager.data.modalities == (OPTICAL, ELEVATION)
    (entry,) = manager.nodes.names_left_out()
    assert (entry.name, entry.reason) == ("site a", reason)
    assert detail in entry.detail


def test_what_was_decided_is_said(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [{messages.NAMES: [name]} for name in "bcd"]
    discover(*nodes, {messages.NAMES: ["a"], **OTHER_CLASSES}, min_sites=3)
    text = "3 of 4 nodes have these classes, and the majority decides: water, town"
    assert text in caplog.text


def test_without_a_majority_the_first_name_decides() -> None:
    nodes = [{messages.NAMES: ["b"]}, {messages.NAMES: ["a"], **OTHER_CLASSES}]
    for order in (nodes, nodes[::-1]):
        manager = discover(*order)
        assert list(manager.sites) == ["a"]
        assert left_out(manager) == [("site b", "other classes")]
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined .* site b "):
        discover(*nodes, min_sites=2)


def test_the_record_of_a_resumed_run_goes_before_the_majority(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = DataInfo("there", True, ("water", "sea"), (OPTICAL, ELEVATION))
    nodes = [{messages.NAMES: [name]} for name in "bcd"]
    manager = discover(*nodes, {messages.NAMES: ["a"], **OTHER_CLASSES}, record=record)
    assert list(manager.sites) == ["a"]
    assert manager.data == record
    assert "1 of 4 nodes have these classes, and the record of the run decides" in caplog.text
    with pytest.raises(RunError, match="0 of at least 1 sites"):
        discover(*nodes, record=record)
    # Folders of older versions list neither classes nor modalities.
    manager = discover(*nodes, record=DataInfo("there", False, (), ()))
    assert sorted(manager.sites) == ["b", "c", "d"]
    assert manager.data == DataInfo("there", False, ("water", "town"), (OPTICAL, ELEVATION))


def test_name_and_mark_of_the_data_are_those_of_the_majority(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = [{messages.NAMES: [name], messages.SYNTHETIC: True} for name in "bc"]
    alone = {messages.NAMES: ["a"], messages.DATASET: "alone"}
    manager = discover(alone, *nodes, min_sites=3)
    assert (manager.data.dataset, manager.data.synthetic) == ("here", True)
    assert "the data is called 'here' in this run, and 'alone' at a" in caplog.text
    assert "counts as synthetic; that of b, c is marked so" in caplog.text
    manager = discover(alone, nodes[0], min_sites=2)
    assert manager.data.synthetic  # in doubt the results are marked


def test_a_site_joins_once_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = LoopbackGrid(site, [{}, {messages.NAMES: ["b"], **OTHER_CLASSES}], {})
    manager = discover_sites(grid, 1, join_timeout_s=0.2)
    discovery = SiteDiscovery(manager)
    monkeypatch.setattr(node_book, "REFUSED_POLL_S", 0.0)
    discovery.poll(grid)
    assert list(manager.sites) == ["a"]
    grid.contexts[102].node_config.update({messages.CLASSES: REPORT[messages.CLASSES]})
    now = time.monotonic() + 60.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    discovery.poll(grid)
    assert list(manager.sites) == ["a", "b"]
    assert left_out(manager) == []
    assert [entry.reason for entry in manager.nodes.news] == ["other classes"]


def test_a_site_that_answers_twice_joins_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A slow one is asked again before its first answer arrives."""
    late: list[Message] = []
    grid = LoopbackGrid(site, [{}, {messages.NAMES: ["b"], **OTHER_CLASSES}], {})
    manager = discover_sites(grid, 1, join_timeout_s=0.2)
    discovery = SiteDiscovery(manager)
    monkeypatch.setattr(node_book, "REFUSED_POLL_S", 0.0)
    discovery.poll(grid)
    grid.contexts[102].node_config.update({messages.CLASSES: REPORT[messages.CLASSES]})
    pull = grid.pull_messages
    monkeypatch.setattr(grid, "pull_messages", lambda ids: late)
    clock = time.monotonic()
    for seconds in (60.0, 120.0):
        monkeypatch.setattr(time, "monotonic", lambda now=clock + seconds: now)
        discovery.poll(grid)
    monkeypatch.setattr(grid, "pull_messages", pull)
    discovery.poll(grid)
    assert list(manager.sites) == ["a", "b"]
    assert caplog.messages.count("b joined") == 1


def test_sites_may_have_different_modalities() -> None:
    """The order of the modalities is that of the sites' names, not of their arrival."""
    both = {messages.NAMES: ["c", "b"], messages.NUM_TRAIN: [1, 1], messages.NUM_TEST: [1, 1]}
    nodes = [
        {**both, messages.LACKING: [0, 1]},
        {messages.NAMES: ["a"], messages.MODALITIES: ["sar", "elevation"], messages.LACKING: [2]},
    ]
    grid = LoopbackGrid(site, nodes, {})
    manager = discover_sites(grid, 3, join_timeout_s=0.2)
    assert manager.data.modality_names == ("sar", "elevation", "optical")
    assert {name: info.modalities for name, info in manager.sites.items()} == {
        "a": ("sar",),
        "b": ("elevation",),
        "c": ("optical", "elevation"),
    }


def test_a_model_that_needs_all_modalities_takes_those_that_most_sites_have() -> None:
    nodes = [{messages.NAMES: [name]} for name in "bcd"]
    odd = {
        messages.NAMES: ["a"],
        messages.MODALITIES: ["optical", "elevation", "x"],
        messages.NUM_BANDS: [4, 1, 1],
        messages.BANDS: [*REPORT[messages.BANDS], "x"],
        messages.CHIP_PX: [64, 11, 64],
    }
    manager = discover(odd, *nodes, {messages.NAMES: ["e"], messages.LACKING: [2]})
    assert manager.data.modality_names == ("optical", "elevation", "x")
    manager.refuse_lacking("because")
    assert sorted(manager.sites) == ["b", "c", "d"]
    assert manager.data.modalities == (OPTICAL, ELEVATION)
    assert left_out(manager) == [("site a", "other modalities"), ("site e", "lacks a modality")]
    manager = discover(odd, *nodes, min_sites=4, modalities=["optical", "elevation", "x"])
    with pytest.raises(RunError, match="site b lacks modality x, because"):
        manager.refuse_lacking("because")
    assert len(manager.sites) == 4


def test_the_order_of_the_modalities_may_be_given() -> None:
    grid = LoopbackGrid(site, [{}], {})
    manager = discover_sites(grid, 1, 0.2, ["elevation", "optical"])
    assert manager.data.modalities == (ELEVATION, OPTICAL)
    with pytest.raises(
        RunError, match=r"no site has modality sar; .*sites have optical.*: correct"
    ):
        discover_sites(grid, 1, 0.2, ["sar"])


def test_a_site_with_modalities_that_were_not_asked_for_is_left_out() -> None:
    odd = {messages.NAMES: ["b"], messages.MODALITIES: ["optical", "x"]}
    manager = discover({}, odd, modalities=["optical", "elevation"])
    assert list(manager.sites) == ["a"]
    assert left_out(manager) == [("site b", "other modalities")]


# ---- names -------------------------------------------------------------------------------------


def registered(*names: str, claims: list[list[str]]) -> LoopbackGrid:
    """Return nodes 101, 102, … with these registered names, and the names that they claim."""
    nodes = [
        {key: [1] * len(claim) for key in (messages.NUM_TRAIN, messages.NUM_TEST)}
        | {messages.NAMES: claim}
        for claim in claims
    ]
    grid = LoopbackGrid(site, nodes, {})
    grid.names = {node: name for node, name in enumerate(names, start=101) if name}
    return grid


def test_two_sites_of_one_name_are_not_both_taken() -> None:
    manager = discover({}, {})
    assert manager.sites["a"].node_id == 101
    (entry,) = manager.nodes.names_left_out()
    assert (entry.name, entry.reason) == ("node 102", "name taken")
    assert "two sites are called 'a', the other one is node 101" in entry.detail
    twice = {messages.NAMES: ["b", "b"], messages.NUM_TRAIN: [1, 1], messages.NUM_TEST: [1, 1]}
    assert left_out(discover({}, twice)) == [("node 102", "name taken")]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("owner_is_away", [False, True])
def test_a_registered_node_comes_under_its_own_name_only(late: bool, owner_is_away: bool) -> None:
    grid = registered("a", "b", "c", claims=[["a"], ["b"], ["b"]])
    grid.away = {103} if late else set()
    manager = discover_sites(grid, 2 - owner_is_away, join_timeout_s=0.2)
    grid.away = {102} if owner_is_away else set()
    discovery = SiteDiscovery(manager)
    discovery.poll(grid)
    assert manager.sites["b"].node_id == 102
    (entry,) = manager.nodes.names_left_out()
    assert (entry.name, entry.reason) == ("site c", "name of another site")
    assert "it calls itself 'b', and its key is registered as 'c'" in entry.detail


def test_a_registered_node_is_one_site() -> None:
    grid = registered("a", "b", claims=[["a"], ["b", "c"]])
    manager = discover_sites(grid, 1, join_timeout_s=0.2)
    assert list(manager.sites) == ["a"]
    assert left_out(manager) == [("site b", "more than one site")]


def test_a_node_without_a_registered_name_takes_no_registered_one() -> None:
    grid = registered("a", "", claims=[["a"], ["a"]])
    manager = discover_sites(grid, 1, join_timeout_s=0.2)
    grid.away = {101}
    SiteDiscovery(manager).poll(grid)
    assert manager.sites["a"].node_id == 101
    assert left_out(manager) == [("node 102", "name of another site")]


def test_a_registered_node_gets_its_name_back() -> None:
    grid = registered("", "a", claims=[["a"], ["a"]])
    grid.away = {102}
    manager = discover_sites(grid, 1, join_timeout_s=0.2)
    grid.away = set()
    SiteDiscovery(manager).poll(grid)
    assert manager.sites["a"].node_id == 102


def test_in_a_deployment_every_node_has_a_registered_name() -> None:
    grid = registered("a", "", claims=[["a"], ["b"]])
    manager = discover_sites(grid, 1, 0.2, registered_only=True)
    assert list(manager.sites) == ["a"]
    assert left_out(manager) == [("site b", "no registered name")]


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


def test_a_site_comes_back_behind_another_node(caplog: pytest.LogCaptureFixture) -> None:
    grid, manager, discovery = federation("a", "a")
    grid.away = {101}
    grid.contexts[102].node_config[messages.NUM_TRAIN] = [11]
    discovery.poll(grid)
    assert manager.sites["a"].node_id == 102
    assert [site.name for site in manager.draw(1.0, 0, 1, {102})] == ["a"]
    assert manager.draw(1.0, 0, 1, {101}) == []
    assert "site a reports 11 training chips, and reported 10 before" in caplog.text


def test_a_second_site_of_a_name_that_is_connected_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid, manager, discovery = federation("a", "a")
    grid.away.clear()
    discovery.poll(grid)
    assert manager.sites["a"].node_id == 101
    assert "node 102 is left out: name taken: two sites are called 'a'" in caplog.text


def test_a_site_that_joins_with_a_modality_of_its_own_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = [
        {messages.NAMES: ["a"]},
        {messages.NAMES: ["b"], messages.MODALITIES: ["optical", "x"]},
    ]
    grid = LoopbackGrid(site, names, {})
    grid.away = {102}
    manager = discover_sites(grid, 1, join_timeout_s=0.2)
    grid.away.clear()
    SiteDiscovery(manager).poll(grid)
    assert list(manager.sites) == ["a"]
    assert manager.data.modality_names == ("optical", "elevation")
    assert "site b has modality x, which the run does not have" in caplog.text


# ---- code and versions -------------------------------------------------------------------------

CODE = ModelCode("mynet:build", "mynet 12ab (1 file)")
SAME = {messages.MODEL_CODE: CODE.signature}
OTHER = {messages.NAMES: ["b"], messages.MODEL_CODE: "mynet 99ff (2 files)"}
OTHER_LINE = (
    "its code of model 'mynet:build' is mynet 99ff (2 files) instead of mynet 12ab (1 file): "
    "copy the server's files to its code-dir, or install the server's version"
)


def test_a_run_goes_on_without_a_site_that_has_other_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = discover(OTHER, SAME, code=CODE)
    assert list(manager.sites) == ["a"]
    assert f"site b is left out: other code: {OTHER_LINE}" in caplog.text


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (OTHER, OTHER_LINE),
        (
            {messages.NAMES: ["b"], messages.MODEL_ERROR: "model 'mynet:build' cannot be imported"},
            "site b (other code: model 'mynet:build' cannot be imported)",
        ),
        ({messages.NAMES: ["b"]}, "is an earlier version of rsdgc instead of mynet"),
    ],
)
def test_too_few_sites_with_the_code_of_the_server_is_an_error(
    change: dict[str, Any], line: str
) -> None:
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined .*; left out: ") as caught:
        discover(SAME, change, min_sites=2, code=CODE)
    assert line in str(caught.value)
    assert str(caught.value).endswith(
        "; start more sites, lower min-sites, or raise join-timeout-s"
    )


def test_a_site_that_gets_the_code_is_asked_again_and_joins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node_book, "REFUSED_POLL_S", 0.0)
    monkeypatch.setattr(roll_call, "DISCOVERY_POLL_S", 0.01)
    grid = LoopbackGrid(site, [SAME, OTHER], {})

    def repair(message: Message, reply: Message) -> Message:
        if len(grid.seen) >= 4:
            grid.contexts[102].node_config.update(SAME)
        return reply

    grid.fault = repair
    manager = discover_sites(grid, 2, join_timeout_s=5.0, code=CODE)
    assert list(manager.sites) == ["a", "b"]
    assert caplog.text.count("is left out") == 1


def test_a_late_site_with_other_code_is_refused_until_it_has_the_servers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grid = LoopbackGrid(site, [SAME, OTHER], {})
    grid.away = {102}
    manager = discover_sites(grid, 1, join_timeout_s=0.2, code=CODE)
    discovery = SiteDiscovery(manager)
    grid.away.clear()
    discovery.poll(grid)
    assert f"site b is left out: other code: {OTHER_LINE}" in caplog.text
    grid.contexts[102].node_config.update(SAME)
    discovery.poll(grid)
    assert list(manager.sites) == ["a"]  # it is too early to ask again
    now = time.monotonic() + node_book.REFUSED_POLL_S
    monkeypatch.setattr(time, "monotonic", lambda: now)
    discovery.poll(grid)
    assert list(manager.sites) == ["a", "b"]


def test_a_refused_node_that_does_not_answer_is_not_asked_with_every_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = LoopbackGrid(site, [SAME, OTHER], {})
    manager = discover_sites(grid, 1, join_timeout_s=0.2, code=CODE)
    discovery = SiteDiscovery(manager)
    discovery.poll(grid)
    now = time.monotonic() + node_book.REFUSED_POLL_S
    monkeypatch.setattr(time, "monotonic", lambda: now)
    grid.fault = lambda message, reply: None
    seen = len(grid.seen)
    for _ in range(3):
        discovery.poll(grid)
    assert len(grid.seen) == seen + 1


def test_a_refused_node_is_asked_less_and_less_often_until_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = LoopbackGrid(site, [SAME, OTHER], {})
    manager = discover_sites(grid, 1, join_timeout_s=0.2, code=CODE)
    discovery = SiteDiscovery(manager)
    start = time.monotonic()
    asked = []

    def look(second: int) -> None:
        seen = len(grid.seen)
        monkeypatch.setattr(time, "monotonic", lambda: start + second)
        discovery.poll(grid)
        asked.extend([second] * (len(grid.seen) - seen))

    for second in range(1, 251):
        look(second)
    assert asked == [20, 60, 120, 180, 240]
    grid.away = {102}
    look(251)
    grid.away.clear()
    look(252)
    assert asked[5:] == [252]  # it was away: its site may have been mended
    grid.contexts[102].node_config.update({**SAME, **OTHER_CLASSES})
    for second in range(253, 400):
        look(second)
    assert asked[6:] == [312, 332, 372]  # another reason: it is being worked on
    grid.contexts[102].node_config.update({messages.CLASSES: REPORT[messages.CLASSES]})
    look(500)
    assert list(manager.sites) == ["a", "b"]


def test_other_versions_are_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(roll_call, "own_versions", lambda: ["rsdgc 1.0", "torch 2.4"])
    nodes: list[dict[str, Any]] = [
        {messages.NAMES: ["a"], messages.VERSIONS: ["rsdgc 1.0", "torch 2.4"]},
        {messages.NAMES: ["b"], messages.VERSIONS: ["rsdgc 1.0", "torch 2.3"]},
        {messages.NAMES: ["c"], messages.VERSIONS: ["rsdgc 1.0", "torch 2.3", "jax 1"]},
    ]
    manager = discover(*nodes, min_sites=3)
    (line,) = [r.message for r in caplog.records if "versions" in r.message]
    assert line == "versions differ: c: jax 1 (server: none); b, c: torch 2.3 (server: 2.4)"
    assert left_out(manager) == []
    caplog.clear()
    discover(nodes[0])
    assert "versions" not in caplog.text


def test_a_site_of_another_wire_format_is_left_out() -> None:
    odd = {messages.NAMES: ["b"], messages.WIRE_FORMAT: WIRE_FORMAT + 1}
    manager = discover({}, odd)
    assert manager.nodes.names_left_out() == [
        LeftOut(
            "site b",
            "other wire format",
            f"its uploads have format version {WIRE_FORMAT + 1}, the server's {WIRE_FORMAT}: "
            "install the server's version of rsdgc",
        )
    ]


def test_sites_that_leave_and_return_are_named_with_how_many_are_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid = LoopbackGrid(site, [{messages.NAMES: [name]} for name in "abc"], {})
    discovery = SiteDiscovery(discover_sites(grid, 3, 1.0))
    said: list[str] = []
    for away in (set(), {102, 103}, {102, 103}, {103}, set()):
        grid.away = away
        caplog.clear()
        discovery.poll(grid)
        said.append("; ".join(record.getMessage() for record in caplog.records))
    assert said == [
        "",
        "b, c: gone; 1 of 3 sites are connected",
        "",
        "b: back; 2 of 3 sites are connected",
        "c: back; 3 of 3 sites are connected",
    ]
