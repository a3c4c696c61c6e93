"""The server's SuperLink: how to start it, and how the operator's commands reach it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

from fl_app.deploy.party_config import ServerConfig, split_address
from fl_app.deploy.server_checks import check_certificate, superlink_endpoint
from fl_app.flower.command import FlowerCli
from fl_app.flower.superlink import flower_environment, tool
from rsdgc.errors import RunError, SettingError

CONNECTION = "rsdgc"
"""Name of the connection in Flower's ``config.toml``."""


def start_superlink(config: ServerConfig) -> NoReturn:
    """Replace this process by the SuperLink, so that systemd watches and signals Flower itself.

    Raises
    ------
    SettingError
        The certificate is not valid, or a folder cannot be written.
    RunError
        A SuperLink already runs here.
    """
    check = check_certificate(config)
    if check.status == "FAILED":
        raise SettingError(f"certificate {config.certificate}: {check.detail}; {check.remedy}")
    try:
        superlink_endpoint(config).health()
    except RunError:
        pass  # nothing answers, as it should be
    else:
        raise RunError(f"a SuperLink already answers on {config.listen}")
    try:
        for folder in (config.runs_dir, _flower_home(config)):
            folder.mkdir(parents=True, exist_ok=True)
        os.chdir(config.state_dir)
    except OSError as error:
        raise SettingError(
            f"cannot write to {error.filename} ({error.strerror}): make the user that runs rsdgc "
            "its owner"
        ) from None
    words = _superlink_command(config)
    os.execvpe(words[0], words, flower_environment(_flower_home(config)))  # noqa: S606


def _superlink_command(config: ServerConfig) -> list[str]:
    host, port = split_address(config.listen)
    return [
        tool("flower-superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(config.ca_certificate)),
        *("--ssl-certfile", str(config.certificate), "--ssl-keyfile", str(config.private_key)),
        # Without a database the SuperLink forgets registered keys and runs when it restarts.
        *("--enable-supernode-auth", "--database", str(config.state_dir / "superlink.db")),
        "--disable-runtime-dependency-installation",
    ]


def connect(config: ServerConfig) -> FlowerCli:
    """Return Flower's command line, connected to this server's SuperLink.

    Raises
    ------
    RunError
        The SuperLink does not answer.
    """
    server = superlink_endpoint(config)
    try:
        server.health()
    except RunError as error:
        raise RunError(f"{error}; start it with rsdgc server start") from None
    home = _flower_home(config)
    home.mkdir(parents=True, exist_ok=True)
    host = f"[{server.host}]" if ":" in server.host else server.host
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "{host}:{server.port}"\n'
        f"root-certificates = {json.dumps(str(config.ca_certificate))}\n",
        encoding="utf-8",
    )
    return FlowerCli(flower_environment(home), CONNECTION)


def _flower_home(config: ServerConfig) -> Path:
    return config.state_dir / "flower"
