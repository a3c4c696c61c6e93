"""The app at a site: the process that starts it for every message, alone or beside a SuperNode.

:mod:`fl_app.flower.app_starter` is that process. It meets the SuperNode on the loopback, where the
site's ``app-secret`` admits it alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from fl_app.deploy.checks import describe_data
from fl_app.deploy.credentials import read_secret
from fl_app.deploy.party_config import SiteConfig
from fl_app.flower.superlink import flower_environment, starter
from fl_app.interruption import stop_signals
from rsdgc.durable import is_locked
from rsdgc.errors import RunError, SettingError

LOOPBACK = "127.0.0.1"
LOCK_FILE = "app.lock"
LOCK_TIMEOUT_S = 1.0
"""A probe (:func:`rsdgc.durable.is_locked`) holds the lock for an instant; this outlasts it."""


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
        secret = app_secret(config)
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
    lock = FileLock(config.state_dir / LOCK_FILE, timeout=LOCK_TIMEOUT_S)
    try:
        Path(environment["FLWR_HOME"]).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"the app of site {config.name} already runs with {config.state_dir}") from (
            None
        )
    except OSError as error:
        raise not_writable("state-dir", config.state_dir, error) from None
    with lock, on_stop() as stop:
        starter = subprocess.Popen(app_command(config, secret, node), env=environment)  # noqa: S603
        stop.pass_on_to(starter)
        starter.wait()
    if not stop.received:
        raise RunError(f"site {config.name}: the app's process ended by itself, see its log above")


def app_command(config: SiteConfig, secret: Path, node: str = LOOPBACK) -> list[str]:
    """Return the command that starts the app for every message."""
    return [
        *starter("flower-superexec"),
        *("--insecure", "--runtime-api-address", f"{node}:{config.port}"),
        *("--superexec-auth-secret-file", str(secret)),
    ]


def app_is_running(config: SiteConfig) -> bool:
    """Return whether the app's own process runs, which starts it for every message."""
    return is_locked(config.state_dir / LOCK_FILE)


def app_secret(config: SiteConfig) -> Path:
    """Return the file of the secret that admits the app to the site's SuperNode."""
    if config.app_secret is None:
        raise SettingError(
            "site.toml has no app-secret, which an app in a process of its own needs: run rsdgc "
            "site start alone, or see docs/operate.md for how to separate the two"
        )
    return config.app_secret


class StopRequest:
    """Whether a signal has asked this process to end, and the process to pass it on to."""

    def __init__(self) -> None:
        self.received = False
        self._process: subprocess.Popen[bytes] | None = None

    def handle(self, _: int, __: FrameType | None) -> None:
        """Note the signal, and end the process that it is passed on to."""
        self.received = True
        if self._process is not None:
            self._process.terminate()

    def pass_on_to(self, process: subprocess.Popen[bytes]) -> None:
        """End this process on a signal, and at once if one was received while it started."""
        self._process = process
        if self.received:
            process.terminate()


@contextmanager
def on_stop() -> Iterator[StopRequest]:
    """Note signals to stop; to be entered before the process starts that they are for.

    A signal between the two would end this process alone, and leave the new one behind.
    """
    request = StopRequest()
    handlers = {number: signal.signal(number, request.handle) for number in stop_signals()}
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def not_writable(setting: str, folder: Path, error: OSError) -> SettingError:
    """Return the error of a folder that this process cannot write to."""
    return SettingError(
        f"cannot write to {setting} {folder} ({error.strerror}): make the user that runs rsdgc its "
        "owner"
    )
