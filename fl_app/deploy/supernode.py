"""A site's SuperNode: started when the server can notice that an earlier one is gone, and watched.

Flower lets a node in only once it takes it for offline: at once after an orderly end, a minute
after the last sign of life of one that was killed. A message that the killed one had received is
answered with an error only while the node is offline. So a node that came back at the wrong moment
would leave its round waiting for a reply until the round's time-out. This module keeps a record of
the last sign of life, and starts the next node when the server has had time to see the gap.
"""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from clients.state_cleanup import find_states
from fl_app.deploy.endpoint import UntrustedError
from fl_app.deploy.node_keys import read_private
from fl_app.deploy.party_config import SiteConfig
from fl_app.deploy.site_checks import describe_data, endpoint
from fl_app.flower.superlink import flower_environment, tool
from rsdgc.durable import is_locked, replace_text
from rsdgc.errors import RunError, SettingError

LOST_AFTER_S = 60.0
"""A SuperNode without a sign of life for so long is offline to Flower."""
SEEN_AFTER_S = 5.0
"""Time that a server needs to notice that a node is offline: it looks every two seconds."""
BEAT_S = 2.0
STOP_TIMEOUT_S = 20.0
_LET_IN = b"SuperNode ID:"
"""What a SuperNode logs once the server has let it in."""


@dataclass(frozen=True)
class NodeRecord:
    """What is known of a site's SuperNode, as ``node.json`` in its state folder has it.

    Attributes
    ----------
    pid : int
        Of the SuperNode.
    started, seen : float
        When it was started, and last seen running; seconds since 1970.
    orderly : bool
        Whether it has ended, and told the server so.
    """

    pid: int
    started: float
    seen: float
    orderly: bool = False

    def wait_s(self, now: float) -> float:
        """Return how long to wait before another may be started."""
        due = self.seen + SEEN_AFTER_S + (0.0 if self.orderly else LOST_AFTER_S)
        return min(max(0.0, due - now), LOST_AFTER_S + SEEN_AFTER_S)


def start(config: SiteConfig) -> None:
    """Run this site's SuperNode until it ends or is told to; its log goes to standard output.

    Raises
    ------
    RsdgcError
        The key, the data or the server cannot be used, or a SuperNode runs here already.
    RunError
        The SuperNode ended by itself.
    """
    read_private(config.private_key)
    described = describe_data(config)
    with _alone(config) as lock:
        print(f"site {config.name}: {described}", flush=True)
        _check_server(config)
        before = read_record(config)
        if before is not None and (pause := before.wait_s(time.time())) > 0:
            print(
                f"waiting {pause:.0f} s: the server must see that the last node is gone", flush=True
            )
            time.sleep(pause)
        _run(config, lock, before)


def command(config: SiteConfig) -> list[str]:
    """Return the command that runs the SuperNode."""
    node = f'site-name="{config.name}" data-dir="{config.data_dir}" state-dir="{config.state_dir}"'
    return [
        tool("flower-supernode"),
        *("--superlink", config.server, "--root-certificates", str(config.ca_certificate)),
        *("--auth-supernode-private-key", str(config.private_key)),
        *("--host", "127.0.0.1", "--port", str(config.port), "--node-config", node),
    ]


def read_record(config: SiteConfig) -> NodeRecord | None:
    """Return what is known of the last SuperNode here, if anything."""
    try:
        return NodeRecord(**json.loads(_record_path(config).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return NodeRecord(0, 0.0, _record_path(config).stat().st_mtime)  # damaged


def is_running(config: SiteConfig) -> bool:
    """Return whether a SuperNode of this site runs on this machine."""
    return is_locked(_lock_path(config))


def status(config: SiteConfig) -> Iterator[str]:
    """Say in a few lines how this site's SuperNode does."""
    record = read_record(config)
    if is_running(config) and record is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
        yield f"site {config.name}: running since {since}, process {record.pid}"
    else:
        yield f"site {config.name}: not running"
    try:
        answer = endpoint(config).health()
        yield f"server {config.server}: answers with status {answer.status}"
    except RunError as error:
        yield f"server {config.server}: {error}"
    for state in find_states(config.state_dir) if config.state_dir.is_dir() else ():
        doing = "at work" if state.in_use else f"last worked {state.age_s / 60:.0f} min ago"
        yield f"run {state.run}: {doing}, {state.num_bytes / 1e6:.1f} MB kept"


def _run(config: SiteConfig, lock: IO[bytes], before: NodeRecord | None) -> None:
    environment = flower_environment(config.state_dir / "flower")
    Path(environment["FLWR_HOME"]).mkdir(exist_ok=True)
    node = subprocess.Popen(  # noqa: S603  # our own command, no shell
        command(config),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock.fileno(),),
    )
    joined, told = threading.Event(), threading.Event()
    log = threading.Thread(target=_pass_on, args=(node, joined), daemon=True)
    log.start()

    def stop(_: int, __: FrameType | None) -> None:
        told.set()
        with suppress(ProcessLookupError):
            node.send_signal(signal.SIGTERM)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _watch(config, node, told)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    log.join(STOP_TIMEOUT_S)  # processes of a killed node may hold its log a little longer
    now = time.time()
    if joined.is_set():
        orderly = told.is_set() and node.returncode == 0
        _write_record(config, NodeRecord(node.pid, now, now, orderly))
    else:  # it never was there: the gap, if any, began before it
        _write_record(config, before or NodeRecord(node.pid, now, now, orderly=True))
    if told.is_set():
        return
    # Flower ends with 0 even when the server has refused it.
    raise RunError(
        f"site {config.name}: the SuperNode ended by itself, see its log above"
        if joined.is_set()
        else f"site {config.name} was not let in: is this its registered key (rsdgc server "
        "register), and does no other machine use it?"
    )


def _pass_on(node: subprocess.Popen[bytes], joined: threading.Event) -> None:
    """Pass the SuperNode's log through; note when the server has let it in."""
    assert node.stdout is not None
    with node.stdout as log:
        for line in log:
            if _LET_IN in line:
                joined.set()
            print(line.decode(errors="replace"), end="", flush=True)


def _watch(config: SiteConfig, node: subprocess.Popen[bytes], told: threading.Event) -> None:
    """Keep the record up to date until the node has ended; one that will not stop is killed."""
    started = time.time()
    give_up: float | None = None
    while node.poll() is None:
        now = time.time()
        _write_record(config, NodeRecord(node.pid, started, now))
        if told.is_set():
            give_up = give_up or now + STOP_TIMEOUT_S
            if now > give_up:
                node.kill()
        with suppress(subprocess.TimeoutExpired):
            node.wait(0.2 if told.is_set() else BEAT_S)


def _check_server(config: SiteConfig) -> None:
    """Refuse a server that is not the federation's; one that does not answer may come later."""
    try:
        endpoint(config).health()
    except UntrustedError:
        raise
    except RunError as error:
        print(f"{error}; trying on", flush=True)


@contextmanager
def _alone(config: SiteConfig) -> Iterator[IO[bytes]]:
    """Hold the site's lock, which the SuperNode inherits: it lasts while either lives."""
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock_path(config).open("ab")
    except OSError as error:
        raise SettingError(
            f"state-dir {config.state_dir} cannot be written ({error.strerror}): let the user that "
            "runs rsdgc own it"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"a SuperNode of site {config.name} runs already with {config.state_dir}: see "
                "rsdgc site status"
            ) from None
        yield lock


def _write_record(config: SiteConfig, record: NodeRecord) -> None:
    replace_text(_record_path(config), json.dumps(asdict(record)))


def _record_path(config: SiteConfig) -> Path:
    return config.state_dir / "node.json"


def _lock_path(config: SiteConfig) -> Path:
    return config.state_dir / "node.lock"
