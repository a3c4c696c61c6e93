"""A federation's folders, and servers that answer like a SuperLink behind its proxy."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep, time

import pytest

from fl_app.deploy.party_config import SiteConfig, read_site
from fl_app.deploy.provision import Federation, init_federation
from fl_app.flower.superlink import free_ports
from tests.deployment.parties import edit
from tests.federation import make_data

SITES = ("alpha", "beta-2")


@pytest.fixture(scope="session")
def shared_federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    folder = tmp_path_factory.mktemp("deploy") / "federation"
    return init_federation(folder, ["127.0.0.1", "fl.example.org"], 8443, SITES)


@pytest.fixture
def federation(shared_federation: Federation, tmp_path: Path) -> Federation:
    """Return a federation of the test's own."""
    return replace(
        shared_federation, folder=shutil.copytree(shared_federation.folder, tmp_path / "federation")
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy-data")
    make_data(folder, sites=2)
    return folder / "store"


StartServer = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[StartServer]:
    """Start servers that speak TLS; each returns its port."""
    with ExitStack() as stack:

        def start(
            party: Path,
            *,
            clock_s: float = 0.0,
            health: int = 200,
            control: int = 404,
            slow_s: float = 0.0,
        ) -> int:
            handler = _handler(clock_s, health, control, slow_s)
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(party / "server.crt", party / "server.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return int(server.server_address[1])

        yield start


@pytest.fixture
def site(federation: Federation, store: Path, tmp_path: Path) -> Callable[[int], SiteConfig]:
    """Return site alpha's configuration for a server at a port of the loopback."""

    def configure(port: int) -> SiteConfig:
        path = federation.folder / "sites" / "alpha" / "site.toml"
        edit(
            path,
            server=f"127.0.0.1:{port}",
            data_dir=str(store),
            state_dir=str(tmp_path / "state"),
            node_dir=str(tmp_path / "node"),
            port=free_ports(1)[0],
            min_free_gb=0.001,
        )
        return read_site(path)

    return configure


def _handler(
    clock_s: float, health: int, control: int, slow_s: float
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(health if self.path == "/health" else 404)

        def do_POST(self) -> None:
            self._answer(control)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time() + clock_s, usegmt=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            sleep(slow_s)  # the date is set, but not sent
            self.end_headers()

    return Handler
