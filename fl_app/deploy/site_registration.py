"""The sites that the SuperLink admits: those whose public keys are registered with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fl_app.deploy.node_keys import fingerprint, read_public
from fl_app.deploy.party_config import ServerConfig
from fl_app.flower.command import FlowerCli
from rsdgc.durable import replace_text
from rsdgc.errors import SettingError


@dataclass(frozen=True)
class RegisteredSite:
    """A site in ``registered.json``.

    Attributes
    ----------
    node_id : str
        Flower's number of the site's node, which stays the same as long as the key does.
    key : str
        Fingerprint of the site's public key.
    """

    node_id: str
    key: str


def register_sites(config: ServerConfig, flower: FlowerCli) -> Iterator[str]:
    """Make the SuperLink's keys those of the folder ``keys``; yield one line for each change.

    A site whose key has changed is admitted with the new key only. A site whose key is no longer in
    the folder is no longer admitted.

    Raises
    ------
    SettingError
        The folder has no keys, or a file is not a key.
    RunError
        The SuperLink refuses a key.
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
        answer = flower.request(
            "supernode", "register", str(path), flower.connection, "--name", site
        )
        registered[site] = RegisteredSite(str(answer["node-id"]), fingerprints[site])
        _write_registered(config, registered)
        yield f"{site}: registered as node {registered[site].node_id}"


def read_registered(config: ServerConfig) -> dict[str, RegisteredSite]:
    """Return the registered sites by name.

    Raises
    ------
    SettingError
        ``registered.json`` is damaged.
    """
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
    """Return ``online`` or ``offline`` for each registered site.

    Raises
    ------
    RunError
        The SuperLink does not answer.
    """
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
