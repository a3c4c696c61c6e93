"""A site's SuperNode: started once the server can have noticed the end of the one before.

Flower admits a node only while it considers the site offline: at once after an orderly end, but a
minute after the last sign of life of a node that was killed. A message that the killed node had
received is answered with an error only while the site is offline. A node that came back at the
wrong moment would therefore leave its round waiting for a reply until ``round-timeout-s``. So this
module records the last sign of life, and starts the next node when the server has seen the gap.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

import psutil
from filelock import FileLock, Timeout

from clients.state_cleanup import find_states
from fl_app.deploy.checks import describe_data
from fl_app.deploy.credentials import read_private
from fl_app.deploy.endpoint import UntrustedServerError
from fl_app.deploy.party_config import SiteConfig
from fl_app.flower.log_filter import clean_log_line
from fl_app.flower.superlink import flower_environment, tool
from rsdgc.durable import is_locked, replace_text
from rsdgc.errors import RunError, SettingError

RECORD_FILE = "node.json"
LOCK_FILE = "node.lock"
OFFLINE_AFTER_S = 60.0
"""Flower considers a SuperNode offline this long after its last sign of life."""
NOTICE_S = 5.0
"""Time for the server to notice that a node is offline: it looks every two seconds."""
RECORD_INTERVAL_S = 2.0
"""Between two updates of the record. A killed node may have lived so much longer; NOTICE_S allows
for it."""
STOP_TIMEOUT_S = 20.0
"""For an orderly stop. The systemd unit kills everything after 30 s."""
LOCK_TIMEOUT_S = 1.0
"""A probe (:func:`rsdgc.durable.is_locked`) holds the lock for an instant; this outlasts it."""
CREATE_TIME_TOLERANCE_S = 2.0
"""Two readings of one create time differ if the clock was corrected between them."""
_ADMITTED = b"SuperNode ID:"
"""What a SuperNode logs once the server has admitted it."""


@dataclass(frozen=True)
class NodeRecord:
    """The last SuperNode of a site, as ``node.json`` in the state folder describes it."""

    pid: int
    started: float
    """Create time of the process, seconds since 1970."""
    seen: float
    """When it was last seen running, seconds since 1970."""
    orderly: bool = False
    """Whether it has ended and reported its end to the server."""

    def wait_s(self, now: float) -> float:
        """Return how many seconds to wait before another SuperNode may start."""
        longest = NOTICE_S + OFFLINE_AFTER_S
        due = self.seen + (NOTICE_S if self.orderly else longest)
        # No longer than the longest wait, even if the clock has been set back since.
        return min(max(0.0, due - now), longest)

    def is_alive(self) -> bool:
        """Return whether the process still runs; a new process may have the same number."""
        try:
            process = psutil.Process(self.pid)
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and abs(process.create_time() - self.started) < CREATE_TIME_TOLERANCE_S
            )
        except (psutil.Error, ValueError):  # gone, not ours, or not the number of a process
            return False


def start(config: SiteConfig) -> None:
    """Run this site's SuperNode until it is told to stop, and print its log."""
    read_private(config.private_key)
    data = describe_data(config)
    with _hold_site(config):
        print(f"site {config.name}: {data}", flush=True)
        try:
            config.server_endpoint.health()
        except UntrustedServerError:
            raise  # another server answers
        except RunError as error:
            # The right server may start later, and Flower waits for it.
            print(f"{error}; retrying", flush=True)
        previous = read_record(config)
        wait_s = 0.0 if previous is None else previous.wait_s(time.time())
        if wait_s > 0:
            reason = "the server must notice that the last node is gone"
            print(f"waiting {wait_s:.0f} s: {reason}", flush=True)
            time.sleep(wait_s)
        _run(config, previous)


def command(config: SiteConfig) -> list[str]:
    """Return the command that runs the SuperNode."""
    node = (
        f'site-name="{config.name}" data-dir="{config.data_dir}" state-dir="{config.state_dir}" '
        f'code-dir="{config.code_dir}"'
    )
    if config.init_weights is not None:
        node += f' init-weights="{config.init_weights}"'
    return [
        tool("flower-supernode"),
        *("--superlink", config.server, "--root-certificates", str(config.ca_certificate)),
        *("--auth-supernode-private-key", str(config.private_key)),
        *("--host", "127.0.0.1", "--port", str(config.port), "--node-config", node),
    ]


def read_record(config: SiteConfig) -> NodeRecord | None:
    """Return the record of the last SuperNode; None if there was none.

    A damaged record stands for a node that was killed when the file was last written.
    """
    path = config.state_dir / RECORD_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return NodeRecord(
            int(values["pid"]), float(values["started"]), float(values["seen"]), values["orderly"]
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return NodeRecord(pid=0, started=0.0, seen=path.stat().st_mtime)


def is_running(config: SiteConfig) -> bool:
    """Return whether a SuperNode of this site runs on this machine, or is about to."""
    return is_locked(config.state_dir / LOCK_FILE) or _recorded_node_is_alive(config)


def status(config: SiteConfig) -> Iterator[str]:
    """Yield lines about the SuperNode, the server, and the states of runs at this site."""
    record = read_record(config)
    if is_running(config) and record is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
        yield f"site {config.name}: running since {since}, process {record.pid}"
    else:
        yield f"site {config.name}: not running"
    try:
        reply = config.server_endpoint.health()
        yield f"server {config.server}: answers with status {reply.status}"
    except RunError as error:
        yield f"server {config.server}: {error}"
    for state in find_states(config.state_dir) if config.state_dir.is_dir() else ():
        worked = f"last worked {state.age_s / 60:.0f} min ago"
        activity = state.problem or ("at work" if state.in_use else worked)
        yield f"run {state.run}: {activity}, {state.num_bytes / 1e6:.1f} MB kept"


def _run(config: SiteConfig, previous: NodeRecord | None) -> None:
    """Run the SuperNode to its end; raise :class:`RunError` if nobody told it to stop."""
    environment = flower_environment(config.state_dir / "flower")
    Path(environment["FLWR_HOME"]).mkdir(exist_ok=True)
    node = subprocess.Popen(  # noqa: S603  # our own command, no shell
        command(config), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    record = NodeRecord(node.pid, psutil.Process(node.pid).create_time(), time.time())
    admitted, stop_requested = threading.Event(), threading.Event()
    # A thread of its own: the log must be read on while the record is kept.
    log = threading.Thread(target=_forward_log, args=(node, admitted), daemon=True)
    log.start()

    def stop(_: int, __: FrameType | None) -> None:
        stop_requested.set()
        with suppress(ProcessLookupError):
            node.send_signal(signal.SIGTERM)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _keep_record(config, node, record, stop_requested)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    log.join(STOP_TIMEOUT_S)  # processes of a killed node may hold its log open a little longer
    orderly = stop_requested.is_set() and node.returncode == 0
    ended = replace(record, seen=time.time(), orderly=orderly)
    if not admitted.is_set():
        # The server never saw this node. A gap that it must notice began with the previous one.
        ended = previous or replace(ended, orderly=True)
    _write_record(config, ended)
    if stop_requested.is_set():
        return
    # Flower's exit code does not tell: it is 0 even after a refusal.
    raise RunError(
        f"site {config.name}: the SuperNode ended by itself, see its log above"
        if admitted.is_set()
        else f"the server did not admit site {config.name}: check that its key is registered "
        "(rsdgc server register) and that no other machine uses it"
    )


def _forward_log(node: subprocess.Popen[bytes], admitted: threading.Event) -> None:
    """Print the SuperNode's log; set the event once the server has admitted the node."""
    assert node.stdout is not None
    with node.stdout as log:
        for line in log:
            if _ADMITTED in line:
                admitted.set()
            print(clean_log_line(line.decode(errors="replace")), flush=True)


def _keep_record(
    config: SiteConfig,
    node: subprocess.Popen[bytes],
    record: NodeRecord,
    stop_requested: threading.Event,
) -> None:
    """Keep the record up to date until the node ends; kill a node that does not stop in time."""
    kill_at: float | None = None
    while node.poll() is None:
        now = time.time()
        _write_record(config, replace(record, seen=now))
        if stop_requested.is_set():
            kill_at = kill_at or now + STOP_TIMEOUT_S
            if now > kill_at:
                node.kill()
        with suppress(subprocess.TimeoutExpired):
            node.wait(0.2 if stop_requested.is_set() else RECORD_INTERVAL_S)


@contextmanager
def _hold_site(config: SiteConfig) -> Iterator[None]:
    """Hold the site's lock; refuse if another SuperNode of the site runs.

    The lock ends with the process that holds it. A SuperNode whose ``rsdgc site start`` was killed
    lives on without it, and is found by the record.
    """
    lock = FileLock(config.state_dir / LOCK_FILE, timeout=LOCK_TIMEOUT_S)
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _already_running(config) from None
    except OSError as error:
        raise SettingError(
            f"cannot write to state-dir {config.state_dir} ({error.strerror}): make the user that "
            "runs rsdgc its owner"
        ) from None
    try:
        if _recorded_node_is_alive(config):
            raise _already_running(config)
        yield
    finally:
        lock.release()


def _recorded_node_is_alive(config: SiteConfig) -> bool:
    record = read_record(config)
    return record is not None and record.is_alive()


def _already_running(config: SiteConfig) -> RunError:
    return RunError(
        f"a SuperNode of site {config.name} already runs with {config.state_dir}: see rsdgc site "
        "status"
    )


def _write_record(config: SiteConfig, record: NodeRecord) -> None:
    replace_text(config.state_dir / RECORD_FILE, json.dumps(asdict(record)))
