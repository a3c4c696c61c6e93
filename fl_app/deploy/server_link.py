"""The server's SuperLink: how to start it and connect to it, and which sites it admits.

The SuperLink admits the sites whose public keys are registered with it; ``registered.json`` has
the key and the node of each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from fl_app.deploy.checks import check_certificate
from fl_app.deploy.credentials import fingerprint, read_public
from fl_app.deploy.party_config import ServerConfig, split_address
from fl_app.flower.command import FlowerCli
from fl_app.flower.superlink import flower_environment, tool, write_connection
from rsdgc.durable import replace_text
from rsdgc.errors import RunError, SettingError

CONNECTION = "rsdgc"
"""Name of the connection in Flower's ``config.toml``."""


@dataclass(frozen=True)
class RegisteredSite:
    """A site in ``registered.json``."""

    node_id: str
    """Flower's number of the site's node, which stays the same as long as the key does."""
    key: str
    """Fingerprint of the site's public key."""


def start_superlink(config: ServerConfig) -> NoReturn:
    """Replace this process by the SuperLink, so that systemd watches and signals Flower itself."""
    check = check_certificate(config)
    if check.status == "FAILED":
        raise SettingError(f"certificate {config.certificate}: {check.detail}; {check.remedy}")
    try:
        config.superlink_endpoint.health()
    except RunError:
        pass  # nothing answers, as it should be
    else:
        raise RunError(f"a SuperLink already answers on {config.listen}")
    home = _flower_home(config)
    try:
        for folder in (config.runs_dir, home):
            folder.mkdir(parents=True, exist_ok=True)
        os.chdir(config.state_dir)
    except OSError as error:
        raise SettingError(
            f"cannot write to {error.filename} ({error.strerror}): make the user that runs rsdgc "
            "its owner"
        ) from None
    host, port = split_address(config.listen)
    command = [
        tool("flower-superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(config.ca_certificate)),
        *("--ssl-certfile", str(config.certificate), "--ssl-keyfile", str(config.private_key)),
        # Without a database the SuperLink forgets registered keys and runs when it restarts.
        *("--enable-supernode-auth", "--database", str(config.state_dir / "superlink.db")),
        "--disable-runtime-dependency-installation",
    ]
    os.execvpe(command[0], command, flower_environment(home))  # noqa: S606


def connect(config: ServerConfig) -> FlowerCli:
    """Return Flower's command line, connected to this server's SuperLink."""
    server = config.superlink_endpoint
    try:
        server.health()
    except RunError as error:
        raise RunError(f"{error}; start it with rsdgc server start") from None
    home = _flower_home(config)
    home.mkdir(parents=True, exist_ok=True)
    authority = json.dumps(str(config.ca_certificate))
    write_connection(home, CONNECTION, server.address, f"root-certificates = {authority}")
    return FlowerCli(flower_environment(home), CONNECTION)


def register_sites(config: ServerConfig, flower: FlowerCli) -> Iterator[str]:
    """Make the SuperLink's keys those of the folder ``keys``; yield one line for each change.

    A site whose key has changed is admitted with the new key only. A site whose key is no longer in
    the folder is no longer admitted.
    """
    paths = {path.stem: path for path in sorted(config.keys.glob("*.pub"))}
    if not paths:
        raise SettingError(
            f"{config.keys} has no site's public key: make one with rsdgc deploy add-site"
        )
    fingerprints = {site: fingerprint(read_public(path)) for site, path in paths.items()}
    registered = read_registered(config)
    if registered:
        # Someone may have deleted the SuperLink's database, and its registrations with it.
        nodes = _node_states(flower)
        registered = {site: entry for site, entry in registered.items() if entry.node_id in nodes}
    # Old keys are unregistered first. The list is written after every step, because Flower may
    # refuse a later one, and a key cannot be registered twice.
    for site, entry in list(registered.items()):
        if fingerprints.get(site) != entry.key:
            flower.request("supernode", "unregister", entry.node_id, flower.connection)
            del registered[site]
            _write_registered(config, registered)
            yield f"{site}: old key unregistered"
    for site, path in paths.items():
        if site in registered:
            yield f"{site}: already registered as node {registered[site].node_id}"
            continue
        words = ["supernode", "register", str(path), flower.connection, "--name", site]
        node_id = str(flower.request(*words)["node-id"])
        registered[site] = RegisteredSite(node_id, fingerprints[site])
        _write_registered(config, registered)
        yield f"{site}: registered as node {node_id}"


def read_registered(config: ServerConfig) -> dict[str, RegisteredSite]:
    """Return the registered sites by name."""
    path = _registered_path(config)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {site: RegisteredSite(**entry) for site, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingError(
            f"{path} is damaged ({error}): delete it and run rsdgc server register"
        ) from None


def site_states(config: ServerConfig, flower: FlowerCli) -> dict[str, str]:
    """Return ``online`` or ``offline`` for each registered site."""
    states = _node_states(flower)
    return {
        site: "online" if states.get(entry.node_id) == "online" else "offline"
        for site, entry in read_registered(config).items()
    }


def _node_states(flower: FlowerCli) -> dict[str, str]:
    answer = flower.request("supernode", "list", flower.connection)
    return {
        str(node["node-id"]): str(node["status"])
        for node in answer["nodes"]
        if node["status"] != "unregistered"
    }


def _write_registered(config: ServerConfig, registered: Mapping[str, RegisteredSite]) -> None:
    entries = {site: asdict(entry) for site, entry in registered.items()}
    replace_text(_registered_path(config), json.dumps(entries, indent=1))


def _registered_path(config: ServerConfig) -> Path:
    return config.state_dir / "registered.json"


def _flower_home(config: ServerConfig) -> Path:
    return config.state_dir / "flower"
