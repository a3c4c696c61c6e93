"""The checks of servers and sites, against servers that really speak TLS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fl_app.deploy.checks import (
    CheckResult,
    check_clock,
    check_code,
    check_disk,
    check_gpu,
    check_isolation,
    check_server,
    check_site,
    check_validity,
    check_versions,
    check_writable,
    format_table,
)
from fl_app.deploy.party_config import SiteConfig, read_server
from fl_app.deploy.provision import Federation, init_federation
from fl_app.flower.superlink import free_ports
from tests.command import rsdgc
from tests.deployment.parties import edit

Configure = Callable[[int], SiteConfig]


def by_subject(results: Iterable[CheckResult]) -> dict[str, CheckResult]:
    return {result.subject: result for result in results}


def assert_no_failures(results: Mapping[str, CheckResult]) -> None:
    failed = [result for result in results.values() if result.status == "FAILED"]
    assert not failed, format_table(failed)


def test_a_site_that_can_join(
    federation: Federation, site: Configure, serve: Callable[..., int]
) -> None:
    results = by_subject(check_site(site(serve(federation.folder / "server"))))
    assert_no_failures(results)
    assert set(results) == {
        *("versions", "authority", "key", "isolation", "clock", "server", "certificate"),
        *("exposure", "state", "node", "disk", "data", "code", "GPU"),
    }
    assert results["code"].detail.startswith("no modules in ")
    assert "chips to train on" in results["data"].detail
    assert results["key"].detail.startswith("SHA256:")


def test_a_site_whose_app_can_read_its_key(site: Configure) -> None:
    config = site(free_ports(1)[0])
    assert check_isolation(config).status == "ok"
    checked = check_isolation(config.model_copy(update={"app_secret": None}))
    assert checked.status == "warning"
    assert "can read the site's key" in checked.detail


def test_modules_of_ones_own_are_signed_and_not_run(code_dir: Path) -> None:
    (code_dir / "their_network.py").write_text("def build(): ...\n")
    (code_dir / "their_script.py").write_text("raise SystemExit\n")
    checked = check_code(code_dir)
    assert checked.status == "ok"
    signed = r"[0-9a-f]{16} \(1 file\), "
    assert re.match(f"their_network {signed}their_script {signed}timm ", checked.detail)


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "is_available": True,
        "get_device_name": "Tesla T4",
        "mem_get_info": (15 * 10**9, 16 * 10**9),
        "is_bf16_supported": False,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, partial(lambda answer, **_: answer, answer))
    detail = "Tesla T4, 15.0 of 16.0 GB free, mixed precision in float16"
    assert check_gpu() == CheckResult("GPU", "ok", detail)


def test_another_authority_is_not_trusted(
    federation: Federation,
    site: Configure,
    serve: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = init_federation(tmp_path / "other", ["127.0.0.1"], 443, [])
    results = by_subject(check_site(site(serve(other.folder / "server"))))
    assert results["server"].status == "FAILED"
    assert "is not trusted" in results["server"].detail
    assert results["clock"].status == "ok"  # told by the unverified server
    site_file = federation.folder / "sites" / "alpha" / "site.toml"
    assert rsdgc(monkeypatch, "deploy", "check", "--config", site_file) == 1
    captured = capsys.readouterr()
    assert "check that ca.crt is the federation's" in captured.out
    assert "checks failed" in captured.err


def test_another_name_is_not_trusted(
    federation: Federation, site: Configure, serve: Callable[..., int]
) -> None:
    port = serve(federation.folder / "server")
    config = site(port).model_copy(update={"server": f"127.0.0.2:{port}"})
    results = by_subject(check_site(config))
    assert results["server"].status == "FAILED"


@pytest.mark.parametrize(
    ("ahead_s", "status"), [(0, "ok"), (200, "ok"), (400, "FAILED"), (-2, "ok"), (-20, "FAILED")]
)
def test_clocks(
    federation: Federation,
    site: Configure,
    serve: Callable[..., int],
    ahead_s: float,
    status: str,
) -> None:
    results = by_subject(check_site(site(serve(federation.folder / "server", clock_s=ahead_s))))
    assert results["clock"].status == status, results["clock"]


def test_a_server_that_is_not_there_or_not_well(
    federation: Federation, site: Configure, serve: Callable[..., int]
) -> None:
    results = by_subject(check_site(site(free_ports(1)[0])))
    assert "cannot be reached" in results["server"].detail
    assert results["server"].remedy
    results = by_subject(check_site(site(serve(federation.folder / "server", health=502))))
    assert "status 502" in results["server"].detail


def test_a_site_without_data_or_key(
    federation: Federation, site: Configure, serve: Callable[..., int], tmp_path: Path
) -> None:
    config = site(serve(federation.folder / "server"))
    config.private_key.chmod(0o640)
    results = by_subject(check_site(config.model_copy(update={"data_dir": tmp_path / "nothing"})))
    assert results["data"].status == results["key"].status == "FAILED"
    assert "rsdgc ingest" in results["data"].remedy
    text = format_table([*results.values()])
    assert "FAILED   data" in text
    assert "→ make a store of this site's archive: rsdgc ingest" in text


def test_a_sites_own_weights_are_read(
    federation: Federation, site: Configure, serve: Callable[..., int], tmp_path: Path
) -> None:
    config = site(serve(federation.folder / "server"))
    assert "weights" not in by_subject(check_site(config))
    config = config.model_copy(update={"init_weights": tmp_path / "w.safetensors"})
    result = by_subject(check_site(config))["weights"]
    assert (result.status, "does not exist" in result.detail) == ("FAILED", True)
    save_file({"head.weight": np.zeros((2, 3), np.float32)}, tmp_path / "w.safetensors")
    result = by_subject(check_site(config))["weights"]
    assert (result.status, result.detail[:9]) == ("ok", "1 entries")


@pytest.fixture
def server_file(federation: Federation, tmp_path: Path) -> Path:
    path = federation.folder / "server" / "server.toml"
    edit(
        path,
        state_dir=str(tmp_path / "server-state"),
        runs_dir=str(tmp_path / "runs"),
        min_free_gb=0.001,
        listen=f"127.0.0.1:{free_ports(1)[0]}",
    )
    return path


def test_a_server_before_and_after_its_start(
    federation: Federation, server_file: Path, serve: Callable[..., int]
) -> None:
    edit(server_file, public=f"127.0.0.1:{free_ports(1)[0]}")
    results = by_subject(check_server(read_server(server_file)))
    assert_no_failures(results)
    assert "not started yet" in results["SuperLink"].detail
    assert results["sites' keys"].detail == "2: alpha, beta-2"
    link, proxy = (serve(federation.folder / "server", control=status) for status in (400, 404))
    edit(server_file, public=f"127.0.0.1:{proxy}", listen=f"127.0.0.1:{link}")
    results = by_subject(check_server(read_server(server_file)))
    assert results["proxy"].status == "ok", results["proxy"]
    assert "answers" in results["SuperLink"].detail


def test_a_server_that_is_open_to_all(
    federation: Federation, server_file: Path, serve: Callable[..., int]
) -> None:
    exposed = serve(federation.folder / "server", control=400)
    edit(server_file, public=f"127.0.0.1:{exposed}", listen="0.0.0.0:8000")
    results = by_subject(check_server(read_server(server_file)))
    assert results["proxy"].status == "FAILED"
    assert "can start runs" in results["proxy"].detail
    assert results["SuperLink"].status == "FAILED"


def test_a_certificate_that_does_not_fit(
    federation: Federation, server_file: Path, tmp_path: Path
) -> None:
    edit(server_file, names=["127.0.0.1", "other.example.org"])
    results = by_subject(check_server(read_server(server_file)))
    assert "is not valid for other.example.org" in results["certificate"].detail
    other = init_federation(tmp_path / "other", ["127.0.0.1"], 443, [])
    edit(server_file, ca_certificate=str(other.folder / "authority" / "ca.crt"))
    results = by_subject(check_server(read_server(server_file)))
    assert "is not signed by the authority of" in results["certificate"].detail


def test_validity() -> None:
    now = datetime.now(UTC)
    day = timedelta(days=1)
    assert check_validity("c", now + 90 * day, "renew").status == "ok"
    assert check_validity("c", now + 9 * day, "renew").status == "warning"
    assert check_validity("c", now - day, "renew").remedy == "renew"
    assert "set the clock" in check_validity("c", now + 9 * day, "", begins=now + day).remedy


def test_the_machine(tmp_path: Path) -> None:
    assert check_versions().status == "ok", check_versions()
    assert check_disk(tmp_path / "not" / "yet", 0.0, "free some").status == "ok"
    assert check_disk(tmp_path, 1e9, "free some").remedy == "free some"
    assert check_writable("state", tmp_path / "new").status == "ok"
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert check_writable("state", tmp_path / "file").status == "FAILED"
    assert check_clock(None).status == "warning"
