from __future__ import annotations

import time
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from rsdgc.errors import RunError
from strategies import messages, roll_call
from strategies.roll_call import (
    SiteDiscovery,
    _discovery_messages,
    _read_sites,
    discover_sites,
    site_record,
)
from strategies.sites import DataInfo, ModalityInfo, ModelCode, SiteInfo, SiteManager
from tests.loopback import LoopbackGrid

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


def site(message: Message, context: Context) -> Message:
    report = ConfigRecord({**REPORT, **context.node_config})
    return Message(RecordDict({messages.SITE: report}), reply_to=message)


def discover(*changes: dict[str, Any], min_sites: int = 1) -> SiteManager:
    return discover_sites(LoopbackGrid(site, changes, {}), min_sites, join_timeout_s=0.2)


def test_every_site_is_entered_with_its_node() -> None:
    manager = discover({messages.NAMES: ["b"]}, {messages.NAMES: ["a"]}, min_sites=2)
    assert [(site.name, site.node_id) for site in manager.connected()] == [("a", 102), ("b", 101)]
    assert manager.data == DataInfo("here", False, ("water", "town"), (OPTICAL, ELEVATION))
    assert (manager.data.bands, manager.data.chip_px) == (5, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "two sites are called 'a'"),
        (
            {key: 2 * REPORT[key] for key in (messages.NUM_TRAIN, messages.NUM_TEST)}
            | {messages.NAMES: ["b", "b"]},
            "two sites are called 'b'",
        ),
        (
            {messages.NAMES: ["b"], messages.BANDS: ["blue", "green", "nir", "red", "dem"]},
            r"site b has modality optical with the bands blue, green, nir, red \(64 px\), "
            r"the others with blue, green, red, nir \(64 px\): ingest all sites",
        ),
        (
            {messages.NAMES: ["b"], messages.CHIP_PX: [64, 64]},
            r"site b has modality elevation with the bands dem \(64 px\), the others with dem \(11",
        ),
        ({messages.NAMES: ["b"], messages.CLASSES: ["water", "sea"]}, r"\(sea, town\)"),
        ({messages.NAMES: ["b"], messages.CLASSES: ["town", "water"]}, "another order"),
    ],
)
def test_sites_that_do_not_agree_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        discover({}, change)


@pytest.mark.parametrize(
    "change",
    [
        {messages.NUM_BANDS: [4, 2]},
        {messages.NUM_BANDS: [5, 0]},
        {messages.NUM_TRAIN: [True]},
        {messages.CHIP_PX: [64]},
        {messages.CHIP_PX: 64},
        {messages.CHIP_PX: [64, -1]},
        {messages.MODALITIES: ["optical", "optical"]},
        {messages.MODALITIES: []},
        {messages.BANDS: [1, 2, 3, 4, 5]},
        {messages.NUM_TRAIN: []},
        {messages.NUM_TEST: [-1]},
        {messages.LACKING: [0, 0]},
        {messages.LACKING: [3]},
        {messages.NUM_TRAIN: [0]},
        {messages.NUM_TEST: [2**40]},
        {messages.NUM_VAL: [2**40]},
    ],
)
def test_a_report_of_impossible_data_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"a message has .*: install the same version"):
        discover(change)


@pytest.mark.parametrize("key", [messages.SITE, *REPORT])
def test_a_report_that_lacks_a_field_is_refused(key: str) -> None:
    def incomplete(message: Message, context: Context) -> Message:
        reply = site(message, context)
        del (reply.content if key in reply.content else reply.content[messages.SITE])[key]
        return reply

    with pytest.raises(RunError, match=r"a message has .*: install the same version"):
        discover_sites(LoopbackGrid(incomplete, [{}], {}), 1, join_timeout_s=0.2)


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
    with pytest.raises(RunError, match="site a lacks modality elevation, optical, because"):
        manager.refuse_lacking("because")


def test_the_order_of_the_modalities_may_be_given() -> None:
    grid = LoopbackGrid(site, [{}], {})
    manager = discover_sites(grid, 1, 0.2, ["elevation", "optical"])
    assert manager.data.modalities == (ELEVATION, OPTICAL)
    with pytest.raises(RunError, match="no site has modality sar: set modalities to some of opt"):
        discover_sites(grid, 1, 0.2, ["sar"])


def test_too_few_sites_is_an_error() -> None:
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined within 0\.2 s"):
        discover({}, min_sites=2)


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


NAME = st.text(min_size=1, max_size=5)
MODALITY = st.builds(
    ModalityInfo, NAME, st.lists(NAME, min_size=1, max_size=3).map(tuple), st.integers(1, 64)
)


@given(
    st.lists(MODALITY, min_size=1, max_size=4, unique_by=lambda modality: modality.name),
    st.lists(NAME, max_size=4),
    st.data(),
)
def test_what_a_node_answers_is_what_the_server_reads(
    modalities: list[ModalityInfo], names: list[str], draw: st.DataObject
) -> None:
    data = DataInfo("here", True, ("water", "town"), tuple(modalities))
    own = st.lists(st.sampled_from(modalities), min_size=1, unique=True)
    sites = []
    for name in names:
        chosen = draw.draw(own)
        has = tuple(m.name for m in modalities if m in chosen)
        sites.append(SiteInfo(name, 101, len(name), 0, has))

    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict({messages.SITE: site_record(data, sites)}), reply_to=message)

    grid = LoopbackGrid(answer, [{}], {})
    reply = grid.send_and_receive(_discovery_messages([101]))
    assert _read_sites(*reply, None) == (data, sites)


CODE = ModelCode("mynet:build", "mynet 12ab (1 file)")
SAME = {messages.MODEL_CODE: CODE.signature}
OTHER = {messages.NAMES: ["b"], messages.MODEL_CODE: "mynet 99ff (2 files)"}
OTHER_LINE = (
    "site b has other code of model 'mynet:build' than the server: mynet 99ff (2 files) instead of "
    "mynet 12ab (1 file); copy the server's files to its code-dir, or install the server's version"
)


def test_a_run_goes_on_without_a_site_that_has_other_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid = LoopbackGrid(site, [OTHER, SAME], {})
    manager = discover_sites(grid, 1, join_timeout_s=0.2, code=CODE)
    assert list(manager.sites) == ["a"]
    assert f"a node was refused: {OTHER_LINE}" in caplog.text


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (OTHER, OTHER_LINE),
        (
            {messages.NAMES: ["b"], messages.MODEL_ERROR: "model 'mynet:build' cannot be imported"},
            "site b: model 'mynet:build' cannot be imported",
        ),
        ({messages.NAMES: ["b"]}, "than the server: an earlier version of rsdgc instead of mynet"),
    ],
)
def test_too_few_sites_with_the_code_of_the_server_is_an_error(
    change: dict[str, Any], line: str
) -> None:
    grid = LoopbackGrid(site, [SAME, change], {})
    with pytest.raises(RunError, match=r"1 of at least 2 sites joined .*; refused: ") as caught:
        discover_sites(grid, 2, join_timeout_s=0.2, code=CODE)
    assert line in str(caught.value)
    assert str(caught.value).endswith(
        "; start more sites, lower min-sites, or raise join-timeout-s"
    )


def test_a_site_that_gets_the_code_is_asked_again_and_joins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(roll_call, "REFUSED_POLL_S", 0.0)
    monkeypatch.setattr(roll_call, "DISCOVERY_POLL_S", 0.01)
    grid = LoopbackGrid(site, [SAME, OTHER], {})

    def repair(message: Message, reply: Message) -> Message:
        if len(grid.seen) >= 4:
            grid.contexts[102].node_config.update(SAME)
        return reply

    grid.fault = repair
    manager = discover_sites(grid, 2, join_timeout_s=5.0, code=CODE)
    assert list(manager.sites) == ["a", "b"]
    assert caplog.text.count("a node was refused") == 1


def test_a_late_site_with_other_code_is_refused_until_it_has_the_servers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grid = LoopbackGrid(site, [SAME, OTHER], {})
    grid.away = {102}
    manager = discover_sites(grid, 1, join_timeout_s=0.2, code=CODE)
    discovery = SiteDiscovery(manager)
    grid.away.clear()
    discovery.poll(grid)
    assert f"a node was refused: {OTHER_LINE}" in caplog.text
    grid.contexts[102].node_config.update(SAME)
    discovery.poll(grid)
    assert list(manager.sites) == ["a"]  # it is too early to ask again
    monkeypatch.setattr(roll_call, "REFUSED_POLL_S", 0.0)
    discovery.poll(grid)
    assert list(manager.sites) == ["a", "b"]


def test_a_refused_node_that_does_not_answer_is_not_asked_with_every_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = LoopbackGrid(site, [SAME, OTHER], {})
    manager = discover_sites(grid, 1, join_timeout_s=0.2, code=CODE)
    discovery = SiteDiscovery(manager)
    discovery.poll(grid)
    now = time.monotonic() + roll_call.REFUSED_POLL_S
    monkeypatch.setattr(time, "monotonic", lambda: now)
    grid.fault = lambda message, reply: None
    seen = len(grid.seen)
    for _ in range(3):
        discovery.poll(grid)
    assert len(grid.seen) == seen + 1
