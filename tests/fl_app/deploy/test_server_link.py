"""What keeps a server from starting, and that the remedy helps: its certificate, its port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_app.deploy import server_link, supernode
from fl_app.deploy.checks import check_certificate
from fl_app.deploy.credentials import issue_server_certificate
from fl_app.deploy.endpoint import UntrustedServerError
from fl_app.deploy.party_config import SiteConfig, read_server
from fl_app.deploy.provision import Federation, renew_certificate
from rsdgc.errors import RunError, SettingError
from tests.deployment.parties import edit


@pytest.fixture
def server_file(federation: Federation) -> Path:
    """Return the configuration of a server whose certificate has just expired."""
    folder = federation.folder
    authority = [(folder / "authority" / name).read_bytes() for name in ("ca.crt", "ca.key")]
    certificate, key = issue_server_certificate(*authority, federation.names, days=0)
    for name, content in (("server.crt", certificate), ("server.key", key)):
        (folder / "server" / name).write_bytes(content)
    return folder / "server" / "server.toml"


def test_a_server_with_an_expired_certificate_does_not_start_until_it_is_renewed(
    federation: Federation, server_file: Path
) -> None:
    with pytest.raises(SettingError, match=r"server\.crt: expired on .*; run rsdgc deploy renew"):
        server_link.start_superlink(read_server(server_file))
    renew_certificate(federation)
    assert check_certificate(read_server(server_file)).status == "ok"


def test_a_site_says_that_the_servers_certificate_has_expired(
    site: Callable[[int], SiteConfig], serve: Callable[..., int], server_file: Path
) -> None:
    config = site(serve(server_file.parent))
    with pytest.raises(UntrustedServerError, match="certificate has expired"):
        supernode.start(config)
    assert supernode.read_record(config) is None


def test_a_server_whose_port_another_program_has_does_not_start(
    federation: Federation, tmp_path: Path
) -> None:
    path = federation.folder / "server" / "server.toml"
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        folders = {"state_dir": str(tmp_path / "state"), "runs_dir": str(tmp_path / "runs")}
        edit(path, listen=address, **folders)
        other.settimeout(20)

        def answer() -> None:
            other.accept()[0].close()

        closing = threading.Thread(target=answer)
        closing.start()  # it answers, but is no server of ours
        with pytest.raises(RunError, match=r"cannot listen on 127.* set another listen in server"):
            server_link.start_superlink(read_server(path))
        closing.join()
