"""A site's SuperNode, which has the site's key and speaks to the server.

:func:`start` runs it, and beside it the app (:mod:`fl_app.deploy.site_app`), which can then read
the key; or the app runs on its own, as another user: it sees neither key nor network, only the
data.

The SuperNode is started once the server can have noticed the end of the one before. Flower admits
a node only while it considers the site offline: at once after an orderly end, but a minute after
the last sign of life of a node that was killed. A message that the killed node had received is
answered with an error only while the site is offline. A node that came back at the wrong moment
would therefore leave its round waiting for a reply until ``round-timeout-s``. So this module
records the last sign of life, and starts the next node when the server has seen the gap.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from clients.state_cleanup import FoundState, find_states
from fl_app.deploy.checks import check_clock, describe_data
from fl_app.deploy.credentials import fingerprint, read_private, read_secret
from fl_app.deploy.endpoint import UntrustedServerError, refuse_taken_port
from fl_app.deploy.party_config import SiteConfig
from fl_app.deploy.site_app import (
    LOCK_TIMEOUT_S,
    LOOPBACK,
    StopRequest,
    app_command,
    app_is_running,
    app_secret,
    not_writable,
    on_stop,
)
from fl_app.flower.log_filter import clean_log_line
from fl_app.flower.superlink import flower_environment, tool
from rsdgc.documents import read_json
from rsdgc.durable import is_locked, replace_text
from rsdgc.errors import RunError, describe_os_error

RECORD_FILE = "node.json"
LOCK_FILE = "node.lock"
APP_SECRET_FILE = "app.secret"  # noqa: S105  # a file's name
NOTICE_S = 5.0
"""Time for the server to notice that a node is offline: it looks every two seconds."""
RECORD_INTERVAL_S = 2.0
"""Between two updates of the record. A killed node may have lived so much longer; NOTICE_S allows
for it."""
APP_STOP_TIMEOUT_S = 8.0
"""For an app to end in order: its work on a message is ended, too, which may take 5 s."""
STOP_TIMEOUT_S = 20.0
"""For an orderly stop. The systemd unit kills everything after 30 s."""
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
    separate: bool = False
    """Whether the app was a process of its own (:func:`fl_app.deploy.site_app.start_app`)."""
    key: str = ""
    """Fingerprint of the key with which it ran; empty if unknown."""

    def wait_s(self, now: float) -> float:
        """Return how many seconds to wait before another SuperNode may start."""
        longest = NOTICE_S + offline_after_s()
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


def offline_after_s() -> float:
    """Return how long after its last sign of life Flower considers a SuperNode offline."""
    from flwr.common.constant import (  # noqa: PLC0415  # imports all of Flower
        HEARTBEAT_DEFAULT_INTERVAL,
        HEARTBEAT_PATIENCE,
    )

    return float(HEARTBEAT_DEFAULT_INTERVAL * HEARTBEAT_PATIENCE)


def start(config: SiteConfig, *, with_app: bool = True, listen: str = LOOPBACK) -> None:
    """Run this site's SuperNode until it is told to stop, and print its log.

    Parameters
    ----------
    with_app : bool
        Whether to run the app, too. Otherwise :func:`fl_app.deploy.site_app.start_app` must.
    listen : str
        Address on which the SuperNode serves the app.
    """
    key = fingerprint(read_private(config.private_key).public_key())
    if with_app:
        about = describe_data(config)
    else:
        read_secret(app_secret(config))
        about = "the app is a process of its own (rsdgc site start-app)"
    with _hold_site(config):
        print(f"site {config.name}: {about}", flush=True)
        try:
            reply = config.server_endpoint.health()
        except UntrustedServerError:
            # Another server answers, or the clock is so far off that no certificate is valid.
            _refuse_wrong_clock(config.server_endpoint.clock_ahead_s())
            raise
        except RunError as error:
            # The right server may start later, and Flower waits for it.
            print(f"{error}; retrying", flush=True)
        else:
            _refuse_wrong_clock(reply.clock_ahead_s)
        previous = read_record(config)
        if previous is not None and previous.key not in ("", key):
            previous = None  # to the server, a node with a new key is another node
        wait_s = 0.0 if previous is None else previous.wait_s(time.time())
        if wait_s > 0:
            reason = "the server must notice that the last node is gone"
            print(f"waiting {wait_s:.0f} s: {reason}", flush=True)
            time.sleep(wait_s)
        remedy = "set another port in site.toml; every site on a machine needs its own"
        refuse_taken_port(listen, config.port, remedy)
        secret = _make_secret(config) if with_app else app_secret(config)
        words = command(config, secret, listen)
        node = LOOPBACK if listen in ("0.0.0.0", "::") else listen  # noqa: S104
        app_words = app_command(config, secret, node) if with_app else None
        _run(config, words, app_words, key, previous)


def _refuse_wrong_clock(ahead_s: float | None) -> None:
    """Raise :class:`RunError` if Flower would refuse what this machine signs, without a word."""
    clock = check_clock(ahead_s)
    if clock.status == "FAILED":
        raise RunError(f"this machine's clock is {clock.detail}: {clock.remedy}")


def command(config: SiteConfig, secret: Path, listen: str = LOOPBACK) -> list[str]:
    """Return the command that runs the SuperNode, which serves an app that has the secret."""
    node = (
        f'site-name="{config.name}" data-dir="{config.data_dir}" state-dir="{config.state_dir}" '
        f'code-dir="{config.code_dir}"'
    )
    if config.init_weights is not None:
        node += f' init-weights="{config.init_weights}"'
    if config.gpu_share is not None:
        node += f" gpu-share={config.gpu_share}"
    return [
        tool("flower-supernode"),
        *("--superlink", config.server, "--root-certificates", str(config.ca_certificate)),
        *("--auth-supernode-private-key", str(config.private_key)),
        *("--host", listen, "--port", str(config.port), "--node-config", node),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
    ]


def _make_secret(config: SiteConfig) -> Path:
    """Write a secret that is good for one start of SuperNode and app; return its file."""
    path = config.node_folder / APP_SECRET_FILE
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="ascii")
    return path


def read_record(config: SiteConfig) -> NodeRecord | None:
    """Return the record of the last SuperNode; None if there was none.

    A damaged record stands for a node that was killed when the file was last written.
    """
    path = config.node_folder / RECORD_FILE
    try:
        values = read_json(path)
        return NodeRecord(
            int(values["pid"]),
            float(values["started"]),
            float(values["seen"]),
            orderly=bool(values["orderly"]),
            separate=bool(values.get("separate", False)),
            key=str(values.get("key", "")),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return NodeRecord(pid=0, started=0.0, seen=path.stat().st_mtime)


def is_running(config: SiteConfig) -> bool:
    """Return whether a SuperNode of this site runs on this machine, or is about to."""
    return is_locked(config.node_folder / LOCK_FILE) or _recorded_node_is_alive(config)


def lacks_app(config: SiteConfig) -> bool:
    """Return whether the SuperNode needs an app in a process of its own, and has none."""
    record = read_record(config)
    return record is not None and record.separate and not app_is_running(config)


@dataclass(frozen=True)
class SiteStatus:
    """The SuperNode, the server, and the states of runs at this site."""

    site: str
    running: bool
    process: int | None  #: number of the SuperNode's process; None if it does not run
    started: float | None  #: seconds since 1970; None if it does not run
    #: whether the app runs in a process of its own; None if it has none
    app_running: bool | None
    server: str
    server_state: str  #: how it answers, or why it does not
    states: list[FoundState]

    def lines(self) -> Iterator[str]:
        """Yield the status as lines."""
        if self.started is None:
            yield f"site {self.site}: not running"
        else:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
            yield f"site {self.site}: running since {since}, process {self.process}"
        if self.app_running is not None:
            yield f"app: {'running' if self.app_running else 'not running'}"
        yield f"server {self.server}: {self.server_state}"
        for state in self.states:
            worked = f"last worked {state.age_s / 60:.0f} min ago"
            activity = state.problem or ("at work" if state.in_use else worked)
            yield f"run {state.run}: {activity}, {state.num_bytes / 1e6:.1f} MB kept"


def status(config: SiteConfig) -> SiteStatus:
    """Return what goes on at this site."""
    record = read_record(config)
    running = is_running(config)
    known = record if running else None
    try:
        server_state = f"answers with status {config.server_endpoint.health().status}"
    except RunError as error:
        server_state = str(error)
    return SiteStatus(
        site=config.name,
        running=running,
        process=None if known is None else known.pid,
        started=None if known is None else known.started,
        app_running=app_is_running(config) if record is not None and record.separate else None,
        server=str(config.server),
        server_state=server_state,
        states=find_states(config.state_dir) if config.state_dir.is_dir() else [],
    )


def _run(
    config: SiteConfig,
    words: list[str],
    app_words: list[str] | None,
    key: str,
    previous: NodeRecord | None,
) -> None:
    """Run the SuperNode to its end; raise :class:`RunError` if nobody told it to stop."""
    environment = flower_environment(config.node_folder / "flower")
    Path(environment["FLWR_HOME"]).mkdir(exist_ok=True)
    admitted = threading.Event()
    with on_stop() as stop:
        node = _start_process(words, environment)
        stop.pass_on_to(node)
        record = NodeRecord(node.pid, psutil.Process(node.pid).create_time(), time.time())
        record = replace(record, separate=app_words is None, key=key)
        app = None
        if app_words is not None:
            app = _start_process([*app_words, "--parent-pid", str(node.pid)], environment)
        # Threads of their own: the logs must be read on while the record is kept.
        logs = [_forward_log(process, admitted) for process in (node, app) if process is not None]
        app_ended = _keep_record(config, node, app, record, stop)
    if app is not None:
        _end(app)
    for log in logs:
        log.join(STOP_TIMEOUT_S)  # processes of a killed node may hold its log open a little longer
    orderly = (stop.received or app_ended) and node.returncode == 0
    ended = replace(record, seen=time.time(), orderly=orderly)
    if not admitted.is_set():
        # The server never saw this node. A gap that it must notice began with the previous one.
        ended = previous or replace(ended, orderly=True)
    _write_record(config, ended)
    if stop.received:
        return
    # Flower's exit code does not tell: it is 0 even after a refusal.
    if not admitted.is_set():
        raise RunError(
            f"the server did not admit site {config.name}: check that its key is registered "
            "(rsdgc server register) and that no other machine uses it"
        )
    if app_ended:
        raise RunError(f"site {config.name}: the app's process ended by itself, see its log above")
    raise RunError(
        f"site {config.name}: the SuperNode ended by itself, see its log above. If that names no "
        "cause, the server has withdrawn this site's key (rsdgc server revoke): ask its operator"
    )


def _start_process(words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own: Ctrl-C reaches this process, which ends all."""
    return subprocess.Popen(  # noqa: S603  # our own command, no shell
        words,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _end(app: subprocess.Popen[bytes]) -> None:
    """Wait until the app has noticed that its SuperNode has ended; end it if it does not.

    What it has started is ended, too: a process that still imports PyTorch would hold the log open.
    """
    for stop in (app.terminate, app.kill):
        try:
            app.wait(APP_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            stop()
    app.wait()
    with suppress(ProcessLookupError):
        os.killpg(app.pid, signal.SIGKILL)


def _forward_log(process: subprocess.Popen[bytes], admitted: threading.Event) -> threading.Thread:
    """Print a process's log; set the event once the server has admitted the node."""

    def forward() -> None:
        assert process.stdout is not None
        with process.stdout as log:
            for line in log:
                if _ADMITTED in line:
                    admitted.set()
                print(clean_log_line(line.decode(errors="replace")), flush=True)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    return thread


def _keep_record(
    config: SiteConfig,
    node: subprocess.Popen[bytes],
    app: subprocess.Popen[bytes] | None,
    record: NodeRecord,
    stop: StopRequest,
) -> bool:
    """Keep the record up to date until the node ends; return whether the app ended before it.

    A node without its app is told to stop, and one that does not stop in time is killed.
    """
    kill_at: float | None = None
    app_ended = False
    is_written = True
    while node.poll() is None:
        now = time.time()
        is_written = _write_record(config, replace(record, seen=now), quiet=not is_written)
        if app is not None and app.poll() is not None and not app_ended:
            app_ended = not stop.received
            node.terminate()
        stopping = app_ended or stop.received
        if stopping:
            kill_at = kill_at or now + STOP_TIMEOUT_S
            if now > kill_at:
                node.kill()
        with suppress(subprocess.TimeoutExpired):
            node.wait(0.2 if stopping else RECORD_INTERVAL_S)
    return app_ended


@contextmanager
def _hold_site(config: SiteConfig) -> Iterator[None]:
    """Hold the site's lock; refuse if another SuperNode of the site runs.

    The lock ends with the process that holds it. A SuperNode whose ``rsdgc site start`` was killed
    lives on without it, and is found by the record.
    """
    lock = FileLock(config.node_folder / LOCK_FILE, timeout=LOCK_TIMEOUT_S)
    try:
        config.node_folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _already_running(config) from None
    except OSError as error:
        name = "state-dir" if config.node_dir is None else "node-dir"
        raise not_writable(name, config.node_folder, error) from None
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
        f"a SuperNode of site {config.name} already runs with {config.node_folder}: see rsdgc site "
        "status"
    )


def _write_record(config: SiteConfig, record: NodeRecord, *, quiet: bool = False) -> bool:
    """Write the record; return whether that worked, and warn if not, unless ``quiet``.

    A full disk must not end the site: without the record only its next start may come too early.
    """
    try:
        replace_text(config.node_folder / RECORD_FILE, json.dumps(asdict(record)))
    except OSError as error:
        if not quiet:
            print(f"warning: {describe_os_error(error)}; the site goes on", flush=True)
        return False
    return True
