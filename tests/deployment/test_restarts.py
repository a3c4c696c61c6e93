"""A run whose sites and server are killed and started again, as in ``test_deployed_runs.py``."""

from __future__ import annotations

import pytest

from fl_app.runs.lock import lock_holder
from tests.deployment.parties import COMMON, Loopback, Running, kill, until

SITES = ("site-00", "site-01", "site-02")

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(3600)]


def test_a_run_outlives_its_sites_and_its_server(running: Running) -> None:
    federation = running.federation
    for site in SITES:
        running.start(site)
    late = running.nodes["site-02"]
    late.wait_for("SuperNode ID:")
    late.popen.terminate()
    assert late.end() == 0, late.log()

    words = ["--out", "second", "--model", "small-cnn", "--rounds", "3", "--budget", "10x"]
    words += ["--min-sites", "2", "quorum=3", "checkpoint-every=1", *COMMON]
    victim = running.nodes["site-00"]
    run = federation.start("run", "server", "run", "--config", federation.server_file, *words)

    # A site that joins late, after the join phase. The quorum makes every round wait for all three
    # sites, so that no step depends on which of them is fast.
    run.wait_for("run folder: ")
    running.start("site-02")
    until(lambda: "site-02" in accepted(federation), "site-02 joins", run, running.nodes["site-02"])

    # A SuperNode that is killed in the middle of the second round, and starts again.
    until(lambda: victim.log().count("Receiving: train") >= 2, "site-00 works", run, victim)
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
    assert summary["rounds"] == 4  # the second had no quorum, and was made up for
    assert summary["num_sites"] == len(SITES)
    rows = federation.rows("second")
    assert {row["round"] for row in rows if row["phase"] == "train"} == {1, 2, 3, 4}
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
