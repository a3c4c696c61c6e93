"""``rsdgc doctor`` on this machine, and on one where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients import device_memory
from fl_app import doctor
from fl_app.deploy.checks import CheckResult
from tests.command import rsdgc


def test_this_machine_is_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RSDGC_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert rsdgc(monkeypatch, "doctor", "--json") == 0
    results = {result["subject"]: result for result in json.loads(capsys.readouterr().out)}
    assert {"versions", "disk", "Flower", "ports", "GDAL", "GPU"} <= set(results)
    assert "PROJ works" in results["GDAL"]["detail"]


def test_a_check_that_fails_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> CheckResult:
        raise ImportError("libproj.so is missing")

    (tmp_path / "clients.py").write_text("")
    monkeypatch.chdir(tmp_path)
    checks = {"GDAL": broken, "folder": doctor._check_current_folder}
    monkeypatch.setattr(doctor, "_CHECKS", checks)
    assert rsdgc(monkeypatch, "doctor") == 1
    shown = capsys.readouterr()
    assert "FAILED   GDAL    ImportError: libproj.so is missing" in shown.out
    assert "clients.py would hide packages of rsdgc" in shown.out
    assert shown.err == "error: 2 of 2 checks failed: GDAL, folder\n"


def test_a_container_with_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device_memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000000\n")
    result = doctor._CHECKS["machine"]()
    assert result.status == "warning"
    assert "2.0 of" in result.detail


def test_a_small_disk_and_wrong_files_of_proj(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    monkeypatch.setenv("RSDGC_HOME", "/tmp")
    disk = doctor._CHECKS["disk"]()
    assert disk.status == "FAILED"
    assert "min-free-gb" not in disk.detail + disk.remedy  # a setting of deployments alone
    monkeypatch.setattr("rasterio.warp.transform", lambda *_: ([15.0], [45.0]))
    assert "unset PROJ_DATA" in doctor._CHECKS["GDAL"]().remedy
