"""The server as a client sees it over TLS: its certificate, its clock, and what it exposes."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from rsdgc.errors import RunError, SettingError

TIMEOUT_S = 30.0
"""For a reply: over a slow link or from a busy machine, the TLS handshake alone takes seconds."""
CONTROL_PATH = "/v1/control/list-runs"
"""One of the calls that start, read and stop runs; sites must not reach any of them."""


class UntrustedServerError(RunError):
    """The server's certificate is not valid for this party."""


@dataclass(frozen=True)
class ServerReply:
    """A reply of the server: its HTTP status, and what else it tells."""

    status: int
    clock_ahead_s: float | None
    """How far this machine's clock is ahead of the server's, if the server sent its time.

    The least that the reply proves (:func:`clock_ahead`): 0 if the two may agree.
    """
    certificate_expires: datetime | None
    """When the server's certificate expires, if the certificate was verified."""


@dataclass(frozen=True)
class Endpoint:
    """A server's address, and the certificate of the authority that must have signed the server's.

    Every request raises :class:`~rsdgc.errors.RunError` if the server cannot be reached.
    """

    host: str
    port: int
    ca_certificate: Path

    @property
    def address(self) -> str:
        """Host and port, ``host:port``, with an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def health(self) -> ServerReply:
        """Ask for ``/health``.

        Raises
        ------
        UntrustedServerError
            The certificate is from another authority, for another name, or not valid now.
        SettingError
            The authority's certificate cannot be read.
        """
        return self._request("GET", "/health", self._trusting_context())

    def exposes_control(self) -> bool:
        """Return whether calls that start runs reach the SuperLink."""
        reply = self._request("POST", CONTROL_PATH, self._trusting_context())
        # The call lacks what the SuperLink asks for. A proxy refuses the path; the SuperLink
        # itself complains about the content (status 415).
        return reply.status not in (403, 404, 405)

    def clock_ahead_s(self) -> float | None:
        """Return how far this machine's clock is ahead, without verifying the certificate.

        A clock that is far off makes every certificate invalid. Only the time of this reply is
        used: nothing else of an unverified server may be believed.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return self._request("GET", "/health", context).clock_ahead_s

    def _trusting_context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self.ca_certificate))
        except (OSError, ssl.SSLError):
            raise SettingError(
                f"the authority's certificate {self.ca_certificate} cannot be read: copy ca.crt "
                "from the folder that rsdgc deploy made for this machine"
            ) from None

    def _request(self, method: str, path: str, context: ssl.SSLContext) -> ServerReply:
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=TIMEOUT_S, context=context
        )
        try:
            connection.connect()
            sent_s = time.time()
            connection.request(method, path, headers={"Connection": "close"})
            # Taken before the response is read, which closes the socket.
            certificate = connection.sock.getpeercert()
            response = connection.getresponse()
            received_s = time.time()
            response.read()
        except ssl.SSLCertVerificationError as error:
            raise UntrustedServerError(
                f"the server at {self.address} is not trusted: {error.verify_message}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RunError(f"the server at {self.address} cannot be reached: {reason}") from None
        finally:
            connection.close()
        clock_ahead_s = expires = None
        with suppress(ValueError):  # a date that cannot be read counts as none
            if date := response.getheader("Date"):
                server_s = parsedate_to_datetime(date).timestamp()
                clock_ahead_s = clock_ahead(sent_s, server_s, received_s)
        if certificate:  # empty if it was not verified
            seconds = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
            expires = datetime.fromtimestamp(seconds, UTC)
        return ServerReply(response.status, clock_ahead_s, expires)


def refuse_taken_port(host: str, port: int, remedy: str) -> None:
    """Raise :class:`RunError`, with a remedy, if this machine cannot listen at an address.

    Flower would end with many lines, or as if the server had refused the site.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:  # no such name
        found, errors = [], [error]
    else:
        attempts = [_bind_error(family, address) for family, _, _, _, address in found]
        errors = [error for error in attempts if error is not None]
    taken = [error for error in errors if error.errno == errno.EADDRINUSE]
    # A name may have an address of a kind that this machine does not use.
    if taken or len(errors) >= max(1, len(found)):
        first = (taken or errors)[0]
        reason = first.strerror or str(first)
        raise RunError(f"cannot listen on {host}, port {port} ({reason}): {remedy}")


def _bind_error(family: int, address: Any) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: connections of one that has just ended are in no one's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def clock_ahead(sent_s: float, server_s: float, received_s: float) -> float:
    """Return the least by which a reply proves that this machine's clock is off.

    The server took its time somewhere between the request and the reply, which on a busy machine
    or a slow link are seconds apart, and HTTP sends it in whole seconds.

    Parameters
    ----------
    sent_s, received_s : float
        When the request was sent and the reply arrived on this machine's clock, in s since 1970.
    server_s : float
        The time that the reply names, rounded down to a second.

    Returns
    -------
    float
        Seconds; positive if this machine's clock is ahead, negative if it is behind, 0 if the
        clocks may agree.
    """
    least, most = sent_s - (server_s + 1.0), received_s - server_s
    return max(least, min(most, 0.0))
