"""What a party finds before it runs, against servers that really speak TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fl_app.deploy.checks import Finding, disk, failed, table, validity, versions, writable
from fl_app.deploy.party_config import SiteConfig, read_server
from fl_app.deploy.provision import Federation, init
from fl_app.deploy.server_checks import check_server
from fl_app.deploy.site_checks import check_site, clock
from fl_app.flower.superlink import free_ports
from tests.deployment.parties import edit

Configure = Callable[[int], SiteConfig]


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.about: finding for finding in findings}


def test_a_site_that_can_join(made: Federation, site: Configure, serve: Callable[..., int]) -> None:
    found = by_name(check_site(site(serve(made.folder / "server"))))
    assert failed(found.values()) == 0, table(found.values())
    assert set(found) == {
        *("versions", "authority", "key", "clock", "server", "certificate", "exposure"),
        *("state", "disk", "data", "GPU"),
    }
    assert found["data"].found.startswith("72 chips to train on") or "chips" in found["data"].found
    assert found["key"].found.startswith("SHA256:")


def test_another_authority_is_not_trusted(
    made: Federation, site: Configure, serve: Callable[..., int], tmp_path: Path
) -> None:
    other = init(tmp_path / "other", ["127.0.0.1"], 443, [])
    found = by_name(check_site(site(serve(other.folder / "server"))))
    assert found["server"].outcome == "FAILED"
    assert "not to be trusted" in found["server"].found
    assert found["clock"].outcome == "ok"  # told without trust


def test_another_name_is_not_trusted(
    made: Federation, site: Configure, serve: Callable[..., int]
) -> None:
    port = serve(made.folder / "server")
    config = site(port).model_copy(update={"server": f"127.0.0.2:{port}"})
    found = by_name(check_site(config))
    assert found["server"].outcome == "FAILED"


@pytest.mark.parametrize(
    ("behind_s", "outcome"), [(0, "ok"), (200, "ok"), (400, "FAILED"), (-2, "ok"), (-20, "FAILED")]
)
def test_clocks(
    made: Federation,
    site: Configure,
    serve: Callable[..., int],
    behind_s: float,
    outcome: str,
) -> None:
    found = by_name(check_site(site(serve(made.folder / "server", clock_s=behind_s))))
    assert found["clock"].outcome == outcome, found["clock"]


def test_a_server_that_is_not_there_or_not_well(
    made: Federation, site: Configure, serve: Callable[..., int]
) -> None:
    found = by_name(check_site(site(free_ports(1)[0])))
    assert "cannot be reached" in found["server"].found
    assert found["server"].remedy
    found = by_name(check_site(site(serve(made.folder / "server", health=502))))
    assert "status 502" in found["server"].found


def test_a_site_without_data_or_key(
    made: Federation, site: Configure, serve: Callable[..., int], tmp_path: Path
) -> None:
    config = site(serve(made.folder / "server"))
    config.private_key.chmod(0o640)
    found = by_name(check_site(config.model_copy(update={"data_dir": tmp_path / "nothing"})))
    assert found["data"].outcome == found["key"].outcome == "FAILED"
    assert "rsdgc ingest" in found["data"].remedy
    text = table(found.values())
    assert "FAILED   data" in text
    assert "→ rsdgc ingest" in text


@pytest.fixture
def server_file(made: Federation, tmp_path: Path) -> Path:
    path = made.folder / "server" / "server.toml"
    edit(
        path,
        state_dir=str(tmp_path / "server-state"),
        runs_dir=str(tmp_path / "runs"),
        min_free_gb=0.001,
        listen=f"127.0.0.1:{free_ports(1)[0]}",
    )
    return path


def test_a_server_before_and_after_its_start(
    made: Federation, server_file: Path, serve: Callable[..., int]
) -> None:
    edit(server_file, public=f"127.0.0.1:{free_ports(1)[0]}")
    found = by_name(check_server(read_server(server_file)))
    assert failed(found.values()) == 0, table(found.values())
    assert "not started yet" in found["SuperLink"].found
    assert found["sites' keys"].found == "2: alpha, beta-2"
    link, proxy = (serve(made.folder / "server", control=status) for status in (400, 404))
    edit(server_file, public=f"127.0.0.1:{proxy}", listen=f"127.0.0.1:{link}")
    found = by_name(check_server(read_server(server_file)))
    assert found["proxy"].outcome == "ok", found["proxy"]
    assert "answers" in found["SuperLink"].found


def test_a_server_that_is_open_to_all(
    made: Federation, server_file: Path, serve: Callable[..., int]
) -> None:
    exposed = serve(made.folder / "server", control=400)
    edit(server_file, public=f"127.0.0.1:{exposed}", listen="0.0.0.0:8000")
    found = by_name(check_server(read_server(server_file)))
    assert found["proxy"].outcome == "FAILED"
    assert "runs can be started" in found["proxy"].found
    assert found["SuperLink"].outcome == "FAILED"


def test_a_certificate_that_does_not_fit(
    made: Federation, server_file: Path, tmp_path: Path
) -> None:
    edit(server_file, names=["127.0.0.1", "other.example.org"])
    found = by_name(check_server(read_server(server_file)))
    assert "is not for other.example.org" in found["certificate"].found
    other = init(tmp_path / "other", ["127.0.0.1"], 443, [])
    edit(server_file, ca_certificate=str(other.folder / "authority" / "ca.crt"))
    found = by_name(check_server(read_server(server_file)))
    assert "not signed by this authority" in found["certificate"].found


def test_validity() -> None:
    now = datetime.now(UTC)
    day = timedelta(days=1)
    assert validity("c", now + 90 * day, "renew").outcome == "ok"
    assert validity("c", now + 9 * day, "renew").outcome == "warning"
    assert validity("c", now - day, "renew").remedy == "renew"
    assert "set the clock" in validity("c", now + 9 * day, "", begins=now + day).remedy


def test_the_machine(tmp_path: Path) -> None:
    assert versions().outcome == "ok", versions()
    assert disk(tmp_path / "not" / "yet", 0.0).outcome == "ok"
    assert disk(tmp_path, 1e9).outcome == "FAILED"
    assert writable("state", tmp_path / "new").outcome == "ok"
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert writable("state", tmp_path / "file").outcome == "FAILED"
    assert clock(None).outcome == "warning"
