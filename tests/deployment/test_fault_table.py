"""What an operator sees of each fault, and what is lost: the table in docs/operate.md.

One federation for all of them, in the order of this file. Three sites are sound; the others have
something that does not fit. ``test_restarts.py`` kills SuperNodes and the SuperLink.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio

from data_prep.ingest.class_folders import ingest_class_folders
from fl_app.deploy.party_config import read_site
from fl_app.flower.superlink import flower_environment, free_ports
from fl_app.runs.lock import lock_holder
from tests.deployment.parties import (
    COMMON,
    Loopback,
    Process,
    Running,
    command_of,
    edit,
    has_pytorch,
    kill,
    rsdgc,
    starts_for,
    until,
)
from tests.deployment.relay import Relay
from tests.documentation.test_own_network import write_files
from tests.federation import write_class_folders, write_image

SOUND = ("site-00", "site-01", "site-02")
PLAIN = "plain"
REASONS = {
    "bands": "other bands: it has modality image with the bands ",
    "code": "other code: its code of model 'mynet:build' is mynet ",
    "named": "name of another site: it calls itself 'site-02', and its key is registered as",
    PLAIN: "error at the site: ",
    "damaged": "error at the site: ",
}
SITES = (*SOUND, *REASONS)
MODEL = ("--model", "mynet:build", "--budget", "20x", *COMMON)
RUN = "faults"
ROUNDS = 16

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def relay(running: Running) -> Iterator[Relay]:
    """Put a relay between site-02 and the server, and start all sites."""
    federation = running.federation
    for party in (federation.server_file, *map(federation.site_file, SITES)):
        write_code(party.parent / "code")
    site_code(federation).write_text(site_code(federation).read_text().replace("ReLU", "GELU"))
    server_port = int(read_site(federation.site_file("site-02")).server.rpartition(":")[2])
    relay = Relay(free_ports(1)[0], server_port)
    edit(federation.site_file("site-02"), server=f"127.0.0.1:{relay.port}")
    edit(federation.site_file("named"), name="site-02")
    for name in ("bands", "code", "damaged"):
        edit(federation.site_file(name), data_dir=str(make_store(federation, name)))
    for site in SITES:
        if site != PLAIN:
            running.start(site)
    running.nodes[PLAIN] = start_plain(federation)
    for node in running.nodes.values():
        node.wait_for("SuperNode ID:")
    (federation.folder / "damaged-store" / "manifest.parquet").write_bytes(b"damaged")
    yield relay
    relay.cut()


def test_whoever_does_not_fit_is_left_out_by_name(running: Running, relay: Relay) -> None:
    federation = running.federation
    parties = (federation.server_file, *map(federation.site_file, ("site-00", "code")))
    # In processes of their own, for a module is imported once.
    checks = [federation.start("check", "deploy", "check", "--config", party) for party in parties]
    signatures = [code_line(check) for check in checks]
    assert signatures[0] == signatures[1] != signatures[2]
    words = [
        "--out",
        RUN,
        "--rounds",
        str(ROUNDS),
        "--min-sites",
        "3",
        "quorum=2",
        "checkpoint-every=1",
    ]
    words += ["--config", str(federation.server_file), "suspend-after=0", *MODEL]
    running.runs[RUN] = run = federation.start("run", "server", "run", *words)
    run.wait_for(f"round  1/{ROUNDS}")
    for site, reason in REASONS.items():
        assert f"warning: site {site} is left out: {reason}" in run.log()
    lines = [line for line in run.log().splitlines() if "site damaged is left out" in line]
    assert "damaged-store" in lines[0]
    assert "versions differ" not in run.log()
    # The server would ask them every 20 s as long as the run lasts, and they would start an app.
    for site in ("bands", PLAIN):
        running.nodes[site].popen.terminate()


def test_of_a_sites_processes_only_the_apps_have_loaded_pytorch(
    running: Running, relay: Relay
) -> None:
    """Those that only watch others live for days, beside other programs."""
    run, site = running.runs[RUN], running.nodes["site-01"]
    for process in (running.server, run, site, running.nodes["site-00"]):
        assert not has_pytorch(process.popen.pid), process.log_path.name
    assert any(has_pytorch(p.pid) for p in psutil.Process(site.popen.pid).children(recursive=True))


def test_a_second_node_with_a_sites_key_is_refused(running: Running, relay: Relay) -> None:
    federation = running.federation
    folder = federation.made / "sites" / "twin"
    shutil.copytree(federation.site_file("site-01").parent, folder)
    federation.configure_site("twin", running.data, free_ports(1)[0])
    code, output = rsdgc("site", "start", "--config", folder / "site.toml")
    assert code == 1, output
    assert "that no other machine uses it" in output
    assert running.nodes["site-01"].popen.poll() is None


def test_a_run_goes_on_through_faults_at_its_sites(running: Running, relay: Relay) -> None:
    """Two sites are mended; one is cut off, one has no disk space, one is too slow, one revoked."""
    federation, nodes = running.federation, running.nodes
    slow, run = federation.slow("damaged"), running.runs[RUN]

    # Sites that are mended join; their SuperNodes need not be started again.
    write_code(federation.site_file("code").parent / "code")
    store = federation.folder / "damaged-store"
    shutil.copy(store / "manifest.parquet.sound", store / "manifest.parquet")
    until(lambda: {"code", "damaged"} <= accepted(federation), "both join", run)

    # Three faults at once. The full disk is a limit on the size of the app's files, which Flower's
    # unpacking of the run's code exceeds.
    relay.cut()
    limit_files(nodes["site-01"], 4096)
    slow.touch()
    damaged = nodes["damaged"]
    until(lambda: starts_for(damaged.popen.pid, 15.0), "an app starts slowly", damaged, run)
    assert "started again" not in damaged.log()
    slow.unlink()
    run.wait_for("site-02: gone; 4 of 5 sites are connected")
    until(lambda: bool(refusals(federation, "site-01")), "site-01 has no space", run)
    code, output = federation.server("revoke", "code", "--yes")
    assert code == 0, output
    assert nodes["code"].end() == 1
    assert "the server has withdrawn this site's key" in nodes["code"].log()

    # They come back without being started again.
    limit_files(nodes["site-01"], resource.RLIM_INFINITY)
    relay.mend()
    run.wait_for("site-02: back; 4 of 5 sites are connected")
    done = last_round(federation)
    for site in (*SOUND, "damaged"):
        until(lambda site=site: site in accepted(federation, done), f"{site} trains again", run)
    assert re.search(r"site-01 refused in round \d+: error .* File too large", run.log())


def test_a_run_whose_process_is_killed_is_resumed(running: Running, relay: Relay) -> None:
    federation = running.federation
    holder = lock_holder(federation.runs / RUN)
    assert holder is not None
    assert holder.at_work
    kill(int(holder.pid))
    code, output = federation.server("resume", RUN)
    assert code == 0, output
    summary = federation.summary(RUN)
    assert summary["rounds"] == ROUNDS
    rows = [row for row in federation.rows(RUN) if row["phase"] == "train"]
    history = (federation.runs / RUN / "history.jsonl").read_text().splitlines()
    last = json.loads(history[-1])
    assert set(last["by_site"]) == {*SOUND, "damaged"}
    assert all(row["accepted"] for row in rows if row["round"] == ROUNDS)
    assert {row["site"] for row in rows} == {*SOUND, "code", "damaged"}
    left_out = {(left["name"], left["reason"]) for left in summary["left_out"]}
    assert ("site named", "name of another site") in left_out
    settings = json.loads((federation.runs / RUN / "config.json").read_text())
    assert settings["site-names"] == "registered"


def test_a_run_that_needs_more_sites_says_who_is_left_out(running: Running, relay: Relay) -> None:
    words = ["--out", "too-few", "--min-sites", "5", "join-timeout-s=30", *MODEL]
    code, output = running.federation.server("run", *words)
    assert code == 1, output
    last = output.splitlines()[-1]
    # Five apps start at once: on a busy machine, one may answer only after the time-out.
    assert re.search(r"\d of at least 5 sites joined within 30 s; left out: ", last)
    reason = re.escape(REASONS["named"].partition(":")[0])
    # Several that one reason keeps away are listed before it.
    assert re.search(rf"site named(?:, [^()]*)? \(({reason}|no answer): ", last)


def test_a_run_of_a_network_that_the_server_lacks_does_not_start(running: Running) -> None:
    code, output = running.federation.server("run", "--out", "none", "--model", "no_such_net:build")
    assert code == 2, output
    assert "there is no module 'no_such_net' among the installed packages or in " in output


def write_code(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_files(folder)


def site_code(federation: Loopback) -> Path:
    return federation.site_file("code").parent / "code" / "mylayers.py"


def code_line(check: Process) -> str:
    """Return the signature of the network that ``rsdgc deploy check`` names."""
    check.end()
    line = re.search(r"^ok +code +.*mynet (\w+ \(2 files\))", check.log(), re.MULTILINE)
    assert line is not None, check.log()
    return line[1]


def make_store(federation: Loopback, name: str) -> Path:
    """Make a store of a site's own: with other bands, or like the others'."""
    images, store = federation.folder / f"{name}-images", federation.folder / f"{name}-store"
    write_class_folders(images, per_class=8)
    if name == "bands":
        for path in images.glob("*/*.tif"):
            with rasterio.open(path) as image:
                pixels = image.read()
            write_image(path, np.concatenate([pixels, pixels[:2]]))
    ingest_class_folders(images, store)
    if name == "damaged":
        shutil.copy(store / "manifest.parquet", store / "manifest.parquet.sound")
    return store


def start_plain(federation: Loopback) -> Process:
    """Start Flower's own SuperNode, which knows nothing of this package's settings."""
    config = read_site(federation.site_file(PLAIN))
    words = ["flower-supernode", "--superlink", config.server, "--port", str(config.port)]
    words += ["--root-certificates", str(config.ca_certificate)]
    words += ["--auth-supernode-private-key", str(config.private_key)]
    home = federation.folder / "plain-home"
    home.mkdir()
    return federation.start(PLAIN, *words, **flower_environment(home))


def limit_files(node: Process, num_bytes: int) -> None:
    """Let the app of a site write no file that is larger, as if its disk were full."""
    for process in psutil.Process(node.popen.pid).children(recursive=True):
        if "multiprocessing.forkserver" in " ".join(command_of(process)):
            limits = (num_bytes, resource.RLIM_INFINITY)
            with suppress(ProcessLookupError):  # it has handled its message
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)


def accepted(federation: Loopback, after: int = 0) -> set[str]:
    return {r["site"] for r in federation.rows(RUN) if r["accepted"] and r["round"] > after}


def refusals(federation: Loopback, site: str) -> list[str]:
    rows = federation.rows(RUN)
    return [r["reason"] for r in rows if r["site"] == site and not r["accepted"]]


def last_round(federation: Loopback) -> int:
    return max(row["round"] for row in federation.rows(RUN))
