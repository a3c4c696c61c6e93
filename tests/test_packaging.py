"""The wheel and the source distribution hold what is needed, and the wheel runs once installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def run(*words: str | Path, cwd: Path, **variables: str) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**environment, **variables},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


def sources() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_has_every_file_and_honest_metadata(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (folder,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = message_from_bytes(archive.read(f"{folder}/METADATA"))
    bundle = {"fl_app/bundle/pyproject.toml", "fl_app/bundle/LICENSE"}
    code = {name for name in names if not name.startswith(folder)}
    assert code == sources() | bundle
    assert f"{folder}/licenses/LICENSE" in names
    assert "License :: OSI Approved :: Apache Software License" in metadata.get_all(
        "Classifier", []
    )
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Version"] == PYPROJECT["project"]["version"]
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.mark.slow
def test_the_source_distribution_has_documentation_and_tests(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "mkdocs.yml", "docs/index.md"}
    assert wanted | sources() | {"tests/test_packaging.py"} <= names
    assert not {name for name in names if name.startswith((".venv", "runs/", "build/"))}


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_of_its_own(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (folder,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # The dependencies are those of this environment; this package itself must come from the wheel.
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (folder / "dependencies.pth").write_text("\n".join(installed))
    (wheel,) = built.glob("*.whl")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--python",
        python,
    )
    run(*pip, "install", "--no-index", "--no-deps", "--ignore-installed", wheel, cwd=tmp_path)
    home = {"RSDGC_HOME": str(tmp_path / "home")}
    where = run(python, "-c", "import fl_app; print(fl_app.__file__)", cwd=tmp_path)
    assert where.startswith(str(folder))
    rsdgc = tmp_path / "venv" / "bin" / "rsdgc"
    assert run(rsdgc, "--version", cwd=tmp_path) == f"rsdgc {PYPROJECT['project']['version']}\n"
    assert "simulate" in run(rsdgc, "--help", cwd=tmp_path)
    small = ("--sites", "1", "--scenes-per-site", "1", "--scene-px", "96")
    run(rsdgc, "synth", "archive", *small, cwd=tmp_path, **home)
    assert (tmp_path / "archive" / "site-00" / "scene-00" / "optical.tif").exists()


def test_the_version_is_one() -> None:
    wanted = PYPROJECT["project"]["version"]
    assert version("rsdgc") == wanted
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {wanted}\n" in citation
    newest = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == wanted
    assert newest[2] == "unreleased" or f"date-released: {newest[2]}\n" in citation


def test_the_image_is_built_of_every_package() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    for package in PACKAGES:
        assert f"\nCOPY {package} {package}\n" in dockerfile
