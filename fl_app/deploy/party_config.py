"""The configuration files ``server.toml`` and ``site.toml``.

Paths in a file are relative to the file's own folder, so that the folder can be moved.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from fl_app.deploy.endpoint import Endpoint
from fl_app.setting_values import UnitInterval
from rsdgc.documents import DocumentError, explain_invalid, read_toml, shorten
from rsdgc.errors import SettingError

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


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
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{shorten(address)} is not an address: write host:port")
    inner = host.removeprefix("[").removesuffix("]")
    if not (_is_ipv6(inner) if host == f"[{inner}]" else _HOST.fullmatch(host)):
        raise ValueError(
            f"{shorten(address)} is not an address: write host:port, with a DNS name or an IP "
            "address alone before the colon, and an IPv6 address in brackets"
        )
    return inner, int(port)


def _is_ipv6(text: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(text).version == 6
    return False


def _check_address(text: str) -> str:
    split_address(text)
    return text


def _check_unquoted(path: Path) -> Path:
    # Paths go into Flower's --node-config, which has no way to escape a quote.
    if any(mark in "\"'" or not mark.isprintable() for mark in str(path)):
        raise ValueError("a path must not contain quotes, line breaks or control characters")
    return path


def _check_path_text(value: object) -> object:
    if not isinstance(value, str | Path):
        raise ValueError(f"{shorten(value)} is not a path: write a text in quotes")
    if not str(value).strip():
        raise ValueError("it is empty: write a path, or leave out a line that may be missing")
    return value


def _expand_home(path: Path) -> Path:
    # No shell has read the file.
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder of {path} is not known: write the whole path") from None


def _check_server_name(name: str) -> str:
    if not _is_ipv6(name) and not _HOST.fullmatch(name):
        raise ValueError(f"{shorten(name)} is neither a DNS name nor an IP address")
    return name


Address = Annotated[str, AfterValidator(_check_address)]
SiteName = Annotated[str, AfterValidator(check_site_name)]
ServerName = Annotated[str, AfterValidator(_check_server_name)]
UnquotedPath = Annotated[
    Path,
    BeforeValidator(_check_path_text),
    AfterValidator(_check_unquoted),
    AfterValidator(_expand_home),
]


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

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_true_or_false(cls, value: object) -> object:
        # Python counts True as 1.
        if isinstance(value, bool):
            raise ValueError(f"{str(value).lower()} is neither a number nor a text: write one")
        return value


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

    names: list[ServerName] = Field(min_length=1)
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
    """Read a ``server.toml`` or a ``site.toml``, by the keys that only one of them has."""
    values = _load(path)
    return _parse(_kind_of(values) or SiteConfig, path, values)


def _kind_of(values: Mapping[str, Any]) -> type[ServerConfig | SiteConfig] | None:
    """Return whose file it is, by most of its own keys; None if it has none."""
    own = {kind: _keys(kind) - _keys(_PartyConfig) for kind in (ServerConfig, SiteConfig)}
    counts = {kind: len(keys & values.keys()) for kind, keys in own.items()}
    kind = max(counts, key=lambda kind: counts[kind])
    return kind if counts[kind] else None


def _keys(kind: type[_PartyConfig]) -> set[str]:
    return {str(field.alias) for field in kind.model_fields.values()}


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
    if _kind_of(values) not in (None, kind):
        file = "server.toml" if kind is ServerConfig else "site.toml"
        other = "a site's" if kind is ServerConfig else "a server's"
        raise SettingError(f"{path} is {other} file: name this machine's {file} with --config")
    try:
        config = kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][0])
            reason = f"{shorten(key)[1:-1]}: is not a setting of {path.name}{_hint(kind, key)}"
        elif first["type"] == "missing":
            reason = f"{first['loc'][0]}: is missing: add the line"
        else:
            reason = explain_invalid(error)
        raise SettingError(f"{path}: {reason}") from None
    folder = path.absolute().parent
    paths = {name: folder / value for name, value in config if isinstance(value, Path)}
    return config.model_copy(update=paths)


def _hint(kind: type[_PartyConfig], key: str) -> str:
    """Return what to do about a key that a party's file does not have."""
    near = difflib.get_close_matches(key, _keys(kind), n=1)
    if near:
        return f"; did you mean '{near[0]}'?"
    from fl_app.settings import Settings  # noqa: PLC0415  # a site's SuperNode needs none

    if key in set(Settings.keys()):
        return ", but of a run: give it to rsdgc server run"
    return ": leave it out"
