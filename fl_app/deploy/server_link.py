"""The server's SuperLink: how to start it and connect to it, and which sites it admits.

The SuperLink admits the sites whose public keys are registered with it; ``registered.json`` has
the key and the node of each. A key that was withdrawn is never registered again: Flower refuses it
as long as its database lives, and ``revoked.json`` outlives that.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from fl_app.deploy.checks import check_certificate
from fl_app.deploy.credentials import fingerprint, read_public
from fl_app.deploy.endpoint import refuse_taken_port
from fl_app.deploy.party_config import ServerConfig, check_site_name, split_address
from fl_app.flower.command import FlowerCli
from fl_app.flower.superlink import CONNECTION, flower_environment, starter, write_connection
from rsdgc.documents import read_json, shorten
from rsdgc.durable import replace_text
from rsdgc.errors import RunError, SettingError


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
    refuse_taken_port(host, port, "end what listens there, or set another listen in server.toml")
    command = [
        *starter("flower-superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(config.ca_certificate)),
        *("--ssl-certfile", str(config.certificate), "--ssl-keyfile", str(config.private_key)),
        # Without a database the SuperLink forgets registered keys and runs when it restarts.
        *("--enable-supernode-auth", "--database", str(config.state_dir / "superlink.db")),
        "--disable-runtime-dependency-installation",
    ]
    environment = flower_environment(home)
    # A service has no home folder: without one, matplotlib lists the fonts anew in each run.
    environment.setdefault("MPLCONFIGDIR", str(config.state_dir / "matplotlib"))
    os.execvpe(command[0], command, environment)  # noqa: S606


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
    write_connection(home, server.address, f"root-certificates = {authority}")
    return FlowerCli(flower_environment(home))


def register_sites(config: ServerConfig, flower: FlowerCli) -> Iterator[str]:
    """Make the SuperLink's keys those of the folder ``keys``; yield one line for each change.

    A site whose key has changed is admitted with the new key only. A site whose key is no longer in
    the folder stays registered: :func:`revoke_site` removes it. A key that cannot be registered is
    reported with its site, and the other sites are registered; at the end a RunError names those
    that were not.
    """
    keys, refused = _read_keys(config)
    registered = read_registered(config)
    if registered:
        # Someone may have deleted the SuperLink's database, and its registrations with it.
        nodes = _node_states(flower)
        registered = {site: entry for site, entry in registered.items() if entry.node_id in nodes}
    for site, key in keys.items():
        entry = registered.get(site)
        if entry is not None and entry.key == key:
            yield f"{site}: already registered as node {entry.node_id}"
            continue
        if entry is not None:
            _unregister(config, flower, registered, site)
            yield f"{site}: old key withdrawn, which is final for that key"
        path = config.keys / f"{site}.pub"
        words = ["supernode", "register", str(path), CONNECTION, "--name", site]
        try:
            node_id = str(flower.request(*words)["node-id"])
        except RunError as error:
            refused[site] = str(error)
            continue
        registered[site] = RegisteredSite(node_id, key)
        # Written after every step, because Flower may refuse a later one.
        _write_registered(config, registered)
        yield f"{site}: registered as node {node_id}"
    for site in sorted(registered.keys() - keys.keys() - refused.keys()):
        yield (
            f"{site}: its public key is gone, but it stays registered; rsdgc server revoke "
            f"{shlex.quote(site)} removes it"
        )
    for site, reason in refused.items():
        renew = f"rsdgc deploy renew --site {shlex.quote(site)}"
        yield f"{site}: REFUSED, {reason}; make a new key with {renew}"
    if refused:
        raise RunError(f"not registered: {', '.join(refused)}; all others are")


def _read_keys(config: ServerConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Return the fingerprints of the sites' keys, and why other sites have no key to register."""
    paths = sorted(config.keys.glob("*.pub"))
    if not paths:
        raise SettingError(
            f"{config.keys} has no site's public key: make one with rsdgc deploy add-site"
        )
    revoked = read_revoked(config)
    keys: dict[str, str] = {}
    refused: dict[str, str] = {}
    for path in paths:
        try:
            key = fingerprint(read_public(path))
        except SettingError as error:
            refused[path.stem] = str(error)
            continue
        twin = next((site for site, its in keys.items() if its == key), None)
        if twin is not None:
            refused[path.stem] = f"its key is that of {twin}, and every site needs its own"
        elif key in revoked:
            refused[path.stem] = f"its key was withdrawn on {revoked[key]}, which is final"
        else:
            keys[path.stem] = key
    return keys, refused


def revoke_site(config: ServerConfig, flower: FlowerCli, site: str) -> str:
    """Withdraw a site's key for good, and set its public key aside; return what was done.

    The server refuses the site's next call. The file becomes ``<site>.pub.revoked``.
    """
    entry = registered_site(config, site)
    registered = read_registered(config)
    if entry.node_id in _node_states(flower):
        _unregister(config, flower, registered, site)
    else:  # as when the database was deleted
        del registered[site]
        _write_registered(config, registered)
    public = config.keys / f"{site}.pub"
    if public.exists() and fingerprint(read_public(public)) == entry.key:
        public.replace(public.with_name(f"{public.name}.revoked"))
    return f"{site}: key withdrawn; an active run goes on without it"


def read_revoked(config: ServerConfig) -> dict[str, str]:
    """Return the fingerprints of the withdrawn keys, each with its day."""
    path = _revoked_path(config)
    try:
        days = read_json(path)
        return {str(key): str(day) for key, day in days.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise SettingError(
            f"{path} is damaged ({error}): delete it; Flower refuses those keys all the same"
        ) from None


def read_registered(config: ServerConfig) -> dict[str, RegisteredSite]:
    """Return the registered sites by name."""
    path = _registered_path(config)
    try:
        entries = read_json(path)
        registered = {check_site_name(site): RegisteredSite(**e) for site, e in entries.items()}
        texts = [text for entry in registered.values() for text in astuple(entry)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a node or a key is not a text")
        return registered
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = shorten(str(error), 200)
        raise SettingError(
            f"{path} is damaged ({reason}): delete it and run rsdgc server register"
        ) from None


def site_states(config: ServerConfig, flower: FlowerCli) -> dict[str, str]:
    """Return ``online`` or ``offline`` for each registered site."""
    states = _node_states(flower)
    return {
        site: "online" if states.get(entry.node_id) == "online" else "offline"
        for site, entry in read_registered(config).items()
    }


def registered_site(config: ServerConfig, site: str) -> RegisteredSite:
    """Return a site in ``registered.json``; raise :class:`SettingError` for another name."""
    registered = read_registered(config)
    if site not in registered:
        known = ", ".join(sorted(registered)) or "none"
        raise SettingError(f"site '{site}' is not registered; registered are: {known}")
    return registered[site]


def _unregister(
    config: ServerConfig, flower: FlowerCli, registered: dict[str, RegisteredSite], site: str
) -> None:
    """Withdraw a site's key and remove the site from ``registered``, and from the file."""
    entry = registered[site]
    flower.request("supernode", "unregister", entry.node_id, CONNECTION)
    revoked = {**read_revoked(config), entry.key: f"{datetime.now(UTC):%Y-%m-%d}"}
    replace_text(_revoked_path(config), json.dumps(revoked, indent=1))
    del registered[site]
    _write_registered(config, registered)


def _node_states(flower: FlowerCli) -> dict[str, str]:
    answer = flower.request("supernode", "list", CONNECTION)
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


def _revoked_path(config: ServerConfig) -> Path:
    return config.state_dir / "revoked.json"


def _flower_home(config: ServerConfig) -> Path:
    return config.state_dir / "flower"
