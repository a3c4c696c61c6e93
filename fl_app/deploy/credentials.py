"""Certificates and keys of a federation: its authority, its server, and its sites.

Sites trust the federation's own authority only, so a public authority cannot vouch for another
server. The server identifies a site by its key pair: P-384 in OpenSSH's format, as in Flower.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rsdgc.errors import SettingError

AUTHORITY_DAYS = 3650
LOOPBACK_NAMES = ("localhost", "127.0.0.1")
"""Names in every server certificate: the proxy and the operator's commands use the loopback."""
CLOCK_LEEWAY = timedelta(hours=1)
"""A certificate is valid from this long before it is signed: a site's clock may be behind."""
_EXPECTED = (
    "an ECDSA key in OpenSSH's format: make one with ssh-keygen -t ecdsa -b 384 -N '' -f node.key"
)


def make_authority(federation: str) -> tuple[bytes, bytes]:
    """Make a certificate authority, named after the server; return certificate and key in PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _common_name(f"rsdgc authority of {federation}")
    unsigned = (
        _certificate_builder(name, name, key.public_key(), AUTHORITY_DAYS)
        # It signs servers only: no further authority below it.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
    )
    return _to_pem(unsigned, key, key)


def issue_server_certificate(
    authority_certificate: bytes, authority_key: bytes, names: Sequence[str], days: int
) -> tuple[bytes, bytes]:
    """Sign a certificate for a server, with a new key; return both in PEM.

    The authority is what :func:`make_authority` returned, in PEM; ``names`` are the DNS names and
    IP addresses by which sites reach the server; it is valid for ``days`` days from now.
    """
    try:
        issuer = x509.load_pem_x509_certificate(authority_certificate)
        issuer_key = serialization.load_pem_private_key(authority_key, password=None)
    except ValueError as error:
        raise SettingError(f"the authority's files are damaged: {error}") from None
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey) or (
        issuer_key.public_key() != issuer.public_key()
    ):
        raise SettingError("the authority's key does not match its certificate")
    key = ec.generate_private_key(ec.SECP384R1())
    general_names = [
        x509.IPAddress(ipaddress.ip_address(name)) if is_ip_address(name) else x509.DNSName(name)
        for name in dict.fromkeys([*names, *LOOPBACK_NAMES])
    ]
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    unsigned = (
        _certificate_builder(_common_name(names[0]), issuer.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(general_names), critical=False)
        .add_extension(issuer_id, critical=False)
    )
    return _to_pem(unsigned, issuer_key, key)


def is_ip_address(name: str) -> bool:
    """Return whether a server's name is an IP address, and not a DNS name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file; raise :class:`SettingError` if there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise SettingError(f"certificate {path} cannot be read ({error.strerror})") from None
    except ValueError:
        raise SettingError(f"{path} is not a certificate") from None


def make_pair(site: str) -> tuple[bytes, bytes]:
    """Make a site's key pair; return the contents of ``node.key`` and ``node.pub``."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return private, public_line(key.public_key(), site)


def public_line(key: ec.EllipticCurvePublicKey, site: str) -> bytes:
    """Return a public key as a line in OpenSSH's format, with the site's name as its comment."""
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return line + b" " + site.encode() + b"\n"


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key's fingerprint as ``ssh-keygen -l`` shows it."""
    blob = base64.b64decode(public_line(key, "").split()[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def read_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return a site's private key.

    It must be an ECDSA key of OpenSSH that other users cannot read.
    """
    content = read_secret(path)
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_ssh_private_key(content, password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    raise SettingError(f"{path} is not {_EXPECTED}")


def read_public(path: Path) -> ec.EllipticCurvePublicKey:
    """Return a site's public key; raise :class:`SettingError` if the file has no such key."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(f"public key {path} cannot be read ({error.strerror})") from None
    with suppress(ValueError, UnsupportedAlgorithm):
        key = serialization.load_ssh_public_key(content)
        if isinstance(key, ec.EllipticCurvePublicKey):
            return key
    raise SettingError(f"{path} is not the public half of {_EXPECTED}")


def read_secret(path: Path) -> bytes:
    """Return the content of a private key's file.

    The file must be unreadable to all but its owner.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(
            f"private key {path} cannot be read ({error.strerror}): run this in the folder of "
            "this machine, as its owner"
        ) from None
    if mode & 0o077:
        raise SettingError(
            f"private key {path} is open to other users (mode {mode:04o}): run chmod 600 {path}"
        )
    return content


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_LEEWAY)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    # X.509 limits a common name to 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _to_pem(
    unsigned: x509.CertificateBuilder,
    issuer_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
) -> tuple[bytes, bytes]:
    """Sign a certificate; return it and its own key in PEM."""
    certificate = unsigned.sign(issuer_key, hashes.SHA384())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
