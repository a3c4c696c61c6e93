"""The federation's own certificate authority, and the server certificates that it signs.

Sites trust this authority only. A public authority therefore cannot vouch for another server.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rsdgc.errors import SettingError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 730
LOOPBACK_NAMES = ("localhost", "127.0.0.1")
"""Names in every server certificate: the proxy and the operator's commands use the loopback."""
CLOCK_LEEWAY = timedelta(hours=1)
"""A certificate is valid from this long before it is signed: a site's clock may be behind."""


def make_authority(federation: str) -> tuple[bytes, bytes]:
    """Make a certificate authority.

    Parameters
    ----------
    federation : str
        Name of the server, for the certificate's subject.

    Returns
    -------
    certificate, key : bytes
        Both in PEM.
    """
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
    authority_certificate: bytes, authority_key: bytes, names: Sequence[str]
) -> tuple[bytes, bytes]:
    """Sign a certificate for a server, with a new key.

    Parameters
    ----------
    authority_certificate, authority_key : bytes
        Both in PEM, as :func:`make_authority` returns them.
    names : sequence of str
        DNS names and IP addresses by which sites reach the server.

    Returns
    -------
    certificate, key : bytes
        Both in PEM.

    Raises
    ------
    SettingError
        The authority's files are damaged or do not match.
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
    unique_names = dict.fromkeys([*names, *LOOPBACK_NAMES])
    unsigned = (
        _certificate_builder(_common_name(names[0]), issuer.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in unique_names]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return _to_pem(unsigned, issuer_key, key)


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


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _to_pem(
    unsigned: x509.CertificateBuilder,
    issuer_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
) -> tuple[bytes, bytes]:
    """Sign a certificate; return it and its own key in PEM."""
    certificate = unsigned.sign(issuer_key, hashes.SHA384())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
