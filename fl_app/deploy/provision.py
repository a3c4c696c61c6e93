"""Make the folders of a federation's parties, and add to them later.

::

    DIR/federation.toml     names and port; not secret
    DIR/compose.yaml        server and all sites on one machine
    DIR/authority/          ca.key signs the server's certificate: keep it off every network
    DIR/server/             server.toml, its key and certificate, sites/*.pub, nginx.conf, …
    DIR/sites/<site>/       site.toml, node.key, ca.crt, …

Each party is given its own folder and no other. Nothing that exists is written again: neither keys
nor a configuration that someone has edited.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fl_app.deploy.authority import issue_server_certificate, make_authority
from fl_app.deploy.node_keys import make_pair, public_line, read_private, read_public
from fl_app.deploy.party_config import SERVER_FILE, SITE_FILE, check_site_name
from fl_app.deploy.secret_files import PRIVATE, make_private_folder, read_secret, write_once
from rsdgc.durable import replace_text
from rsdgc.errors import SettingError

_DNS_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


@dataclass(frozen=True)
class Federation:
    """What a federation's folder is made for.

    Attributes
    ----------
    folder : Path
        The folder.
    names : tuple of str
        DNS names and addresses of the server, the one that sites use first.
    port : int
        The proxy's.
    """

    folder: Path
    names: tuple[str, ...]
    port: int

    @property
    def sites(self) -> list[str]:
        """Names of the sites that have a folder or a public key."""
        keys = (self.folder / "server" / "sites").glob("*.pub")
        return sorted(key.stem for key in keys)


def init(out: Path, names: Sequence[str], port: int, sites: Sequence[str]) -> Federation:
    """Make the folders of a federation, or what is missing of them.

    Raises
    ------
    SettingError
        A name is none, or the folder is of another federation.
    """
    federation = Federation(out, tuple(_checked_names(names)), port)
    for site in sites:
        _checked_site(site)
    if not 0 < port < 65536:
        raise SettingError(f"port {port} is none: a number from 1 to 65535")
    if (out / "federation.toml").exists():
        known = open_federation(out)
        if (known.names, known.port) != (federation.names, federation.port):
            raise SettingError(
                f"{out} is of a federation at {','.join(known.names)}, port {known.port}: use the "
                "same --server and --port, or another --out"
            )
    elif out.exists() and any(out.iterdir()):
        raise SettingError(f"{out} is not empty and holds no federation: choose another --out")
    make_private_folder(out)
    _write(federation, "federation.toml", out / "federation.toml")
    _make_authority(federation)
    _make_server(federation)
    for site in sites:
        add_site(federation, site)
    _list_in_compose(federation)
    return federation


def open_federation(folder: Path) -> Federation:
    """Return a federation that was made earlier.

    Raises
    ------
    SettingError
        There is none, or its description is damaged.
    """
    path = folder / "federation.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return Federation(folder, tuple(map(str, values["names"])), int(values["port"]))
    except OSError:
        raise SettingError(f"{folder} holds no federation: run rsdgc deploy init first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(f"{path} is damaged: {error}") from None


def add_site(federation: Federation, site: str, public_key: Path | None = None) -> Path:
    """Make a site's folder, or what is missing of it, and give its public key to the server's.

    Parameters
    ----------
    federation : Federation
        From :func:`init` or :func:`open_federation`.
    site : str
        Its name.
    public_key : Path, optional
        Of a key that the site made itself; the private one never leaves it, and its folder here
        has none.

    Returns
    -------
    Path
        The site's folder.

    Raises
    ------
    SettingError
        The name is none, the key is none, or the site has another key already.
    """
    _checked_site(site)
    folder = federation.folder / "sites" / site
    registered = federation.folder / "server" / "sites" / f"{site}.pub"
    own = None if public_key is None else read_public(public_key)
    if own is not None and registered.exists() and read_public(registered) != own:
        raise SettingError(
            f"site {site} has another key already: remove {registered} to replace it"
        )
    make_private_folder(folder.parent)
    make_private_folder(folder)
    make_private_folder(folder / "state")
    _copy(federation.folder / "authority" / "ca.crt", folder / "ca.crt")
    for template, name in (
        ("site.toml", SITE_FILE),
        ("rsdgc-site.service", "rsdgc-site.service"),
        ("site-compose.yaml", "compose.yaml"),
    ):
        _write(federation, template, folder / name, site=site)
    if own is None:
        if not registered.exists() or (folder / "node.key").exists():
            write_once(folder / "node.key", make_pair(site)[0], PRIVATE)
            own = read_private(folder / "node.key").public_key()
        else:
            own = read_public(registered)
    write_once(folder / "node.pub", public_line(own, site))
    write_once(registered, public_line(own, site))
    _list_in_compose(federation)
    return folder


def renew(federation: Federation) -> Path:
    """Sign a new certificate for the server, with a new key, in place of the old ones.

    The old ones stay beside them as ``server.crt.old`` and ``server.key.old``. Sites need nothing:
    they trust the authority.
    """
    server = federation.folder / "server"
    for name in ("server.crt", "server.key"):
        if (server / name).exists():
            (server / name).replace(server / f"{name}.old")
    _make_server(federation)
    return server / "server.crt"


def _make_authority(federation: Federation) -> None:
    folder = federation.folder / "authority"
    make_private_folder(folder)
    if (folder / "ca.crt").exists():
        return
    (folder / "ca.key").unlink(missing_ok=True)  # of a start that was stopped in between
    certificate, key = make_authority(federation.names[0])
    write_once(folder / "ca.key", key, PRIVATE)
    write_once(folder / "ca.crt", certificate)


def _make_server(federation: Federation) -> None:
    authority, folder = federation.folder / "authority", federation.folder / "server"
    for path in (folder, folder / "sites", folder / "state", folder / "runs"):
        make_private_folder(path)
    _copy(authority / "ca.crt", folder / "ca.crt")
    if not (folder / "server.crt").exists():
        (folder / "server.key").unlink(missing_ok=True)
        certificate, key = issue_server_certificate(
            (authority / "ca.crt").read_bytes(),
            read_secret(authority / "ca.key"),
            federation.names,
        )
        write_once(folder / "server.key", key, PRIVATE)
        write_once(folder / "server.crt", certificate)
    for template, name in (
        ("server.toml", SERVER_FILE),
        ("rsdgc-server.service", "rsdgc-server.service"),
        ("nginx.conf", "nginx.conf"),
        ("server-compose.yaml", "compose.yaml"),
    ):
        _write(federation, template, folder / name)


def _list_in_compose(federation: Federation) -> None:
    here = [site for site in federation.sites if (federation.folder / "sites" / site).is_dir()]
    replace_text(
        federation.folder / "compose.yaml", _render(federation, "compose.yaml", sites=here)
    )


def _write(federation: Federation, template: str, path: Path, **values: Any) -> None:
    write_once(path, _render(federation, template, **values))


def _render(federation: Federation, template: str, **values: Any) -> str:
    templates = Environment(
        loader=PackageLoader("fl_app.deploy"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # no markup: configuration files of checked names
    )
    host = federation.names[0]
    public = f"[{host}]:{federation.port}" if ":" in host else f"{host}:{federation.port}"
    return templates.get_template(f"{template}.j2").render(
        names=federation.names,
        port=federation.port,
        public=public,
        dns_names=[name for name in federation.names if not _is_address(name)],
        version=version("rsdgc"),
        **values,
    )


def _copy(source: Path, target: Path) -> None:
    write_once(target, source.read_bytes())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _checked_site(site: str) -> None:
    try:
        check_site_name(site)
    except ValueError as error:
        raise SettingError(str(error)) from None


def _checked_names(names: Sequence[str]) -> list[str]:
    if not names:
        raise SettingError("--server names no server: give its DNS name or address")
    for name in names:
        if not _is_address(name) and (not _DNS_NAME.fullmatch(name) or len(name) > 253):
            raise SettingError(f"'{name}' is neither a DNS name nor an IP address")
    return list(names)
