"""The guide docs/own-network.md works as it stands, in a folder outside the source tree.

Its app runs in a deployment, as the guide has it: ``tests/deployment/test_deployed_runs.py``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from fl_app.flower.superlink import flower_environment
from tests.command import rsdgc

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


def test_the_network_trains_in_a_simulation_and_travels_in_a_bundle(
    code_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, home = code_dir / "myapp", tmp_path / "home"
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
    page = project / "run" / "report.html"
    with_pictures = page.read_text()
    monkeypatch.chdir(home)
    assert rsdgc(monkeypatch, "report", project / "run") == 0
    assert "cannot be imported" in page.read_text()
    assert rsdgc(monkeypatch, "report", project / "run", "--code-dir", project) == 0
    assert page.read_text() == with_pictures

    shutil.copy(ROOT / "LICENSE", project)
    subprocess.run(["flwr", "build"], cwd=project, env=environment(home), check=True)
    (bundle,) = project.glob("*.fab")
    assert {"mynet.py", "mylayers.py", "pyproject.toml"} <= set(zipfile.ZipFile(bundle).namelist())
