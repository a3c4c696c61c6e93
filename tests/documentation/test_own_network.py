"""The guide docs/own-network.md works as it stands, in a folder outside the source tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fl_app.flower.command import FlowerCli
from fl_app.flower.superlink import CONNECTION, flower_environment, superlink

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "own-network.md").read_text(encoding="utf-8")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def write_files(folder: Path) -> list[str]:
    """Write the guide's files, which name themselves in their first line; return the names."""
    blocks = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL)
    for name, text in blocks:
        (folder / name).write_text(text, encoding="utf-8")
    return [name for name, _ in blocks]


def commands(heading: str) -> str:
    """Return the first block of commands below a heading."""
    section = GUIDE.partition(f"## {heading}\n")[2]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1]


def environment(home: Path) -> dict[str, str]:
    """Return an environment with this Python's commands first, and this checkout's packages."""
    return {
        **flower_environment(home),
        "PYTHONPATH": str(ROOT),
        "RSDGC_HOME": str(home),
    }


def test_the_network_trains_in_a_simulation_and_travels_in_a_bundle(tmp_path: Path) -> None:
    project, home = tmp_path / "myapp", tmp_path / "home"
    project.mkdir()
    home.mkdir()
    assert write_files(project) == ["make_images.py", "mynet.py", "mylayers.py", "pyproject.toml"]
    script = "set -e\n" + commands("3. A simulation")
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=project,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    summary = json.loads((project / "run" / "summary.json").read_text())
    assert summary["model"] == "mynet:build"
    assert summary["num_sites"] == 2
    assert summary["accuracy"] > 0.6
    # From elsewhere, code is taken from where the user says, not from where the run folder says.
    report = [sys.executable, "-m", "fl_app.cli", "report", str(project / "run")]
    page = project / "run" / "report.html"
    with_pictures = page.read_text()
    subprocess.run(report, cwd=home, env=environment(home), check=True)
    assert "cannot be imported" in page.read_text()
    report += ["--code-dir", str(project)]
    subprocess.run(report, cwd=home, env=environment(home), check=True)
    assert page.read_text() == with_pictures

    shutil.copy(ROOT / "LICENSE", project)
    subprocess.run(["flwr", "build"], cwd=project, env=environment(home), check=True)
    (bundle,) = project.glob("*.fab")
    assert {"mynet.py", "mylayers.py", "pyproject.toml"} <= set(zipfile.ZipFile(bundle).namelist())

    run_app(project, home)
    summary = json.loads((home / "run" / "summary.json").read_text())
    assert summary["model"] == "mynet:build"
    assert summary["rounds"] == 4


def run_app(app: Path, home: Path) -> None:
    """Run the folder of an app as ``flwr run`` does, from another folder's SuperLink."""
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    (home / "flower").mkdir()
    with superlink(home / "flower", simulation=True, variables=variables) as (started, _):
        flower = FlowerCli(started)
        config = f'data-dir="{app}/data" out="{home}/run"'
        # Both sites in one of Ray's workers, each of which imports PyTorch.
        resources = f"num-supernodes=2 client-resources-num-cpus={min(2, os.cpu_count() or 1)}"
        answer = flower.query(
            *("run", str(app), CONNECTION),
            *("--run-config", config, "--federation-config", resources),
        )
        run_id = str(answer["run-id"])
        log = flower.follow(run_id)
        assert flower.outcome(run_id).complete, log.error
