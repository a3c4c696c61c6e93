"""When a site's SuperNode may be started again, and how it ends; the node is a stand-in here.

With the real one: ``tests/deployment/test_federation.py``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_PATIENCE,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_TOLERANCE,
)

from fl_app.deploy import supernode
from fl_app.deploy.party_config import SiteConfig
from fl_app.deploy.provision import Federation
from fl_app.deploy.site_checks import AHEAD_S, BEHIND_S
from fl_app.deploy.supernode import LOST_AFTER_S, SEEN_AFTER_S, NodeRecord
from fl_app.flower.superlink import free_ports
from rsdgc.errors import RunError

Configure = Callable[[int], SiteConfig]
JOINS = "print('SuperNode ID: 7', flush=True)\n"
WAITS = "import time; open(READY, 'w').close(); time.sleep(600)"


def test_flowers_constants_are_what_is_built_on() -> None:
    assert HEARTBEAT_DEFAULT_INTERVAL * HEARTBEAT_PATIENCE == LOST_AFTER_S
    assert AHEAD_S < SYSTEM_TIME_TOLERANCE
    assert BEHIND_S < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE


@pytest.mark.parametrize(
    ("record", "wait_s"),
    [
        (NodeRecord(1, 0.0, 1000.0), LOST_AFTER_S + SEEN_AFTER_S),
        (NodeRecord(1, 0.0, 1000.0, orderly=True), SEEN_AFTER_S),
        (NodeRecord(1, 0.0, 900.0), 0.0),
        (NodeRecord(1, 0.0, 970.0), LOST_AFTER_S + SEEN_AFTER_S - 30),
        (NodeRecord(1, 0.0, 9000.0), LOST_AFTER_S + SEEN_AFTER_S),  # the clock was set back
    ],
)
def test_the_next_node_waits_until_the_server_has_seen_the_gap(
    record: NodeRecord, wait_s: float
) -> None:
    assert record.wait_s(now=1000.0) == wait_s


@pytest.fixture
def node(
    monkeypatch: pytest.MonkeyPatch, made: Federation, site: Configure
) -> Callable[[str], SiteConfig]:
    """Return the configuration of a site whose SuperNode is a script."""
    monkeypatch.setattr(supernode, "SEEN_AFTER_S", 0.0)

    def configure(script: str) -> SiteConfig:
        config = site(free_ports(1)[0])
        script = script.replace("READY", repr(str(config.state_dir / "ready")))
        monkeypatch.setattr(supernode, "command", lambda _: [sys.executable, "-c", script])
        return config

    return configure


def test_an_orderly_end(node: Callable[[str], SiteConfig]) -> None:
    config = node(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + JOINS + WAITS
    )
    threading.Thread(target=stop_once_it_runs, args=(config,), daemon=True).start()
    supernode.start(config)
    record = supernode.read_record(config)
    assert record is not None
    assert record.orderly
    assert not supernode.is_running(config)


def test_a_node_that_ends_by_itself_is_an_error(node: Callable[[str], SiteConfig]) -> None:
    config = node(JOINS)
    with pytest.raises(RunError, match="ended by itself"):
        supernode.start(config)
    record = supernode.read_record(config)
    assert record is not None
    assert record.wait_s(time.time()) > LOST_AFTER_S - 10


def test_a_node_that_was_refused_leaves_the_record_as_it_was(
    node: Callable[[str], SiteConfig],
) -> None:
    config = node("")  # Flower ends with 0 after a refusal
    config.state_dir.mkdir(parents=True)
    before = NodeRecord(1, 0.0, 1000.0)
    (config.state_dir / "node.json").write_text(json.dumps(vars(before)))
    with pytest.raises(RunError, match="was not let in"):
        supernode.start(config)
    assert supernode.read_record(config) == before


def test_two_nodes_of_one_site_are_refused(node: Callable[[str], SiteConfig]) -> None:
    config = node(JOINS + WAITS)
    failures: list[BaseException] = []

    def second() -> None:
        wait_until_running(config)
        try:
            supernode.start(config)
        except RunError as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    supernode.start(config)
    thread.join()
    assert "runs already" in str(failures[0])
    record = supernode.read_record(config)
    assert record is not None
    assert not record.orderly  # it did not tell the server


def test_a_damaged_record_counts_as_a_kill(node: Callable[[str], SiteConfig]) -> None:
    config = node("")
    config.state_dir.mkdir(parents=True)
    (config.state_dir / "node.json").write_text("{")
    record = supernode.read_record(config)
    assert record is not None
    assert record.wait_s(time.time()) > 0


def wait_until_running(config: SiteConfig) -> None:
    while not (config.state_dir / "ready").exists():
        time.sleep(0.02)


def stop_once_it_runs(config: SiteConfig) -> None:
    wait_until_running(config)
    os.kill(os.getpid(), signal.SIGTERM)
