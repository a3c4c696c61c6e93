"""The app as sites run it: a SuperLink and a SuperNode per site, each a process of its own.

On loopback and without TLS; what a site needs beyond this is in the README.
"""

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from fl_app.superlink import CONNECTION, free_ports, process, superlink, tool
from tests.federation import make_data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SITES = ("site-00", "site-01")


def supernode(site: str, data: Path, state: Path, link: int, own: int) -> list[str]:
    config = f'site-name="{site}" data-dir="{data}" state-dir="{state / site}"'
    return [
        tool("flower-supernode"),
        *("--insecure", "--superlink", f"127.0.0.1:{link}", "--port", str(own)),
        *("--node-config", config),
    ]


def flwr(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [tool("flwr"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_sites_train_over_supernodes(tmp_path: Path) -> None:
    data = make_data(tmp_path, sites=len(SITES))
    home = tmp_path / "flower"
    home.mkdir()
    settings = (
        f'out="{tmp_path / "run"}" model="small-cnn" rounds=2 budget="10x" batch-size=8 '
        f'device="cpu" min-sites={len(SITES)}'
    )
    with ExitStack() as stack:
        environment, port = stack.enter_context(superlink(home, simulation=False))
        for site, own in zip(SITES, free_ports(len(SITES)), strict=True):
            command = supernode(site, data, tmp_path / "state", port, own)
            stack.enter_context(process(command, environment, tmp_path / f"{site}.log"))
        log = flwr(environment, "run", str(ROOT), CONNECTION, "--run-config", settings, "--stream")
        assert "error:" not in log, log
        listed = flwr(environment, "list", CONNECTION, "--format", "json")
    run = json.loads(listed[listed.index("{") :])["runs"][0]
    assert run["status"] == "finished:completed", log
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["num_sites"] == len(SITES)
    assert summary["refused"] == {}
    for site in SITES:
        assert len(list((tmp_path / "state" / site).rglob("state.json"))) == 1
    # Flower's own count of the wire holds every byte of the ledger, and its own framing on top.
    traffic = run["network-traffic"]
    assert traffic["inbound-bytes"] > summary["bytes_up"]
    assert traffic["outbound-bytes"] > summary["bytes_down"]
