"""The configuration files ``server.toml`` and ``site.toml``.

Paths in a file are relative to the file's own folder, so that the folder can be moved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fl_app.deploy.endpoint import Endpoint
from fl_app.setting_values import UnitInterval
from rsdgc.documents import DocumentError, read_toml, shorten
from rsdgc.errors import SettingError

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_site_name(name: str) -> str:
    """Return a site's name; raise ``ValueError`` if it cannot name a folder and a record."""
    if not _SITE_NAME.fullmatch(name):
        raise ValueError(
            f"{shorten(name)} is not a site name: use at most 63 letters, digits, '.', '_' and "
            "'-', and begin with a letter or digit"
        )
    return name


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port``, where an IPv6 host is in brackets; raise ``ValueError`` for others."""
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{shorten(address)} is not an address: write host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_address(text: str) -> str:
    split_address(text)
    return text


def _check_unquoted(path: Path) -> Path:
    # Paths go into Flower's --node-config, which has no way to escape a quote.
    if any(mark in "\"'" or not mark.isprintable() for mark in str(path)):
        raise ValueError("a path must not contain quotes, line breaks or control characters")
    return path


Address = Annotated[str, AfterValidator(_check_address)]
SiteName = Annotated[str, AfterValidator(check_site_name)]
UnquotedPath = Annotated[Path, AfterValidator(_check_unquoted)]


class _PartyConfig(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
    )

    ca_certificate: UnquotedPath
    """Certificate of the federation's authority."""
    private_key: UnquotedPath
    state_dir: UnquotedPath
    """Folder for Flower's own files; at the server its database, at a site replica and residual."""
    code_dir: UnquotedPath = Path("code")
    """Folder of modules of the user's own, such as that of a network; need not exist."""
    min_free_gb: float = Field(3.0, ge=0)
    """Free space that ``rsdgc deploy check`` requires, GB."""


class SiteConfig(_PartyConfig):
    """A site's ``site.toml``."""

    name: SiteName
    """The site's name in the server's list and in the byte ledger."""
    server: Address
    """Address at which sites reach the server."""
    data_dir: UnquotedPath
    """The store that ``rsdgc ingest`` made of this site's archive."""
    init_weights: UnquotedPath | None = None
    """This machine's copy of the weights that runs start from; without one the server sends it."""
    gpu_share: UnitInterval | None = None
    """Share of the GPU's memory that this site may take; without one, that of the run."""
    port: int = Field(9094, ge=1, le=65535)
    """Loopback port of the site's own processes; every site on one machine needs another."""
    node_dir: UnquotedPath | None = None
    """Folder for the SuperNode's own files; by default ``state_dir``."""
    app_secret: UnquotedPath | None = None
    """Secret that the SuperNode shares with an app in a process of its own."""

    @property
    def node_folder(self) -> Path:
        """The folder for the SuperNode's own files."""
        return self.node_dir or self.state_dir

    @property
    def server_endpoint(self) -> Endpoint:
        """The server as this site reaches it."""
        return Endpoint(*split_address(self.server), self.ca_certificate)


class ServerConfig(_PartyConfig):
    """A server's ``server.toml``."""

    names: list[str] = Field(min_length=1)
    """DNS names and IP addresses in the certificate; the first one names the federation."""
    public: Address
    """Address at which sites reach the proxy."""
    listen: Address
    """Address at which the SuperLink listens: on the loopback, behind the proxy."""
    certificate: UnquotedPath
    """The server's own certificate."""
    keys: UnquotedPath
    """Folder of the sites' public keys, ``<site>.pub``."""
    runs_dir: UnquotedPath
    """Folder for runs."""

    @property
    def superlink_endpoint(self) -> Endpoint:
        """The SuperLink behind the proxy, as this machine reaches it."""
        host, port = split_address(self.listen)
        unspecified = host in ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to
        return Endpoint("127.0.0.1" if unspecified else host, port, self.ca_certificate)


_Config = TypeVar("_Config", bound=_PartyConfig)


def read_site(path: Path) -> SiteConfig:
    """Read a ``site.toml``; raise :class:`SettingError` if a value is missing or wrong."""
    return _parse(SiteConfig, path, _load(path))


def read_server(path: Path) -> ServerConfig:
    """Read a ``server.toml``; raise :class:`SettingError` if a value is missing or wrong."""
    return _parse(ServerConfig, path, _load(path))


def read_party(path: Path) -> SiteConfig | ServerConfig:
    """Read a ``server.toml`` or a ``site.toml``; only the former has ``listen``."""
    values = _load(path)
    if "listen" in values:
        return _parse(ServerConfig, path, values)
    return _parse(SiteConfig, path, values)


def _load(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except OSError as error:
        raise SettingError(
            f"{path} cannot be read ({error.strerror}): work in the folder that rsdgc deploy init "
            "made for this machine, or name its server.toml or site.toml with --config"
        ) from None
    except DocumentError as error:
        raise SettingError(f"{path} cannot be used: {error}: correct it") from None


def _parse(kind: type[_Config], path: Path, values: Mapping[str, Any]) -> _Config:
    try:
        config = kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = f"is not a setting of {path.name}"
        elif first["type"] == "missing":
            reason = "is missing"
        raise SettingError(f"{path}: {key}: {reason}") from None
    folder = path.absolute().parent
    paths = {name: folder / value for name, value in config if isinstance(value, Path)}
    return config.model_copy(update=paths)
