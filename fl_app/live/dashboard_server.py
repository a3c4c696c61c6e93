"""``rsdgc dashboard``: serve the page of one run to browsers on this machine.

The server listens on the loopback alone and serves three things: the page, its script and the run's
``report.html``. A name in the ``Host`` header that is not this machine's is refused, so that a page
from elsewhere cannot read it under a name of its own (DNS rebinding).
"""

from __future__ import annotations

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fl_app.live.dashboard_page import (
    POLICY,
    REPORT_PATH,
    SCRIPT,
    SCRIPT_PATH,
    DashboardPage,
)
from fl_app.live.progress import check_run_folder
from fl_app.runs.records import REPORT_FILE
from rsdgc.documents import DocumentError, read_bytes
from rsdgc.errors import SettingError

HOST = "127.0.0.1"
OWN_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""In the ``Host`` header; the port is another one behind ``ssh -L``."""
REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
REQUEST_TIMEOUT_S = 20
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class DashboardServer(ThreadingHTTPServer):
    """Serves the run in a folder until it is shut down.

    Parameters
    ----------
    folder : Path
        The run's.
    port : int
        0 for a free one.

    Raises
    ------
    RunFolderError
        The folder is not a run's.
    SettingError
        The port cannot be used.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        check_run_folder(folder)
        self.folder = folder.absolute()
        self.page = DashboardPage(self.folder)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingError(
                f"port {port} of {HOST} cannot be used ({reason}): choose another --port, or leave "
                "it out for a free one"
            ) from None

    @property
    def url(self) -> str:
        """Address for a browser."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a browser that leaves in the middle of an answer is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: DashboardServer
    server_version, sys_version = "rsdgc", ""
    timeout = REQUEST_TIMEOUT_S

    def do_GET(self) -> None:  # http.server's name
        """Answer with one of the three things, or refuse."""
        if not self._is_own_name():
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this dashboard is 127.0.0.1's")
        elif self.path == "/":
            self._answer("text/html", self.server.page.html().encode(), POLICY)
        elif self.path == SCRIPT_PATH:
            self._answer("text/javascript", SCRIPT.encode(), POLICY)
        elif self.path == REPORT_PATH:
            self._answer_report()
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "the dashboard has no such page")

    do_HEAD = do_GET  # noqa: N815

    def _is_own_name(self) -> bool:
        # Two of them would leave it to each reader which one counts.
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1:
            return False
        name, _, port = hosts[0].strip().rpartition(":")
        return (name if port.isdigit() else hosts[0].strip()).lower() in OWN_NAMES

    def _answer_report(self) -> None:
        try:
            content = read_bytes(self.server.folder / REPORT_FILE)
        except (OSError, DocumentError):
            self._refuse(HTTPStatus.NOT_FOUND, "the run has no report yet")
            return
        self._answer("text/html", content, REPORT_POLICY)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._answer("text/plain", f"{text}\n".encode(), "default-src 'none'", status)

    def _answer(
        self, kind: str, content: bytes, policy: str, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", f"{policy}; frame-ancestors 'none'")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def address_string(self) -> str:
        """Return the peer's address without asking for its name."""
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Print nothing."""


def serve(folder: Path, port: int = 0) -> None:
    """Serve a run's dashboard until the process is interrupted, which is its ordinary end."""
    with DashboardServer(folder, port) as server:
        print(f"dashboard: {server.url} (Ctrl-C ends it, and not the run)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nthe dashboard has ended", flush=True)
