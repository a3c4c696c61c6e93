"""The checks of a server, before it starts and while it runs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from fl_app.deploy.authority import LOOPBACK_NAMES
from fl_app.deploy.checks import (
    CheckResult,
    check_authority,
    check_disk,
    check_validity,
    check_versions,
    check_writable,
    read_certificate,
    run_check,
)
from fl_app.deploy.endpoint import Endpoint
from fl_app.deploy.node_keys import read_public
from fl_app.deploy.party_config import ServerConfig, split_address
from fl_app.deploy.secret_files import read_secret
from rsdgc.errors import RunError, SettingError

_RENEW = "run rsdgc deploy renew on the machine that has the authority"


def check_server(config: ServerConfig) -> Iterator[CheckResult]:
    """Run every check of a server and yield the results."""
    yield check_versions()
    yield run_check("authority", lambda: check_authority(config.ca_certificate))
    yield run_check("certificate", lambda: check_certificate(config), _RENEW)
    yield run_check("sites' keys", lambda: _check_site_keys(config), "run rsdgc deploy add-site")
    yield check_writable("state", config.state_dir)
    yield check_writable("runs", config.runs_dir)
    yield check_disk(config.runs_dir, config.min_free_gb)
    yield _check_superlink(config)
    yield _check_proxy(config)


def check_certificate(config: ServerConfig) -> CheckResult:
    """Check the server's certificate: its authority, key, names and dates.

    Raises
    ------
    SettingError
        Sites would not accept the certificate.
    """
    certificate = read_certificate(config.certificate)
    try:
        certificate.verify_directly_issued_by(read_certificate(config.ca_certificate))
    except (ValueError, TypeError, InvalidSignature):
        raise SettingError(
            f"{config.certificate} is not signed by the authority of {config.ca_certificate}"
        ) from None
    key = serialization.load_pem_private_key(read_secret(config.private_key), password=None)
    if key.public_key() != certificate.public_key():
        raise SettingError(f"{config.private_key} is not the key of {config.certificate}")
    certified = _certified_names(certificate)
    missing = [name for name in (*config.names, *LOOPBACK_NAMES) if name not in certified]
    if missing:
        raise SettingError(f"{config.certificate} is not valid for {', '.join(missing)}")
    return check_validity(
        "certificate",
        certificate.not_valid_after_utc,
        _RENEW,
        begins=certificate.not_valid_before_utc,
    )


def superlink_endpoint(config: ServerConfig) -> Endpoint:
    """Return the SuperLink behind the proxy, as this machine reaches it."""
    host, port = split_address(config.listen)
    unspecified = host in ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to
    return Endpoint("127.0.0.1" if unspecified else host, port, config.ca_certificate)


def _check_site_keys(config: ServerConfig) -> str:
    paths = sorted(config.keys.glob("*.pub"))
    if not paths:
        raise SettingError(f"{config.keys} has no site's public key")
    for path in paths:
        read_public(path)
    return f"{len(paths)}: {', '.join(path.stem for path in paths)}"


def _certified_names(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    }


def _check_superlink(config: ServerConfig) -> CheckResult:
    host, _ = split_address(config.listen)
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback:
        return CheckResult(
            "SuperLink",
            "FAILED",
            f"listens on {config.listen}, which other machines may reach",
            'set listen = "127.0.0.1:8000", with the proxy before it',
        )
    try:
        superlink_endpoint(config).health()
    except RunError:
        return CheckResult("SuperLink", "ok", f"not started yet; will listen on {config.listen}")
    return CheckResult("SuperLink", "ok", f"answers on {config.listen}")


def _check_proxy(config: ServerConfig) -> CheckResult:
    """Ask the public address, as a site would, what it lets through."""
    if config.public == config.listen:
        return CheckResult("proxy", "warning", "no proxy: only sites on this machine can join")
    host, port = split_address(config.public)
    proxy = Endpoint(host, port, config.ca_certificate)
    try:
        reply = proxy.health()
        exposed = proxy.exposes_control()
    except RunError as error:
        # No failure: many networks do not let a machine reach itself by its public name.
        remedy = "start nginx with nginx.conf, and check that its public name leads to this machine"
        return CheckResult("proxy", "warning", str(error), remedy)
    if exposed:
        return CheckResult(
            "proxy",
            "FAILED",
            f"anyone who reaches {config.public} can start runs",
            "use nginx.conf unchanged: it passes only /v1/fleet/ and /health",
        )
    if reply.status != 200:
        remedy = "run rsdgc server start, or see systemctl status rsdgc-server"
        return CheckResult("proxy", "warning", f"answers with status {reply.status}", remedy)
    return CheckResult("proxy", "ok", f"{config.public} passes only the sites' calls")
