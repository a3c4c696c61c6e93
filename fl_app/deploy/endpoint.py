"""The server as a client sees it over TLS: its certificate, its clock, and what it exposes."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from rsdgc.errors import RunError, SettingError

TIMEOUT_S = 10.0
CONTROL_PATH = "/v1/control/list-runs"
"""One of the calls that start, read and stop runs; sites must not reach any of them."""


class UntrustedServerError(RunError):
    """The server's certificate is not valid for this party."""


@dataclass(frozen=True)
class ServerReply:
    """A reply of the server.

    Attributes
    ----------
    status : int
        HTTP status.
    clock_ahead_s : float or None
        How far this machine's clock is ahead of the server's, to a second; None if the server did
        not send its time.
    certificate_expires : datetime or None
        When the server's certificate expires; None if the certificate was not verified.
    """

    status: int
    clock_ahead_s: float | None
    certificate_expires: datetime | None


@dataclass(frozen=True)
class Endpoint:
    """A server's address, and the authority that must have signed its certificate.

    Attributes
    ----------
    host : str
        DNS name or IP address.
    port : int
        TCP port.
    ca_certificate : Path
        Certificate of the authority to trust.
    """

    host: str
    port: int
    ca_certificate: Path

    def health(self) -> ServerReply:
        """Ask for ``/health``.

        Raises
        ------
        UntrustedServerError
            The certificate is from another authority, for another name, or not valid now.
        RunError
            The server cannot be reached.
        SettingError
            The authority's certificate cannot be read.
        """
        return self._request("GET", "/health", self._trusting_context())

    def exposes_control(self) -> bool:
        """Return whether calls that start runs reach the SuperLink.

        Raises
        ------
        RunError
            The server cannot be reached, or is not trusted.
        """
        reply = self._request("POST", CONTROL_PATH, self._trusting_context())
        # The call lacks what the SuperLink asks for. A proxy refuses the path; the SuperLink
        # itself complains about the content (status 415).
        return reply.status not in (403, 404, 405)

    def clock_ahead_s(self) -> float | None:
        """Return how far this machine's clock is ahead, without verifying the certificate.

        A clock that is far off makes every certificate invalid. Only the time of this reply is
        used: nothing else of an unverified server may be believed.

        Raises
        ------
        RunError
            The server cannot be reached.
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
        address = f"{self.host}:{self.port}"
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=TIMEOUT_S, context=context
        )
        try:
            connection.request(method, path, headers={"Connection": "close"})
            # Taken before the response is read, which closes the socket.
            peer = connection.sock.getpeercert() if connection.sock is not None else None
            response = connection.getresponse()
            response.read()
        except ssl.SSLCertVerificationError as error:
            raise UntrustedServerError(
                f"the server at {address} is not trusted: {error.verify_message}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RunError(f"the server at {address} cannot be reached: {reason}") from None
        finally:
            connection.close()
        return ServerReply(
            response.status, _clock_ahead_s(response.getheader("Date")), _expiry(peer)
        )


def _clock_ahead_s(date: str | None) -> float | None:
    try:
        return None if date is None else time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _expiry(peer: object) -> datetime | None:
    if not isinstance(peer, dict) or "notAfter" not in peer:
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(peer["notAfter"])), UTC)
