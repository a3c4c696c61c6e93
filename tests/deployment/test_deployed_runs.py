"""Runs that complete, runs that fail, a stranger, and a hostile site, in processes on the loopback.

The folders are from ``rsdgc deploy init``, with TLS, keys and a database, and with paths and ports
adapted to this machine. Every step is a command that an operator types.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fl_app.deploy.credentials import make_pair
from fl_app.deploy.party_config import read_server
from fl_app.flower.superlink import free_ports, tool
from fl_app.live.dashboard_page import DashboardPage
from fl_app.models import build_model
from tests.deployment.hostile_node import ATTACKS, HOSTILE, ROUNDS, RUN, HostileNode
from tests.deployment.parties import COMMON, ROOT, Loopback, Running, rsdgc, until
from tests.documentation.test_own_network import write_files

HONEST = ("site-00", "site-01")
SITES = (*HONEST, HOSTILE)

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(3600)]


def write_weights(federation: Loopback, name: str, seed: int) -> Path:
    path = federation.folder / f"{name}.safetensors"
    save_file(build_model("small-cnn", 3, 4, 16, seed=seed).state_dict(), path)
    return path


def start_sites(running: Running) -> None:
    """Start the honest sites; the second one has initial weights of its own.

    They are read only by a run that starts from weights.
    """
    for site in HONEST:
        if site in running.nodes:
            continue
        if site == "site-01":
            weights = write_weights(running.federation, "own", seed=6)
            with running.federation.site_file(site).open("a", encoding="utf-8") as file:
                file.write(f'init-weights = "{weights}"\n')
        running.start(site)


def test_a_stranger_is_refused_while_a_run_completes(running: Running) -> None:
    federation = running.federation
    start_sites(running)
    big_enough = ("--model", "small-resnet", "--budget", "2x", "budget-down=2x", "budget-final=2x")
    run = federation.start(
        "run", "server", "run", "--config", federation.server_file, "--out", "first", *big_enough,
        *("--rounds", "2", "--min-sites", "2"), *COMMON,
    )  # fmt: skip

    # A site's folder with a key that is not registered. That of another authority is refused
    # before Flower starts: tests/fl_app/deploy/test_supernode.py.
    stranger = federation.made / "sites" / "stranger"
    shutil.copytree(federation.site_file("site-00").parent, stranger)
    federation.configure_site("stranger", running.data, free_ports(1)[0])
    (stranger / "node.key").write_bytes(make_pair("stranger")[0])
    code, output = rsdgc("site", "start", "--config", stranger / "site.toml")
    assert code == 1, output
    assert "the server did not admit site" in output

    assert run.end() == 0, run.log()
    assert "report: " in run.log().splitlines()[-1]
    summary = federation.summary("first")
    assert summary["num_sites"] == len(HONEST)
    assert summary["rounds"] == 2
    assert summary["refused"] == {}
    assert "2 of 2 rounds" in DashboardPage(federation.runs / "first").html()
    traffic = json.loads((federation.runs / "first" / "traffic.json").read_text(encoding="utf-8"))
    for way in ("up", "down"):
        ledger, wire = traffic[f"ledger_{way}"], traffic[f"wire_{way}"]
        assert ledger == summary[f"bytes_{way}"]
        assert ledger < wire < 1.01 * ledger, way

    code, output = rsdgc("deploy", "check", "--config", federation.site_file("site-01"))
    assert code == 0, output
    code, output = rsdgc("site", "status", "--config", federation.site_file("site-01"))
    assert code == 0, output
    assert "running since" in output


def test_what_is_frozen_is_sent_once_to_a_site_with_other_weights(running: Running) -> None:
    federation = running.federation
    start_sites(running)
    weights = write_weights(federation, "run", seed=5)
    words = [f"init-weights={weights}", "train-only=head"]
    words += ["--model", "small-cnn", "--budget", "1000", "budget-down=1000", "--rounds", "2"]
    words += ["--min-sites", "2"]
    code, output = federation.server("run", "--out", "frozen", *words, *COMMON)
    assert code == 0, output
    assert federation.summary("frozen")["refused"] == {}
    sent = [row for row in federation.rows("frozen") if "frozen part" in row["down_by_group"]]
    assert [(row["round"], row["site"]) for row in sent] == [(1, "site-01")]
    kept = list((federation.folder / "site-state" / "site-01" / "frozen").iterdir())
    assert len(kept) == 1
    delivered = load_file(federation.runs / "frozen" / "model.safetensors")
    backbone = build_model("small-cnn", 3, 4, 16, seed=5).state_dict()
    assert torch.equal(delivered["stage2.0.weight"], backbone["stage2.0.weight"])


def test_an_app_of_a_users_own_brings_its_network_to_the_sites(
    running: Running, tmp_path: Path
) -> None:
    """As docs/own-network.md says: no site has the network's files."""
    federation = running.federation
    start_sites(running)
    project = tmp_path / "myapp"
    project.mkdir()
    write_files(project)
    shutil.copy(ROOT / "LICENSE", project)
    with (project / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write('min-sites = 2\nbatch-size = 8\ndevice = "cpu"\n')
    home = read_server(federation.server_file).state_dir / "flower"
    done = subprocess.run(
        [tool("flwr"), "run", ".", "rsdgc", "--run-config", f'out="{federation.runs / "own"}"'],
        cwd=project,
        env={**os.environ, "FLWR_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    until((federation.runs / "own" / "config.json").exists, "the run has its folder")
    code, output = federation.server("watch", "own")
    assert code == 0, output
    assert "4/4 | 2 of 2 sites" in output
    summary = federation.summary("own")
    assert (summary["model"], summary["refused"]) == ("mynet:build", {})


def test_honest_sites_finish_a_run_beside_a_hostile_one(running: Running, tmp_path: Path) -> None:
    federation = running.federation
    words = [f"{key}={value}" for key, value in RUN.items()]
    start_sites(running)
    hostile = HostileNode(running, tmp_path / "state")
    hostile.start()
    try:
        code, output = federation.server("run", "--out", "beside", *words)
    finally:
        hostile.stop.set()
        hostile.join(60)
    assert not hostile.failure, hostile.failure
    assert code == 0, output
    rows = [row for row in federation.rows("beside") if row["phase"] == "train"]
    refused = [(row["site"], row["reason"]) for row in rows if not row["accepted"]]
    assert refused == [(HOSTILE, reason) for _, reason in ATTACKS]
    assert sum(row["accepted"] for row in rows) == len(HONEST) * ROUNDS
    assert all(row["bytes_up"] > 0 for row in rows)
    assert federation.summary("beside")["refused"]
    for _, reason in ATTACKS:
        assert reason in output
    assert "\x1b" not in output
    delivered = load_file(federation.runs / "beside" / "model.safetensors")
    assert all(np.isfinite(layer.numpy()).all() for layer in delivered.values())


def test_a_run_that_fails_is_reported_with_its_reason(running: Running) -> None:
    words = ["--out", "too-few", "--min-sites", "4", "join-timeout-s=1", *COMMON]
    code, output = running.federation.server("run", *words)
    assert code == 1, output
    assert output.splitlines()[-1].startswith("error: run ")
    assert "of at least 4 sites joined" in output


def test_a_revoked_site_returns_with_a_new_key_only(running: Running) -> None:
    federation = running.federation
    start_sites(running)
    node = running.nodes["site-01"]
    node.wait_for("SuperNode ID:")
    code, output = federation.server("revoke", "site-01", "--yes")
    assert code == 0, output
    assert "Revoking it is final" in output
    assert "rsdgc deploy renew --site site-01" in output
    assert node.end() == 1, node.log()  # refused at its next call
    assert "the server has withdrawn this site's key" in node.log()
    code, output = federation.server("revoke", "site-01", "--yes")
    assert (code, "not registered; registered are: site-00" in output) == (2, True), output

    # The old key, first with and then without this app's own list.
    public = federation.made / "server" / "sites" / "site-01.pub"
    shutil.copy(public.with_name("site-01.pub.revoked"), public)
    make_pair_of(federation, "aaa-late")
    code, output = federation.server("register")
    assert code == 1, output
    assert "site-01: REFUSED, its key was withdrawn on 20" in output
    assert "site-00: already registered" in output
    assert "aaa-late: registered as node" in output
    (federation.folder / "server-state" / "revoked.json").unlink()
    make_pair_of(federation, "zzz-late")
    code, output = federation.server("register")
    assert code == 1, output
    line = next(line for line in output.splitlines() if line.startswith("site-01: REFUSED"))
    assert "Public key already in use" in line
    assert "zzz-late: registered as node" in output

    code, output = rsdgc("deploy", "renew", "--site", "site-01", "--out", federation.made)
    assert code == 0, output
    code, output = federation.server("register")
    assert code == 0, output
    assert "site-01: registered as node" in output
    running.start("site-01").wait_for("SuperNode ID:")


def make_pair_of(federation: Loopback, site: str) -> None:
    """Put the public key of another site into the server's folder."""
    path = federation.made / "server" / "sites" / f"{site}.pub"
    path.write_bytes(make_pair(site)[1])
