"""A federation of processes on the loopback, with TLS, keys and a database: runs and faults.

Its folders are from ``rsdgc deploy init``, with paths and ports adapted to this machine, and every
step is a command that an operator types. Server and sites live as long as the module.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fl_app.deploy.node_keys import make_pair
from fl_app.flower.superlink import free_ports
from fl_app.runs.lock import lock_holder
from tests.deployment.parties import Loopback, Process, kill, rsdgc, until
from tests.federation import make_data

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(3600)]

SITES = ("site-00", "site-01", "site-02")
COMMON = ("batch-size=8", "learning-rate=0.02", "device=cpu")


class Running:
    """The federation and its processes."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.data = make_data(folder, sites=len(SITES))
        self.federation = Loopback(stack, folder, self.data, SITES)
        self.server = self.federation.start_server()
        code, output = self.federation.server("register")
        assert code == 0, output
        self.nodes: dict[str, Process] = {}

    def start(self, site: str) -> Process:
        self.nodes[site] = self.federation.start_site(site)
        return self.nodes[site]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ExitStack() as stack:
        federation = Running(stack, tmp_path_factory.mktemp("federation"))
        yield federation
        for node in federation.nodes.values():  # all at once: the stack waits for one after another
            node.popen.terminate()


def test_a_stranger_is_refused_while_a_run_completes(running: Running) -> None:
    federation = running.federation
    for site in SITES:
        running.start(site)
    big_enough = ("--model", "small-resnet", "--budget", "2x", "budget-down=2x", "budget-final=2x")
    run = federation.start(
        "run", "server", "run", "--config", federation.server_file, "--out", "first", *big_enough,
        *("--rounds", "2"), *COMMON,
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
    assert summary["num_sites"] == len(SITES)
    assert summary["rounds"] == 2
    assert summary["refused"] == {}
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


def test_a_run_that_fails_says_so(running: Running) -> None:
    words = ["--out", "too-few", "--min-sites", "4", "join-timeout-s=1", *COMMON]
    code, output = running.federation.server("run", *words)
    assert code == 1, output
    assert output.splitlines()[-1].startswith("error: run ")
    assert "of at least 4 sites joined" in output


def test_a_run_outlives_its_sites_and_its_server(running: Running) -> None:
    federation = running.federation
    for site in SITES[:2]:
        if site not in running.nodes:
            running.start(site)
    if (late := running.nodes.get("site-02")) is not None:
        late.popen.terminate()
        assert late.end() == 0, late.log()

    words = ["--out", "second", "--model", "small-cnn", "--rounds", "3", "--budget", "10x"]
    words += ["--min-sites", "2", "quorum=3", "checkpoint-every=1", *COMMON]
    victim = running.nodes["site-00"]
    num_trained = victim.log().count("Receiving: train")
    run = federation.start("run", "server", "run", "--config", federation.server_file, *words)

    # A site that joins late, after the join phase. The quorum makes every round wait for all three
    # sites, so that no step depends on which of them is fast.
    run.wait_for("run folder: ")
    running.start("site-02")
    until(lambda: "site-02" in accepted(federation), "site-02 joins", run, running.nodes["site-02"])

    # A SuperNode that is killed in the middle of the second round, and starts again.
    second_task = num_trained + 2
    until(
        lambda: victim.log().count("Receiving: train") >= second_task, "site-00 works", run, victim
    )
    kill(federation.node("site-00")["pid"])
    assert victim.end() == 1, victim.log()
    back = running.start("site-00")
    until(lambda: bool(refused(federation, "site-00")), "the round continues without it", run)

    # The server is killed, and started again once the run's processes have ended. They could not
    # report that, so Flower still lists the run as running. It is resumed at once nevertheless.
    # By then the third round has not begun: it waits for site-00, which may not start yet.
    kill(running.server.popen.pid)
    assert running.server.end() != 0
    assert run.end() == 1, run.log()
    until(lambda: not at_work(federation, "second"), "the run's processes end")
    running.server = federation.start_server()
    done = len({row["round"] for row in federation.rows("second")})
    code, output = federation.server("resume", "second", "--min-sites", "3")
    assert code == 0, output
    assert "resumed after round" in output
    summary = federation.summary("second")
    assert summary["rounds"] == 3
    assert summary["num_sites"] == len(SITES)
    rows = federation.rows("second")
    assert {row["round"] for row in rows if row["phase"] == "train"} == {1, 2, 3}
    late_rows = [row for row in rows if row["site"] == "site-00" and row["round"] > done]
    assert late_rows
    assert all(row["accepted"] for row in late_rows)
    back.wait_for("Receiving: train")

    code, output = federation.server("watch")
    assert code == 0, output
    assert all(f"{site}: online" in output for site in SITES)
    states = [line.partition(": ")[2] for line in output.splitlines() if line.startswith("run ")]
    assert states[0] == "finished:completed"  # the newest run, without details


def accepted(federation: Loopback) -> set[str]:
    return {row["site"] for row in federation.rows("second") if row["accepted"]}


def refused(federation: Loopback, site: str) -> list[str]:
    rows = federation.rows("second")
    return [row["reason"] for row in rows if row["site"] == site and not row["accepted"]]


def at_work(federation: Loopback, run: str) -> bool:
    last = lock_holder(federation.runs / run)
    assert last is not None
    return last.at_work
