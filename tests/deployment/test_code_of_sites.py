"""A network of the user's own in a deployment, of which one site has other code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deployment.parties import COMMON, Loopback, Running
from tests.documentation.test_own_network import write_files

SITES = ("site-00", "site-01")
REASON = "other code: its code of model 'mynet:build' is mynet "

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(3600)]


def test_a_site_with_other_code_is_refused_by_name(running: Running) -> None:
    federation = running.federation
    parties = [federation.server_file, *map(federation.site_file, SITES)]
    for party in parties:
        write_code(party.parent / "code")
    changed = federation.site_file("site-01").parent / "code" / "mylayers.py"
    original = changed.read_text()
    changed.write_text(original.replace("nn.ReLU()", "nn.GELU()"))
    for site in SITES:
        running.start(site)
        running.nodes[site].wait_for("SuperNode ID:")
    signatures = [code_line(federation, party) for party in parties]
    assert signatures[0] == signatures[1] != signatures[2]

    # It is refused while the run goes on with the other one.
    words = ["--model", "mynet:build", "--rounds", "2", "--budget", "20x", *COMMON]
    code, output = federation.server("run", "--out", "without", "--min-sites", "1", *words)
    assert code == 0, output
    assert f"warning: site site-01 is left out: {REASON}" in output
    assert federation.summary("without")["num_sites"] == 1

    # A run that needs it ends with that reason.
    code, output = federation.server("run", "--out", "too-few", *words, "join-timeout-s=10")
    assert code == 1, output
    assert (
        f"1 of at least 2 sites joined within 10 s; left out: site site-01 ({REASON}"
        in output.splitlines()[-1]
    )

    # It takes part once it has the server's code; its SuperNode need not be started again.
    changed.write_text(original)
    code, output = federation.server("run", "--out", "with", *words)
    assert code == 0, output
    assert federation.summary("with")["num_sites"] == len(SITES)


def test_a_run_of_a_network_that_the_server_lacks_does_not_start(running: Running) -> None:
    code, output = running.federation.server("run", "--out", "none", "--model", "no_such_net:build")
    assert code == 2, output
    assert "there is no module 'no_such_net' among the installed packages or in " in output


def write_code(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_files(folder)


def code_line(federation: Loopback, party: Path) -> str:
    """Return the signature of the network that ``rsdgc deploy check`` names."""
    # In a process of its own, for a module is imported once.
    check = federation.start("check", "deploy", "check", "--config", party)
    check.end()
    line = re.search(r"^ok +code +.*mynet (\w+ \(2 files\))", check.log(), re.MULTILINE)
    assert line is not None, check.log()
    return line[1]
