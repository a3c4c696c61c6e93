"""The app's own process: its secret, its lock, its command."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_app.deploy import site_app, supernode
from fl_app.deploy.party_config import SiteConfig
from fl_app.flower.superlink import free_ports
from rsdgc.errors import RunError, SettingError

Configure = Callable[[int], SiteConfig]


def test_the_app_is_a_process_of_its_own(site: Configure) -> None:
    config = site(7)
    secret = site_app.app_secret(config)
    node = supernode.command(config, secret)
    assert node[node.index("--isolation") + 1] == "process"
    app = site_app.app_command(config, secret)
    for command in (node, app):
        assert command[command.index("--superexec-auth-secret-file") + 1] == str(secret)
    assert not any("node.key" in word for word in app)
    alone = config.model_copy(update={"app_secret": None})
    with pytest.raises(SettingError, match="has no app-secret"):
        site_app.start_app(alone)
    with pytest.raises(SettingError, match="has no app-secret"):
        supernode.start(alone, with_app=False)


def test_the_apps_secret_is_private_and_one_app_runs(
    site: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = site(free_ports(1)[0])
    assert config.app_secret is not None
    with pytest.raises(SettingError, match=r"--secret .* cannot be read"):
        site_app.start_app(config, tmp_path / "nothing")
    config.app_secret.chmod(0o644)
    with pytest.raises(SettingError, match="open to other users"):
        site_app.start_app(config)
    config.app_secret.chmod(0o600)
    failures: list[BaseException] = []
    ready = tmp_path / "ready"

    def second() -> None:
        while not ready.exists():  # by then a signal ends the app, and not the tests
            time.sleep(0.02)
        try:
            site_app.start_app(config)
        except RunError as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    app = f"import time; open({str(ready)!r}, 'w').close(); time.sleep(600)"
    monkeypatch.setattr(site_app, "app_command", lambda *_: [sys.executable, "-c", app])
    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    site_app.start_app(config)
    thread.join()
    assert "already runs" in str(failures[0])
    assert not site_app.app_is_running(config)
