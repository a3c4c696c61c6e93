"""A site's key pair, by which the server identifies it: P-384 in OpenSSH's format, as in Flower."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fl_app.deploy.secret_files import read_secret
from rsdgc.errors import SettingError

_EXPECTED = (
    "an ECDSA key in OpenSSH's format: make one with ssh-keygen -t ecdsa -b 384 -N '' -f node.key"
)


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


def read_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return a site's private key.

    Raises
    ------
    SettingError
        The file cannot be read, is open to other users, or is not an ECDSA key of OpenSSH.
    """
    try:
        key = serialization.load_ssh_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingError(f"{path} is not {_EXPECTED}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SettingError(f"{path} is not {_EXPECTED}")
    return key


def read_public(path: Path) -> ec.EllipticCurvePublicKey:
    """Return a site's public key.

    Raises
    ------
    SettingError
        The file cannot be read, or is not an ECDSA key of OpenSSH.
    """
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except OSError as error:
        raise SettingError(f"public key {path} cannot be read ({error.strerror})") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingError(f"{path} is not the public half of {_EXPECTED}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SettingError(f"{path} is not the public half of {_EXPECTED}")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key's fingerprint as ``ssh-keygen -l`` shows it."""
    blob = base64.b64decode(public_line(key, "").split()[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"
