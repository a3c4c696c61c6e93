"""The report of a run that goes on."""

from __future__ import annotations

import html
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fl_app.live import report_renewal
from fl_app.live.report_renewal import ReportRenewal, main
from fl_app.report.page import write_interim_report, write_report
from rsdgc.errors import RunFolderError
from strategies.ledger import RoundEntry
from tests.fl_app.report.fake_run import make_run


def begin(run_folder: Path, rounds: int) -> None:
    """Leave of a complete run what it had after some rounds."""
    (run_folder / "summary.json").unlink()
    lines = (run_folder / "history.jsonl").read_text().splitlines(keepends=True)
    (run_folder / "history.jsonl").write_text("".join(lines[: rounds + 1]))


def test_an_interim_report_says_what_it_is(run_folder: Path) -> None:
    begin(run_folder, 7)
    page = write_interim_report(run_folder).read_text()
    assert "The run is not complete" in page
    assert "after round\n7 of 20" in page
    assert "Latest model, test chips of all sites" in page
    assert page.count("<svg") >= 4
    assert "Final model" not in page


@pytest.mark.slow
def test_commands_can_be_copied_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "Anna's runs" / "first & last", data_path="/nowhere")
    report = write_report(folder).read_text()
    assert copied(report, "report") == ["rsdgc", "report", str(folder), "--data", "FOLDER"]
    begin(folder, 7)
    page = write_interim_report(folder).read_text()
    assert copied(page, "dashboard") == ["rsdgc", "dashboard", str(folder)]


def copied(page: str, command: str) -> list[str]:
    """Return the words of a command that stands in a page, as a shell reads them."""
    text = re.search(rf"(?:<code>|`)(rsdgc {command} .*?)(?:</code>|`)", page)
    assert text is not None
    return shlex.split(html.unescape(text[1]))


def test_a_run_without_a_round_has_no_report_yet(run_folder: Path) -> None:
    begin(run_folder, -1)
    with pytest.raises(RunFolderError, match="wait for the first one"):
        write_interim_report(run_folder)


@pytest.mark.slow  # a process of the lowest priority waits for all other tests
def test_a_process_renews_the_report(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(run_folder, 5)
    renewal = ReportRenewal(run_folder)
    renewal.round_ended(RoundEntry(5), 20)
    assert not (run_folder / "report.html").exists()  # a short run has its report soon
    monkeypatch.setattr(report_renewal, "FIRST_S", 0.0)
    renewal = ReportRenewal(run_folder)
    renewal.round_ended(RoundEntry(5), 20)
    deadline = time.monotonic() + 240
    while not (run_folder / "report.html").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "after round\n5 of 20" in (run_folder / "report.html").read_text()
    renewal.round_ended(RoundEntry(6), 20)  # not again for a while
    renewal.close()


def test_a_renewal_at_work_is_ended_with_the_run(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(run_folder, 5)
    monkeypatch.setattr(report_renewal, "FIRST_S", 0.0)
    renewal = ReportRenewal(run_folder)
    renewal.round_ended(RoundEntry(5), 20)
    renewal.close()
    assert not (run_folder / "report.html").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_takes_its_renewal_with_it(run_folder: Path) -> None:
    begin(run_folder, 5)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from fl_app.live import report_renewal as module\n"
        "from strategies.ledger import RoundEntry\n"
        "module.FIRST_S = 0.0; renewal = module.ReportRenewal(Path(sys.argv[1]))\n"
        "renewal.round_ended(RoundEntry(5), 20); print(renewal._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(run_folder)], capture_output=True, text=True, check=False
    )
    deadline = time.monotonic() + 60
    while psutil.pid_exists(int(killed.stdout)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not (run_folder / "report.html").exists()


def test_a_renewal_that_cannot_write_fails_quietly(run_folder: Path) -> None:
    assert main(run_folder / "gone") == 1
