"""A site's two processes: its SuperNode, and the app, which runs the server's code.

:func:`start` runs the SuperNode, which has the site's key and speaks to the server. It starts the
app as its child, which can read the key; or :func:`start_app` runs the app beside it, as another
user: it sees neither key nor network, only the data. Both meet on the loopback, where the site's
``app-secret`` admits the app alone.

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
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

import psutil
from filelock import FileLock, Timeout

from clients.state_cleanup import FoundState, find_states
from fl_app.deploy.checks import check_clock, describe_data
from fl_app.deploy.credentials import fingerprint, read_private, read_secret
from fl_app.deploy.endpoint import UntrustedServerError
from fl_app.deploy.party_config import SiteConfig
from fl_app.flower.log_filter import clean_log_line
from fl_app.flower.superlink import flower_environment, tool
from rsdgc.documents import read_json
from rsdgc.durable import is_locked, replace_text
from rsdgc.errors import RunError, SettingError

LOOPBACK = "127.0.0.1"
RECORD_FILE = "node.json"
LOCK_FILE = "node.lock"
APP_LOCK_FILE = "app.lock"
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
    separate: bool = False
    """Whether the app was a process of its own, which :func:`start_app` runs."""
    key: str = ""
    """Fingerprint of the key with which it ran; empty if unknown."""

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


def start(config: SiteConfig, *, with_app: bool = True, listen: str = LOOPBACK) -> None:
    """Run this site's SuperNode until it is told to stop, and print its log.

    Parameters
    ----------
    with_app : bool
        Whether the SuperNode starts the app itself. Otherwise :func:`start_app` must run, too.
    listen : str
        Address on which the SuperNode serves the app.
    """
    key = fingerprint(read_private(config.private_key).public_key())
    if with_app:
        about = describe_data(config)
    else:
        read_secret(_app_secret(config))
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
        _run(config, command(config, with_app=with_app, listen=listen), key, previous)


def _refuse_wrong_clock(ahead_s: float | None) -> None:
    """Raise :class:`RunError` if Flower would refuse what this machine signs, without a word."""
    clock = check_clock(ahead_s)
    if clock.status == "FAILED":
        raise RunError(f"this machine's clock is {clock.detail}: {clock.remedy}")


def start_app(config: SiteConfig, secret: Path | None = None, node: str = LOOPBACK) -> None:
    """Run the process that starts the app for every message, until it is told to stop.

    Parameters
    ----------
    secret : Path, optional
        This process's copy of ``app-secret``; by default the file itself.
    node : str
        Address at which the SuperNode serves the app.

    Raises
    ------
    SettingError
        The site has no ``app-secret``, it cannot be read, or the data cannot be used.
    RunError
        The app already runs, or its process ended by itself.
    """
    if secret is None:
        secret = _app_secret(config)
        read_secret(secret)
    elif not os.access(secret, os.R_OK):  # systemd's copy has an access list, not mode 0600
        raise SettingError(f"--secret {secret} cannot be read: name a copy of app-secret")
    print(f"site {config.name}: {describe_data(config)}", flush=True)
    if os.access(config.private_key, os.R_OK):
        print(
            f"warning: the app can read {config.private_key}: run this command as another user, "
            "as rsdgc-site-app.service does",
            flush=True,
        )
    environment = flower_environment(config.state_dir / "flower")
    lock = FileLock(config.state_dir / APP_LOCK_FILE, timeout=LOCK_TIMEOUT_S)
    try:
        Path(environment["FLWR_HOME"]).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"the app of site {config.name} already runs with {config.state_dir}") from (
            None
        )
    except OSError as error:
        raise _not_writable("state-dir", config.state_dir, error) from None
    with lock:
        starter = subprocess.Popen(app_command(config, secret, node), env=environment)  # noqa: S603
        with _on_stop(starter.terminate) as stop_requested:
            starter.wait()
    if not stop_requested.is_set():
        raise RunError(f"site {config.name}: the app's process ended by itself, see its log above")


def app_command(config: SiteConfig, secret: Path, node: str = LOOPBACK) -> list[str]:
    """Return the command that starts the app for every message."""
    return [
        tool("flower-superexec"),
        *("--insecure", "--runtime-api-address", f"{node}:{config.port}"),
        *("--superexec-auth-secret-file", str(secret)),
    ]


def command(config: SiteConfig, *, with_app: bool = True, listen: str = LOOPBACK) -> list[str]:
    """Return the command that runs the SuperNode."""
    node = (
        f'site-name="{config.name}" data-dir="{config.data_dir}" state-dir="{config.state_dir}" '
        f'code-dir="{config.code_dir}"'
    )
    if config.init_weights is not None:
        node += f' init-weights="{config.init_weights}"'
    isolation = []
    if not with_app:
        isolation = ["--isolation", "process"]
        isolation += ["--superexec-auth-secret-file", str(_app_secret(config))]
    return [
        tool("flower-supernode"),
        *("--superlink", config.server, "--root-certificates", str(config.ca_certificate)),
        *("--auth-supernode-private-key", str(config.private_key)),
        *("--host", listen, "--port", str(config.port), "--node-config", node),
        *isolation,
    ]


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


def app_is_running(config: SiteConfig) -> bool:
    """Return whether the app's own process runs, which starts it for every message."""
    return is_locked(config.state_dir / APP_LOCK_FILE)


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


def _run(config: SiteConfig, words: list[str], key: str, previous: NodeRecord | None) -> None:
    """Run the SuperNode to its end; raise :class:`RunError` if nobody told it to stop."""
    environment = flower_environment(config.node_folder / "flower")
    Path(environment["FLWR_HOME"]).mkdir(exist_ok=True)
    node = subprocess.Popen(  # noqa: S603  # our own command, no shell
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    record = NodeRecord(node.pid, psutil.Process(node.pid).create_time(), time.time())
    record = replace(record, separate="--isolation" in words, key=key)
    admitted = threading.Event()
    # A thread of its own: the log must be read on while the record is kept.
    log = threading.Thread(target=_forward_log, args=(node, admitted), daemon=True)
    log.start()
    with _on_stop(node.terminate) as stop_requested:
        _keep_record(config, node, record, stop_requested)
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
        f"site {config.name}: the SuperNode ended by itself, see its log above. If that names no "
        "cause, the server has withdrawn this site's key (rsdgc server revoke): ask its operator"
        if admitted.is_set()
        else f"the server did not admit site {config.name}: check that its key is registered "
        "(rsdgc server register) and that no other machine uses it"
    )


@contextmanager
def _on_stop(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """On SIGTERM or SIGINT, set the event that this yields and call ``stop``."""
    stop_requested = threading.Event()

    def handle(_: int, __: FrameType | None) -> None:
        stop_requested.set()
        stop()

    handlers = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop_requested
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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
    lock = FileLock(config.node_folder / LOCK_FILE, timeout=LOCK_TIMEOUT_S)
    try:
        config.node_folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _already_running(config) from None
    except OSError as error:
        name = "state-dir" if config.node_dir is None else "node-dir"
        raise _not_writable(name, config.node_folder, error) from None
    try:
        if _recorded_node_is_alive(config):
            raise _already_running(config)
        yield
    finally:
        lock.release()


def _recorded_node_is_alive(config: SiteConfig) -> bool:
    record = read_record(config)
    return record is not None and record.is_alive()


def _app_secret(config: SiteConfig) -> Path:
    if config.app_secret is None:
        raise SettingError(
            "site.toml has no app-secret, which an app in a process of its own needs: run rsdgc "
            "site start alone, or see docs/operate.md for how to separate the two"
        )
    return config.app_secret


def _not_writable(setting: str, folder: Path, error: OSError) -> SettingError:
    return SettingError(
        f"cannot write to {setting} {folder} ({error.strerror}): make the user that runs rsdgc its "
        "owner"
    )


def _already_running(config: SiteConfig) -> RunError:
    return RunError(
        f"a SuperNode of site {config.name} already runs with {config.node_folder}: see rsdgc site "
        "status"
    )


def _write_record(config: SiteConfig, record: NodeRecord) -> None:
    replace_text(config.node_folder / RECORD_FILE, json.dumps(asdict(record)))
