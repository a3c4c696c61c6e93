"""The server's SuperLink: the command that runs it, and how the operator's commands reach it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

from fl_app.deploy.party_config import ServerConfig, split_address
from fl_app.deploy.server_checks import certificate, own_endpoint
from fl_app.flower.command import FlowerCli
from fl_app.flower.superlink import flower_environment, tool
from rsdgc.errors import RunError, SettingError

CONNECTION = "rsdgc"


def start(config: ServerConfig) -> NoReturn:
    """Become the SuperLink: this process goes on as Flower's.

    Raises
    ------
    SettingError
        The certificate cannot be used, or a folder cannot be written.
    RunError
        A SuperLink runs here already.
    """
    if (found := certificate(config)).outcome == "FAILED":
        raise SettingError(f"certificate {config.certificate}: {found.found}; {found.remedy}")
    _refuse_a_second(config)
    try:
        for folder in (config.runs_dir, _flower_home(config)):
            folder.mkdir(parents=True, exist_ok=True)
        os.chdir(config.state_dir)
    except OSError as error:
        raise SettingError(
            f"{error.filename} cannot be written ({error.strerror}): let the user that runs rsdgc "
            "own it"
        ) from None
    words = command(config)
    os.execvpe(words[0], words, flower_environment(_flower_home(config)))  # noqa: S606


def command(config: ServerConfig) -> list[str]:
    """Return the command that runs the SuperLink."""
    host, port = split_address(config.listen)
    return [
        tool("flower-superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(config.ca_certificate)),
        *("--ssl-certfile", str(config.certificate), "--ssl-keyfile", str(config.private_key)),
        *("--enable-supernode-auth", "--database", str(config.state_dir / "superlink.db")),
        "--disable-runtime-dependency-installation",
    ]


def connect(config: ServerConfig) -> FlowerCli:
    """Return Flower's command for this server's SuperLink.

    Raises
    ------
    RunError
        The SuperLink does not answer.
    """
    server = own_endpoint(config)
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


def _refuse_a_second(config: ServerConfig) -> None:
    try:
        own_endpoint(config).health()
    except RunError:
        return
    raise RunError(f"a SuperLink answers on {config.listen} already")


def _flower_home(config: ServerConfig) -> Path:
    return config.state_dir / "flower"
