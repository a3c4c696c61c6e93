"""A federation of processes on the loopback with TLS, keys, database: runs, faults, strangers.

All of it is what ``rsdgc deploy init`` made, with paths and ports fitted to this machine, and every
step is a command that an operator types. The server and its sites live as long as the module.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fl_app.flower.superlink import free_ports
from fl_app.runs.lock import lock_holder
from tests.deployment.parties import Loopback, Process, kill, rsdgc, until
from tests.federation import make_data

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(3600)]

SITES = ("site-00", "site-01", "site-02")
COMMON = ("batch-size=8", "learning-rate=0.02", "device=cpu")


class Running:
    """The federation and what runs of it."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.data = make_data(folder, sites=len(SITES))
        self.federation = Loopback(stack, folder, self.data, SITES)
        self.server = self.federation.start_server()
        code, said = self.federation.server("register")
        assert code == 0, said
        self.nodes: dict[str, Process] = {}

    def start(self, site: str) -> Process:
        self.nodes[site] = self.federation.start_site(site)
        return self.nodes[site]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(stack, tmp_path_factory.mktemp("federation"))


def test_strangers_are_refused_while_a_run_goes_to_its_end(running: Running) -> None:
    federation = running.federation
    for site in SITES:
        running.start(site)
    big_enough = ("--model", "small-resnet", "--budget", "2x", "budget-down=2x", "budget-final=2x")
    run = federation.start(
        "run", "server", "run", "--config", federation.server_file, "--out", "first", *big_enough,
        *("--rounds", "2"), *COMMON,
    )  # fmt: skip

    stranger = copy_of_site(federation, running.data, "site-00", "stranger")
    shutil.copy(federation.made / "server" / "ca.crt", stranger / "ca.crt")
    code, said = rsdgc("deploy", "init", *("--sites", "x", "--server", "127.0.0.1"), "--out",
                       federation.folder / "other")  # fmt: skip
    assert code == 0, said
    own_key = federation.folder / "other" / "sites" / "x" / "node.key"
    shutil.copy(own_key, stranger / "node.key")
    code, said = rsdgc("site", "start", "--config", stranger / "site.toml")
    assert code == 1, said
    assert "the server did not admit site" in said

    shutil.copy(federation.folder / "other" / "authority" / "ca.crt", stranger / "ca.crt")
    code, said = rsdgc("site", "start", "--config", stranger / "site.toml")
    assert code == 1, said
    assert "is not trusted" in said
    code, said = rsdgc("deploy", "check", "--config", stranger / "site.toml")
    assert code == 1
    assert "check that ca.crt is the federation's" in said

    assert run.end() == 0, run.log()
    assert "report: " in run.log().splitlines()[-1]
    summary = federation.summary("first")
    assert summary["num_sites"] == len(SITES)
    assert summary["rounds"] == 2
    assert summary["refused"] == {}
    traffic = json.loads((federation.runs / "first" / "traffic.json").read_text(encoding="utf-8"))
    for way in ("up", "down"):
        ledger, wire = traffic[f"ledger_{way}"], traffic[f"wire_{way}"]
        assert ledger == summary[f"bytes_{way}"]
        assert ledger < wire < 1.01 * ledger, way

    code, said = rsdgc("deploy", "check", "--config", federation.site_file("site-01"))
    assert code == 0, said
    code, said = rsdgc("site", "status", "--config", federation.site_file("site-01"))
    assert code == 0, said
    assert "running since" in said


def test_a_run_that_fails_says_so(running: Running) -> None:
    words = ["--out", "too-few", "--min-sites", "4", "join-timeout-s=1", *COMMON]
    code, said = running.federation.server("run", *words)
    assert code == 1, said
    assert said.splitlines()[-1].startswith("error: run ")
    assert "of at least 4 sites joined" in said


def test_a_run_outlives_its_sites_and_its_server(running: Running) -> None:
    federation = running.federation
    for site in SITES[:2]:
        if site not in running.nodes:
            running.start(site)
    if (late := running.nodes.get("site-02")) is not None:
        late.popen.terminate()
        assert late.end() == 0, late.log()

    words = ["--out", "second", "--model", "small-cnn", "--rounds", "4", "--budget", "10x"]
    words += ["--min-sites", "2", "quorum=3", "checkpoint-every=1", *COMMON]
    run = federation.start("run", "server", "run", "--config", federation.server_file, *words)

    # A round begins once all three are there, so that none of this depends on who is quick.
    # One that joins late: the roll has been called.
    run.wait_for("run folder: ")
    running.start("site-02")
    until(lambda: "site-02" in accepted(federation), "site-02 joins", run, running.nodes["site-02"])

    # One that is killed in the middle of a round, and comes back.
    victim = running.nodes["site-00"]
    seen = victim.log().count("Receiving: train")
    until(lambda: victim.log().count("Receiving: train") > seen, "site-00 works", run, victim)
    kill(federation.node("site-00")["pid"])
    assert victim.end() == 1, victim.log()
    back = running.start("site-00")
    until(lambda: bool(refused(federation, "site-00")), "the round goes on without it", run)

    # The server is killed, and started again when the run's processes are gone, which could not
    # tell it so: Flower takes the run for one that goes on, for a minute. It is taken up at once,
    # from its last checkpoint and with all three.
    kill(running.server.popen.pid)
    assert running.server.end() != 0
    assert run.end() == 1, run.log()
    until(lambda: not at_work(federation, "second"), "the run's processes end")
    running.server = federation.start_server()
    done = len({row["round"] for row in federation.rows("second")})
    code, said = federation.server("resume", "second", "--min-sites", "3")
    assert code == 0, said
    assert "resumed after round" in said
    summary = federation.summary("second")
    assert summary["rounds"] == 4
    assert summary["num_sites"] == len(SITES)
    rows = federation.rows("second")
    assert {row["round"] for row in rows if row["phase"] == "train"} == set(range(1, 5))
    late_rows = [row for row in rows if row["site"] == "site-00" and row["round"] > done]
    assert late_rows
    assert all(row["accepted"] for row in late_rows)
    back.wait_for("Receiving: train")

    code, said = federation.server("watch")
    assert code == 0, said
    assert all(f"{site}: online" in said for site in SITES)
    states = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("run ")]
    assert states[0] == "finished:completed"  # the newest, and nothing more to say of it


def accepted(federation: Loopback) -> set[str]:
    return {row["site"] for row in federation.rows("second") if row["accepted"]}


def refused(federation: Loopback, site: str) -> list[str]:
    rows = federation.rows("second")
    return [row["reason"] for row in rows if row["site"] == site and not row["accepted"]]


def at_work(federation: Loopback, run: str) -> bool:
    last = lock_holder(federation.runs / run)
    assert last is not None
    return last.at_work


def copy_of_site(federation: Loopback, data: Path, site: str, name: str) -> Path:
    """Copy a site's folder, to be started beside it."""
    folder = federation.made / "sites" / name
    shutil.copytree(federation.site_file(site).parent, folder)
    federation.fit_site(name, data, free_ports(1)[0])
    return folder
