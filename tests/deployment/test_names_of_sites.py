"""A registered SuperNode that comes as a site that is away."""

from __future__ import annotations

import json

import pytest

from tests.deployment.parties import COMMON, Running, edit

SITES = ("site-00", "site-01", "site-02")

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(3600)]


def test_a_registered_site_cannot_take_anothers_name(running: Running) -> None:
    federation = running.federation
    edit(federation.site_file("site-01"), name="site-02")
    for site in ("site-00", "site-01"):
        running.start(site)
        running.nodes[site].wait_for("SuperNode ID:")

    words = ["--out", "run", "--model", "small-cnn", "--rounds", "2", "--budget", "10x", *COMMON]
    code, output = federation.server("run", *words, "--min-sites", "1")
    assert code == 0, output
    text = "site site-01 is left out: name of another site: it calls itself 'site-02', and its key"
    assert f"warning: {text} is registered as 'site-01'" in output
    assert "versions differ" not in output
    summary = federation.summary("run")
    assert summary["num_sites"] == 1
    assert [(left["name"], left["reason"]) for left in summary["left_out"]] == [
        ("site site-01", "name of another site")
    ]
    settings = json.loads((federation.runs / "run" / "config.json").read_text())
    assert settings["site-names"] == "registered"
    assert {row["site"] for row in federation.rows("run") if row["accepted"]} == {"site-00"}
