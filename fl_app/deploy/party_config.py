"""The configuration files of a server and of a site, as their folders have them.

Paths are relative to the file's own folder, so that the folder can be put anywhere.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rsdgc.errors import SettingError

SERVER_FILE = "server.toml"
SITE_FILE = "site.toml"

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_site_name(name: str) -> str:
    """Return a site's name if it can be a folder's and a record's.

    Raises
    ------
    ValueError
        It cannot.
    """
    if not _SITE_NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' is no site's name: letters, digits, '.', '_' and '-', a letter or digit "
            "first, at most 63"
        )
    return name


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port``; an IPv6 address stands in brackets.

    Raises
    ------
    ValueError
        It is no such address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"'{address}' is no address: write host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _address(text: str) -> str:
    split_address(text)
    return text


def _plain(path: Path) -> Path:
    if any(mark in str(path) for mark in "\"'\n"):
        raise ValueError("a path for Flower may have no quotes")
    return path


Address = Annotated[str, AfterValidator(_address)]
SiteName = Annotated[str, AfterValidator(check_site_name)]
PlainPath = Annotated[Path, AfterValidator(_plain)]


class _Party(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
    )

    ca_certificate: PlainPath
    private_key: PlainPath
    state_dir: PlainPath
    min_free_gb: float = Field(3.0, ge=0)


class SiteConfig(_Party):
    """A site's ``site.toml``.

    Attributes
    ----------
    name : str
        By which the server and the ledger know the site.
    server : str
        Where the sites reach the server, ``host:port``.
    ca_certificate, private_key : Path
        The federation's authority; this site's key.
    data_dir : Path
        The store that ``rsdgc ingest`` made here.
    state_dir : Path
        Where replica, residual and Flower's own files are kept.
    port : int
        Of this machine's loopback, for the site's own processes; another for each site on it.
    min_free_gb : float
        Free space that ``rsdgc deploy check`` asks for.
    """

    name: SiteName
    server: Address
    data_dir: PlainPath
    port: int = Field(9094, ge=1, le=65535)


class ServerConfig(_Party):
    """A server's ``server.toml``.

    Attributes
    ----------
    names : list of str
        DNS names and addresses in the certificate, the first of them the federation's.
    public : str
        Where the sites reach the proxy, ``host:port``.
    listen : str
        Where the SuperLink listens, ``host:port``: the loopback, with the proxy before it.
    ca_certificate, certificate, private_key : Path
        The federation's authority; the server's certificate and key.
    keys : Path
        Folder of the sites' public keys, ``<site>.pub``.
    state_dir : Path
        Flower's database and its own files.
    runs_dir : Path
        Where runs are written.
    """

    names: list[str] = Field(min_length=1)
    public: Address
    listen: Address
    certificate: PlainPath
    keys: PlainPath
    runs_dir: PlainPath


_P = TypeVar("_P", bound=_Party)


def read_site(path: Path) -> SiteConfig:
    """Read a ``site.toml``.

    Raises
    ------
    SettingError
        It cannot be read, or a value is missing or wrong.
    """
    return _parse(SiteConfig, path, _load(path))


def read_server(path: Path) -> ServerConfig:
    """Read a ``server.toml``.

    Raises
    ------
    SettingError
        It cannot be read, or a value is missing or wrong.
    """
    return _parse(ServerConfig, path, _load(path))


def read_party(path: Path) -> SiteConfig | ServerConfig:
    """Read either, by what the file has.

    Raises
    ------
    SettingError
        It cannot be read, or a value is missing or wrong.
    """
    values = _load(path)
    if "listen" in values:
        return _parse(ServerConfig, path, values)
    return _parse(SiteConfig, path, values)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(
            f"{path} cannot be read ({error.strerror}): name the party's file with --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}") from None


def _parse(kind: type[_P], path: Path, values: Mapping[str, Any]) -> _P:
    try:
        party = kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = f"is no setting of {path.name}"
        elif first["type"] == "missing":
            reason = "is missing"
        raise SettingError(f"{path}: {key}: {reason}") from None
    here = path.absolute().parent
    paths = {name: here / value for name, value in party if isinstance(value, Path)}
    return party.model_copy(update=paths)
