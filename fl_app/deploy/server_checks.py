"""What the server looks at before it starts, and while it runs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from fl_app.deploy.authority import SELF_NAMES
from fl_app.deploy.checks import (
    Finding,
    authority,
    disk,
    read_certificate,
    run_check,
    validity,
    versions,
    writable,
)
from fl_app.deploy.endpoint import Endpoint
from fl_app.deploy.node_keys import read_public
from fl_app.deploy.party_config import ServerConfig, split_address
from fl_app.deploy.secret_files import read_secret
from rsdgc.errors import RunError, SettingError

_RENEW = "rsdgc deploy renew, where the authority is"


def check_server(config: ServerConfig) -> Iterator[Finding]:
    """Look at everything that the server needs, one finding after the other."""
    yield versions()
    yield run_check("authority", lambda: authority(config.ca_certificate))
    yield run_check("certificate", lambda: certificate(config), _RENEW)
    yield run_check("sites' keys", lambda: describe_keys(config), "rsdgc deploy add-site")
    yield writable("state", config.state_dir)
    yield writable("runs", config.runs_dir)
    yield disk(config.runs_dir, config.min_free_gb)
    yield _listening(config)
    yield from _seen_from_outside(config)


def certificate(config: ServerConfig) -> Finding:
    """Look at the server's certificate: authority, names, key, time.

    Raises
    ------
    SettingError
        It is not what the sites will accept.
    """
    own = read_certificate(config.certificate)
    try:
        own.verify_directly_issued_by(read_certificate(config.ca_certificate))
    except (ValueError, TypeError, InvalidSignature):
        raise SettingError(f"{config.certificate} is not signed by this authority") from None
    key = serialization.load_pem_private_key(read_secret(config.private_key), password=None)
    if key.public_key() != own.public_key():
        raise SettingError(f"{config.private_key} is not the key of {config.certificate}")
    missing = [name for name in (*config.names, *SELF_NAMES) if name not in _names_in(own)]
    if missing:
        raise SettingError(f"{config.certificate} is not for {', '.join(missing)}")
    return validity("certificate", own.not_valid_after_utc, _RENEW, begins=own.not_valid_before_utc)


def own_endpoint(config: ServerConfig) -> Endpoint:
    """Return the SuperLink behind the proxy, as this machine reaches it."""
    host, port = split_address(config.listen)
    unspecified = host in ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to
    return Endpoint("127.0.0.1" if unspecified else host, port, config.ca_certificate)


def describe_keys(config: ServerConfig) -> str:
    """Return how many sites' keys there are.

    Raises
    ------
    SettingError
        There are none, or one is no key.
    """
    paths = sorted(config.keys.glob("*.pub"))
    if not paths:
        raise SettingError(f"no site's public key in {config.keys}")
    for path in paths:
        read_public(path)
    return f"{len(paths)}: {', '.join(path.stem for path in paths)}"


def _names_in(own: x509.Certificate) -> set[str]:
    try:
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    }


def _listening(config: ServerConfig) -> Finding:
    host, _ = split_address(config.listen)
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        return Finding(
            "SuperLink",
            "FAILED",
            f"listens on {config.listen}, which other machines may reach",
            'listen = "127.0.0.1:8000", with the proxy before it',
        )
    try:
        own_endpoint(config).health()
    except RunError:
        return Finding("SuperLink", "ok", f"not started yet; it will listen on {config.listen}")
    return Finding("SuperLink", "ok", f"answers on {config.listen}")


def _seen_from_outside(config: ServerConfig) -> Iterator[Finding]:
    if config.public == config.listen:
        yield Finding("proxy", "warning", "none: only this machine's sites can join")
        return
    host, port = split_address(config.public)
    outside = Endpoint(host, port, config.ca_certificate)
    try:
        reply = outside.health()
        exposed = outside.exposes_control()
    except RunError as error:
        remedy = "start nginx with nginx.conf; does this machine's own name lead here?"
        yield Finding("proxy", "warning", str(error), remedy)
        return
    if exposed:
        yield Finding(
            "proxy",
            "FAILED",
            f"runs can be started through {config.public}",
            "use nginx.conf as it is: only /v1/fleet/ and /health",
        )
    elif reply.status != 200:
        remedy = "rsdgc server start; systemctl status rsdgc-server"
        yield Finding("proxy", "warning", f"answers with status {reply.status}", remedy)
    else:
        yield Finding("proxy", "ok", f"{config.public} passes the sites' calls and no others")
