"""Which sites the SuperLink lets in: those whose public keys were registered, and who is there."""

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
        Flower's number of its node; it stays the same as long as the key does.
    key : str
        The key's fingerprint.
    """

    node_id: str
    key: str


def register(config: ServerConfig, flower: FlowerCli) -> Iterator[str]:
    """Register every key of the configuration's folder that is not yet; say what was done.

    A site whose key has changed is let in with the new one only; one whose key is gone from the
    folder is not let in any more.

    Raises
    ------
    SettingError
        There are no keys, or one is none.
    RunError
        Flower refuses one.
    """
    keys = {path.stem: path for path in sorted(config.keys.glob("*.pub"))}
    if not keys:
        raise SettingError(f"no site's public key in {config.keys}: rsdgc deploy add-site")
    prints = {site: fingerprint(read_public(path)) for site, path in keys.items()}
    known = registered(config)
    if known:
        there = _node_states(flower)  # without those of a database that is no more
        known = {site: entry for site, entry in known.items() if entry.node_id in there}
    for site, entry in list(known.items()):
        if prints.get(site) != entry.key:
            flower.order("supernode", "unregister", entry.node_id, flower.connection)
            del known[site]
            _write(config, known)
            yield f"{site}: its old key is let in no more"
    for site, path in keys.items():
        if site in known:
            yield f"{site}: registered as node {known[site].node_id}"
            continue
        answer = flower.order("supernode", "register", str(path), flower.connection, "--name", site)
        known[site] = RegisteredSite(str(answer["node-id"]), prints[site])
        _write(config, known)
        yield f"{site}: now registered as node {known[site].node_id}"


def registered(config: ServerConfig) -> dict[str, RegisteredSite]:
    """Return the sites that have been registered, by name.

    Raises
    ------
    SettingError
        The list is damaged.
    """
    path = _path(config)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {site: RegisteredSite(**entry) for site, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingError(f"{path} is damaged ({error}): delete it and register anew") from None


def presence(config: ServerConfig, flower: FlowerCli) -> dict[str, str]:
    """Return for each registered site whether it is ``online`` or ``offline``.

    Raises
    ------
    RunError
        The SuperLink does not answer.
    """
    states = _node_states(flower)
    return {
        site: "online" if states.get(entry.node_id) == "online" else "offline"
        for site, entry in registered(config).items()
    }


def _node_states(flower: FlowerCli) -> dict[str, str]:
    answer = flower.order("supernode", "list", flower.connection)
    return {
        str(node["node-id"]): str(node["status"])
        for node in answer["nodes"]
        if node["status"] != "unregistered"
    }


def _write(config: ServerConfig, known: Mapping[str, RegisteredSite]) -> None:
    entries = {site: asdict(entry) for site, entry in known.items()}
    replace_text(_path(config), json.dumps(entries, indent=1))


def _path(config: ServerConfig) -> Path:
    return config.state_dir / "registered.json"
