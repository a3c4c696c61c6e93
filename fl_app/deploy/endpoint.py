"""What a server answers over TLS: can it be trusted, what does its clock say, what is exposed."""

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


class UntrustedError(RunError):
    """The server's certificate is not one that this party trusts."""


@dataclass(frozen=True)
class Reply:
    """An answer of the server.

    Attributes
    ----------
    status : int
        Of HTTP.
    ahead_s : float or None
        How far this machine's clock is ahead of the server's, seconds, to a second; None if the
        server did not say what time it is.
    expires : datetime or None
        When the server's certificate ends; None where it was not verified.
    """

    status: int
    ahead_s: float | None
    expires: datetime | None


@dataclass(frozen=True)
class Endpoint:
    """A server as seen from here.

    Attributes
    ----------
    host, port : str, int
        Its address.
    ca_certificate : Path
        The authority to trust.
    """

    host: str
    port: int
    ca_certificate: Path

    def health(self) -> Reply:
        """Ask whether the server is well.

        Raises
        ------
        UntrustedError
            Its certificate is of another authority, for another name, or out of its time.
        RunError
            It cannot be reached.
        SettingError
            The authority's certificate cannot be read.
        """
        return self._ask("GET", "/health", self._context())

    def exposes_control(self) -> bool:
        """Return whether calls that start runs get through to the SuperLink.

        Raises
        ------
        RunError
            It cannot be reached, or is not to be trusted.
        """
        return self._ask("POST", CONTROL_PATH, self._context()).status not in (403, 404, 405)

    def clock_ahead_s(self) -> float | None:
        """Return how far this machine's clock is ahead, without trust in the certificate.

        A clock that is far out makes every certificate invalid, so that it could not be found
        otherwise. Nothing else is believed of such an answer.

        Raises
        ------
        RunError
            The server cannot be reached.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return self._ask("GET", "/health", context).ahead_s

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self.ca_certificate))
        except (OSError, ssl.SSLError):
            raise SettingError(
                f"the authority's certificate {self.ca_certificate} cannot be read: take ca.crt "
                "from the folder that the federation gave you"
            ) from None

    def _ask(self, method: str, path: str, context: ssl.SSLContext) -> Reply:
        where = f"{self.host}:{self.port}"
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=TIMEOUT_S, context=context
        )
        try:
            connection.request(method, path, headers={"Connection": "close"})
            peer = connection.sock.getpeercert() if connection.sock is not None else None
            response = connection.getresponse()
            response.read()
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(
                f"the server at {where} is not to be trusted: {error.verify_message}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RunError(f"the server at {where} cannot be reached: {reason}") from None
        finally:
            connection.close()
        return Reply(response.status, _ahead(response.getheader("Date")), _expiry(peer))


def _ahead(date: str | None) -> float | None:
    try:
        return None if date is None else time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _expiry(peer: object) -> datetime | None:
    if not isinstance(peer, dict) or "notAfter" not in peer:
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(peer["notAfter"])), UTC)
