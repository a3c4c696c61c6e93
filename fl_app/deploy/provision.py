"""Make a federation's folders, and add sites and certificates later.

::

    DIR/federation.toml     names and port; not secret
    DIR/compose.yaml        the server and all sites on one machine
    DIR/authority/          ca.key signs the server's certificate: keep it off every network
    DIR/server/             server.toml, its key and certificate, sites/*.pub, nginx.conf, …
    DIR/sites/<site>/       site.toml, node.key, app.secret, ca.crt, …

The server and each site get their own folder and no other. No existing file is overwritten, neither
a key nor an edited configuration; only the ``compose.yaml`` at the top is, as it lists the sites.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fl_app.deploy import SERVER_DAYS, SERVER_FILE, SITE_FILE
from fl_app.deploy.credentials import (
    AUTHORITY_DAYS,
    is_ip_address,
    issue_server_certificate,
    make_authority,
    make_pair,
    public_line,
    read_private,
    read_public,
    read_secret,
)
from fl_app.deploy.party_config import check_site_name
from rsdgc.documents import read_toml, shorten
from rsdgc.durable import replace_text, sync
from rsdgc.errors import SettingError

PRIVATE = 0o600
PUBLIC = 0o644
_DNS_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


@dataclass(frozen=True)
class Federation:
    """A federation, as the ``federation.toml`` in its folder describes it."""

    folder: Path
    names: tuple[str, ...]
    """DNS names and IP addresses of the server; sites use the first one."""
    port: int
    """Port of the proxy, which sites use."""

    @property
    def sites(self) -> list[str]:
        """Names of the sites whose public keys the server's folder has, sorted."""
        return sorted(key.stem for key in (self.folder / "server" / "sites").glob("*.pub"))


def init_federation(
    out: Path, names: Sequence[str], port: int, sites: Sequence[str], days: int = SERVER_DAYS
) -> Federation:
    """Make a federation's folders, or the missing parts of them.

    ``names`` and ``port`` are those of :class:`Federation`; the server's certificate is valid for
    ``days`` days. A folder that belongs to another federation is refused with a SettingError.
    """
    # Everything is checked first, so that a mistake leaves no folder behind.
    _check_server_names(names)
    _check_days(days)
    for site in sites:
        _check_site(site)
    check_distinct_sites(sites)
    if not 0 < port < 65536:
        raise SettingError(f"--port is {port}: it must be from 1 to 65535")
    federation = Federation(out, tuple(names), port)
    if (out / "federation.toml").exists():
        existing = open_federation(out)
        if existing != federation:
            raise SettingError(
                f"{out} belongs to the federation at {','.join(existing.names)}, port "
                f"{existing.port}: use the same --server and --port, or another --out"
            )
    elif out.exists() and any(out.iterdir()):
        raise SettingError(f"{out} is not empty and has no federation: choose another --out")
    _make_private_folder(out)
    write_once(out / "federation.toml", _render(federation, "federation.toml"))
    _make_authority(federation)
    _make_server(federation, days)
    for site in sites:
        add_site(federation, site)
    _write_compose(federation)
    return federation


def open_federation(folder: Path) -> Federation:
    """Return an existing federation; raise :class:`SettingError` if the folder has none."""
    path = folder / "federation.toml"
    try:
        values = read_toml(path)
        names, port = tuple(map(str, values["names"])), int(values["port"])
        if not names or not 0 < port < 65536:
            raise ValueError(f"names {shorten(names)} and port {port}")
        return Federation(folder, names, port)
    except OSError:
        raise SettingError(f"{folder} has no federation: run rsdgc deploy init first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(f"{path} is damaged: {shorten(str(error), 200)}") from None


def add_site(federation: Federation, site: str, public_key: Path | None = None) -> Path:
    """Make a site's folder, or the missing parts of it, and return it.

    The site's public key is also copied to the server's folder. With ``public_key``, that of a pair
    which the site made itself, the private key stays at the site and the folder made here has none.
    A site that has another key already is refused with a SettingError.
    """
    _check_site(site)
    folder = federation.folder / "sites" / site
    server_copy = federation.folder / "server" / "sites" / f"{site}.pub"
    key = None if public_key is None else read_public(public_key)
    if key is not None and server_copy.exists() and read_public(server_copy) != key:
        raise SettingError(
            f"site {site} already has another key: replace it with rsdgc deploy renew --site "
            f"{shlex.join([site, '--public-key', str(public_key)])}"
        )
    for path in (folder.parent, folder, folder / "state", folder / "node-state"):
        _make_private_folder(path)
    # The app's user reads its modules here, and reaches it only where it is mounted.
    (folder / "code").mkdir(mode=0o755, exist_ok=True)
    (folder / "code").chmod(0o755)
    write_once(folder / "app.secret", secrets.token_hex(32), PRIVATE)
    write_once(folder / "ca.crt", (federation.folder / "authority" / "ca.crt").read_bytes())
    for name in (SITE_FILE, "rsdgc-site.service", "rsdgc-site-app.service", "compose.yaml"):
        write_once(folder / name, _render(federation, f"site/{name}", site=site))
    if key is None and server_copy.exists() and not (folder / "node.key").exists():
        # The folder was handed over with its private key, so a new one would not match.
        key = read_public(server_copy)
    elif key is None:
        write_once(folder / "node.key", make_pair(site)[0], PRIVATE)
        key = read_private(folder / "node.key").public_key()
    write_once(folder / "node.pub", public_line(key, site))
    write_once(server_copy, public_line(key, site))
    _write_compose(federation)
    return folder


def renew_certificate(federation: Federation, days: int = SERVER_DAYS) -> Path:
    """Sign a new server certificate with a new key; return the certificate's path.

    The old files stay as ``server.crt.old`` and ``server.key.old``. Sites need no new file, because
    they trust the authority.
    """
    _check_days(days)
    server = federation.folder / "server"
    _set_aside(server / "server.crt", server / "server.key")
    _make_server(federation, days)
    return server / "server.crt"


def renew_authority(federation: Federation, days: int = SERVER_DAYS) -> list[Path]:
    """Replace the authority and the server's certificate; return the folders with a new ``ca.crt``.

    This withdraws every certificate that the old authority signed, of a stolen key too, from every
    site that has the new ``ca.crt``. The old files stay with the suffix ``.old``.
    """
    _check_days(days)
    authority = federation.folder / "authority"
    parties = [federation.folder / "server"]
    # A site's folder may have been handed over and deleted here.
    parties += sorted(path.parent for path in federation.folder.glob("sites/*/ca.crt"))
    _set_aside(authority / "ca.crt", authority / "ca.key")
    _make_authority(federation)
    for party in parties:
        _set_aside(party / "ca.crt")
        write_once(party / "ca.crt", (authority / "ca.crt").read_bytes())
    renew_certificate(federation, days)
    return parties


def renew_site_key(federation: Federation, site: str, public_key: Path | None = None) -> Path:
    """Replace a site's key and its copy in the server's folder; return the site's folder.

    With ``public_key``, that of a pair which the site made itself, the folder has no private key.
    The old files stay with the suffix ``.old``.
    """
    server_copy = federation.folder / "server" / "sites" / f"{site}.pub"
    folder = federation.folder / "sites" / site
    if not server_copy.exists() and not folder.exists():
        raise SettingError(f"site {site} is not in {federation.folder}: run rsdgc deploy add-site")
    if public_key is not None:
        read_public(public_key)  # before anything is changed
    _set_aside(server_copy, folder / "node.pub", folder / "node.key")
    return add_site(federation, site, public_key)


def write_once(path: Path, content: bytes | str, mode: int = PUBLIC) -> None:
    """Write a file, complete and with these permissions, unless it exists.

    Unlike :func:`rsdgc.durable.replace_bytes`, this never replaces a file, so that no call can
    destroy a key.
    """
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode, exist_ok=False)
    try:
        draft.chmod(mode)  # the user's umask may have cleared bits of the mode
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(draft)
        # Unlike a rename, a link fails if another process was first.
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _set_aside(*paths: Path) -> None:
    """Rename files, those that exist, so that new ones can be written."""
    for path in paths:
        if path.exists():
            path.replace(path.with_name(f"{path.name}.old"))


def _make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter; close an existing one to other users."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


def _make_authority(federation: Federation) -> None:
    folder = federation.folder / "authority"
    _make_private_folder(folder)
    if (folder / "ca.crt").exists():
        return
    # The certificate is written last. A key without one is from an interrupted call, and useless.
    (folder / "ca.key").unlink(missing_ok=True)
    certificate, key = make_authority(federation.names[0])
    write_once(folder / "ca.key", key, PRIVATE)
    write_once(folder / "ca.crt", certificate)


def _make_server(federation: Federation, days: int) -> None:
    authority, folder = federation.folder / "authority", federation.folder / "server"
    for path in (folder, folder / "sites", folder / "state", folder / "runs"):
        _make_private_folder(path)
    authority_certificate = (authority / "ca.crt").read_bytes()
    write_once(folder / "ca.crt", authority_certificate)
    if not (folder / "server.crt").exists():
        (folder / "server.key").unlink(missing_ok=True)  # as for the authority's key
        certificate, key = issue_server_certificate(
            authority_certificate, read_secret(authority / "ca.key"), federation.names, days
        )
        write_once(folder / "server.key", key, PRIVATE)
        write_once(folder / "server.crt", certificate)
    for name in (SERVER_FILE, "rsdgc-server.service", "nginx.conf", "compose.yaml"):
        write_once(folder / name, _render(federation, f"server/{name}"))


def _write_compose(federation: Federation) -> None:
    # A site's folder may have been handed over and deleted here; its key is still known.
    sites = [site for site in federation.sites if (federation.folder / "sites" / site).is_dir()]
    text = _render(federation, "compose.yaml", sites=sites)
    replace_text(federation.folder / "compose.yaml", text)


def _render(federation: Federation, template: str, **values: Any) -> str:
    templates = Environment(
        loader=PackageLoader("fl_app.deploy"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # not markup; every name has been checked
    )
    host = federation.names[0]
    return templates.get_template(f"{template}.j2").render(
        names=federation.names,
        port=federation.port,
        public=f"[{host}]:{federation.port}" if ":" in host else f"{host}:{federation.port}",
        dns_names=[name for name in federation.names if not is_ip_address(name)],
        version=version("rsdgc"),
        **values,
    )


def _check_site(site: str) -> None:
    try:
        check_site_name(site)
    except ValueError as error:
        raise SettingError(str(error)) from None


def check_distinct_sites(sites: Sequence[str]) -> None:
    """Raise :class:`SettingError` if two sites have one name, or names that differ in case only."""
    seen: set[str] = set()
    for site in sites:
        if site.casefold() in seen:
            raise SettingError(f"site {site} is named twice: give each site a name of its own")
        seen.add(site.casefold())


def _check_days(days: int) -> None:
    if not 0 < days <= AUTHORITY_DAYS:
        raise SettingError(f"--days is {days}: it must be from 1 to {AUTHORITY_DAYS}")


def _check_server_names(names: Sequence[str]) -> None:
    if not names:
        raise SettingError("--server is empty: give the server's DNS name or IP address")
    for name in names:
        if not is_ip_address(name) and (not _DNS_NAME.fullmatch(name) or len(name) > 253):
            raise SettingError(f"--server '{name}' is neither a DNS name nor an IP address")
