"""When a site's SuperNode may start again, and how it ends.

The node is a script here; ``tests/deployment`` has the real one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from flwr.common.config import parse_config_args
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from fl_app.deploy import supernode
from fl_app.deploy.checks import MAX_AHEAD_S, MAX_BEHIND_S
from fl_app.deploy.endpoint import UntrustedServerError
from fl_app.deploy.party_config import SiteConfig
from fl_app.deploy.provision import Federation, init_federation
from fl_app.deploy.supernode import NOTICE_S, NodeRecord
from fl_app.flower.superlink import free_ports
from rsdgc.durable import is_locked
from rsdgc.errors import RunError
from tests.command import rsdgc

Configure = Callable[[int], SiteConfig]
JOINS = "print('SuperNode ID: 7', flush=True)\n"
SUPERVISOR = """
import sys
from pathlib import Path
from fl_app.deploy import party_config, supernode
supernode.describe_data = lambda config: "no data"
supernode.command = lambda *_: [sys.executable, "-c", sys.argv[2]]
supernode.app_command = lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"]
supernode.start(party_config.read_site(Path(sys.argv[1])))
"""
OFFLINE_AFTER_S = 60.0
APP = "import time; time.sleep(600)"
WAITS = "import time; open(READY, 'w').close(); time.sleep(600)"


def test_flowers_constants_are_what_is_built_on() -> None:
    assert supernode.offline_after_s() == OFFLINE_AFTER_S
    assert MAX_AHEAD_S < SYSTEM_TIME_TOLERANCE
    assert MAX_BEHIND_S < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE


@pytest.mark.parametrize(
    ("record", "wait_s"),
    [
        (NodeRecord(1, 0.0, 1000.0), OFFLINE_AFTER_S + NOTICE_S),
        (NodeRecord(1, 0.0, 1000.0, orderly=True), NOTICE_S),
        (NodeRecord(1, 0.0, 900.0), 0.0),
        (NodeRecord(1, 0.0, 970.0), OFFLINE_AFTER_S + NOTICE_S - 30),
        (NodeRecord(1, 0.0, 9000.0), OFFLINE_AFTER_S + NOTICE_S),  # the clock was set back
    ],
)
def test_the_next_node_waits_until_the_server_has_seen_the_gap(
    record: NodeRecord, wait_s: float
) -> None:
    assert record.wait_s(now=1000.0) == wait_s


@pytest.fixture
def node(
    monkeypatch: pytest.MonkeyPatch, federation: Federation, site: Configure
) -> Callable[[str], SiteConfig]:
    """Return the configuration of a site whose SuperNode is a script."""
    monkeypatch.setattr(supernode, "NOTICE_S", 0.0)
    monkeypatch.setattr(supernode, "APP_STOP_TIMEOUT_S", 0.2)  # ours does not notice

    def configure(script: str) -> SiteConfig:
        config = site(free_ports(1)[0])
        script = script.replace("READY", repr(str(config.node_folder / "ready")))
        monkeypatch.setattr(supernode, "command", lambda *_: [sys.executable, "-c", script])
        monkeypatch.setattr(supernode, "app_command", lambda *_: [sys.executable, "-c", APP])
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


def test_what_an_app_has_started_ends_with_it(
    node: Callable[[str], SiteConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when it is stopped while a process of its own imports PyTorch, which holds the log."""
    config = node(JOINS + WAITS)
    number, ready = tmp_path / "number", tmp_path / "ready"
    app = (
        "import pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(number)!r}).write_text(str(child.pid))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(600)"
    )
    monkeypatch.setattr(supernode, "app_command", lambda *_: [sys.executable, "-c", app])

    def stop() -> None:
        until(ready.exists)
        stop_once_it_runs(config)

    threading.Thread(target=stop, daemon=True).start()
    supernode.start(config)
    with suppress(psutil.NoSuchProcess):
        child = psutil.Process(int(number.read_text()))
        until(lambda: child.status() == psutil.STATUS_ZOMBIE)  # nobody collects it at once


def test_a_stop_while_the_node_starts_leaves_no_process_behind(
    node: Callable[[str], SiteConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = node(JOINS + WAITS)
    started = []
    start_process = supernode._start_process

    def start_and_stop(words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        process = start_process(words, environment)
        started.append(process)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(supernode, "_start_process", start_and_stop)
    supernode.start(config)
    assert [process.poll() is not None for process in started] == [True, True]
    assert not supernode.is_running(config)


def test_a_node_that_ends_by_itself_is_an_error(node: Callable[[str], SiteConfig]) -> None:
    config = node(JOINS)
    with pytest.raises(RunError, match="ended by itself"):
        supernode.start(config)
    record = supernode.read_record(config)
    assert record is not None
    assert record.wait_s(time.time()) > OFFLINE_AFTER_S - 10


def test_a_record_that_cannot_be_written_is_no_end(
    node: Callable[[str], SiteConfig],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As with a full disk: SuperNode and app would live on, and nobody would know of them."""
    monkeypatch.setattr(supernode, "RECORD_INTERVAL_S", 0.05)
    config = node(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + JOINS + WAITS
    )
    (config.node_folder / "node.json").mkdir(parents=True)
    (config.node_folder / "node.json" / "in the way").touch()
    monkeypatch.setattr(supernode, "read_record", lambda config: None)

    def stop() -> None:
        until((config.node_folder / "ready").exists)
        time.sleep(0.2)  # some more records
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    supernode.start(config)
    # Once while it runs, and once for its end.
    assert capfd.readouterr().out.count("node.json: is a directory") == 2


def test_a_node_without_its_app_stops_in_order(
    node: Callable[[str], SiteConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = node(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + JOINS + WAITS
    )
    app = f"import os, time\nwhile not os.path.exists({str(config.node_folder / 'ready')!r}):\n"
    app += "    time.sleep(0.05)\nraise SystemExit('error: too busy')"
    monkeypatch.setattr(supernode, "app_command", lambda *_: [sys.executable, "-c", app])
    with pytest.raises(RunError, match="the app's process ended by itself"):
        supernode.start(config)
    record = supernode.read_record(config)
    assert record is not None
    assert record.orderly


def test_a_node_that_was_refused_leaves_the_record_as_it_was(
    node: Callable[[str], SiteConfig],
) -> None:
    config = node("")  # Flower ends with 0 after a refusal
    config.node_folder.mkdir(parents=True)
    before = NodeRecord(1, 0.0, 1000.0)
    (config.node_folder / "node.json").write_text(json.dumps(vars(before)))
    with pytest.raises(RunError, match="did not admit site alpha"):
        supernode.start(config)
    assert supernode.read_record(config) == before


def test_a_port_that_is_taken_is_not_called_a_refusal_of_the_server(
    node: Callable[[str], SiteConfig],
) -> None:
    config = node(JOINS)
    taken = pytest.raises(RunError, match=rf"port {config.port} .*: set another port in site.toml")
    with socket.create_server(("127.0.0.1", config.port)), taken:
        supernode.start(config)
    assert supernode.read_record(config) is None


def test_flower_is_given_what_the_site_has_of_its_own(
    site: Callable[[int], SiteConfig], tmp_path: Path
) -> None:
    config = site(1)
    own = {"init_weights": tmp_path / "w", "gpu_share": 0.25}

    def node_config(config: SiteConfig) -> dict[str, object]:
        words = supernode.command(config, tmp_path / "secret")
        return parse_config_args([words[words.index("--node-config") + 1]])

    plain, chosen = node_config(config), node_config(config.model_copy(update=own))
    assert plain["data-dir"] == str(config.data_dir)
    assert dict(chosen.items() - plain.items()) == {
        "init-weights": str(tmp_path / "w"),
        "gpu-share": 0.25,
    }


@pytest.mark.parametrize("ahead_s", [-400, 30, 3e8])
def test_a_wrong_clock_is_refused_before_flower_starts(
    node: Callable[[str], SiteConfig],
    serve: Callable[..., int],
    federation: Federation,
    ahead_s: float,
) -> None:
    config = node(WAITS)
    port = serve(federation.folder / "server", clock_s=-ahead_s)
    with pytest.raises(RunError, match=r"this machine's clock is \d+ s (ahead of|behind) the serv"):
        supernode.start(config.model_copy(update={"server": f"127.0.0.1:{port}"}))
    assert supernode.read_record(config) is None


def test_a_server_of_another_authority_is_refused_before_flower_starts(
    node: Callable[[str], SiteConfig], serve: Callable[..., int], tmp_path: Path
) -> None:
    config = node(WAITS)
    other = init_federation(tmp_path / "other", ["127.0.0.1"], 443, [])
    port = serve(other.folder / "server")
    with pytest.raises(UntrustedServerError, match="is not trusted: "):
        supernode.start(config.model_copy(update={"server": f"127.0.0.1:{port}"}))
    assert supernode.read_record(config) is None
    assert not supernode.is_running(config)


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
    assert "already runs" in str(failures[0])
    record = supernode.read_record(config)
    assert record is not None
    assert not record.orderly  # it did not tell the server


def test_a_node_with_a_new_key_does_not_wait_for_the_old_one(
    node: Callable[[str], SiteConfig], capfd: pytest.CaptureFixture[str]
) -> None:
    config = node(JOINS)
    config.node_folder.mkdir(parents=True)
    record = NodeRecord(1, 0.0, time.time(), key="SHA256:another")
    (config.node_folder / "node.json").write_text(json.dumps(vars(record)))
    with pytest.raises(RunError, match="ended by itself"):
        supernode.start(config)
    assert "waiting" not in capfd.readouterr().out
    ended = supernode.read_record(config)
    assert ended is not None
    assert ended.key.startswith("SHA256:")
    assert ended.key != record.key


def test_a_node_without_its_app_is_named(node: Callable[[str], SiteConfig]) -> None:
    config = node("")
    config.node_folder.mkdir(parents=True)
    for separate in (True, False):
        record = NodeRecord(1, 0.0, time.time(), separate=separate)
        (config.node_folder / "node.json").write_text(json.dumps(vars(record)))
        assert supernode.lacks_app(config) is separate
        assert ("app: not running" in list(supernode.status(config).lines())) is separate


def test_a_damaged_record_counts_as_a_kill(node: Callable[[str], SiteConfig]) -> None:
    config = node("")
    config.node_folder.mkdir(parents=True)
    (config.node_folder / "node.json").write_text("{")
    record = supernode.read_record(config)
    assert record is not None
    assert record.wait_s(time.time()) > 0


def test_a_node_outlives_a_killed_supervisor_and_still_counts_as_running(
    node: Callable[[str], SiteConfig], federation: Federation
) -> None:
    config = node("")
    site_file = federation.folder / "sites" / "alpha" / "site.toml"
    ready = config.node_folder / "ready"
    supervisor = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SUPERVISOR,
            site_file,
            JOINS + WAITS.replace("READY", repr(str(ready))),
        ]
    )
    wait_until_running(config)
    until((config.node_folder / "node.json").exists)
    supervisor.kill()
    supervisor.wait()
    record = supernode.read_record(config)
    assert record is not None
    try:
        assert not is_locked(config.node_folder / "node.lock")
        assert supernode.is_running(config)
        assert f"process {record.pid}" in next(supernode.status(config).lines())
        with pytest.raises(RunError, match="already runs"):
            supernode.start(config)
    finally:
        os.kill(record.pid, signal.SIGKILL)
    until(lambda: not supernode.is_running(config))


def test_another_process_with_the_number_of_the_node_is_not_the_node(
    node: Callable[[str], SiteConfig],
) -> None:
    config = node("")
    config.node_folder.mkdir(parents=True)
    here = psutil.Process()
    for started, running in ((here.create_time(), True), (here.create_time() - 60.0, False)):
        record = NodeRecord(here.pid, started, time.time())
        (config.node_folder / "node.json").write_text(json.dumps(vars(record)))
        assert supernode.is_running(config) is running


def test_the_status_as_json(
    node: Callable[[str], SiteConfig],
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = node("")
    folder = config.state_dir / "7" / "alpha"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    site_file = federation.folder / "sites" / "alpha" / "site.toml"
    assert rsdgc(monkeypatch, "site", "status", "--config", site_file, "--json") == 1
    output = capsys.readouterr()
    status = json.loads(output.out)
    assert (status["site"], status["running"], status["process"]) == ("alpha", False, None)
    assert [state["run"] for state in status["states"]] == ["7"]
    assert "is not running" in output.err


def test_a_state_whose_lock_cannot_be_read_is_not_called_at_work(
    node: Callable[[str], SiteConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = node("")
    folder = config.state_dir / "7" / "alpha"
    folder.mkdir(parents=True)
    (folder / "lock").touch()

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("clients.state_cleanup.is_locked", refuse)
    *_, line = supernode.status(config).lines()
    assert line == "run 7: lock cannot be read (Permission denied), 0.0 MB kept"


def wait_until_running(config: SiteConfig) -> None:
    until((config.node_folder / "ready").exists)


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def stop_once_it_runs(config: SiteConfig) -> None:
    wait_until_running(config)
    os.kill(os.getpid(), signal.SIGTERM)
