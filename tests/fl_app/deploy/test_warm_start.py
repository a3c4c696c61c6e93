"""One process for each message: forked, ended when it is superseded, and given up on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.types import ExecutionSpec

from fl_app.deploy import warm_start
from fl_app.deploy.warm_start import MAX_STARTS, WarmExecutor
from tests.killed_process import PRELOADED

OWN = {"rsdgc", "clients", "strategies", "data_prep", "fl_app"}
PRINT_LATE = """
import sys
from fl_app.deploy.warm_start import PRELOADED
for name in PRELOADED:
    __import__(name)
before = set(sys.modules)
import fl_app.client_app
print(*sorted(set(sys.modules) - before))
"""


def sleep_for_ever(spec: ExecutionSpec) -> None:
    time.sleep(600)


def end_at_once(spec: ExecutionSpec) -> None:
    pass


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmExecutor]:
    monkeypatch.setattr(warm_start, "PRELOADED", PRELOADED)
    monkeypatch.setattr(warm_start, "END_TIMEOUT_S", 0.2)
    monkeypatch.setattr(warm_start, "_work", sleep_for_ever)
    executor = WarmExecutor()
    executor.warm_up()
    yield executor
    executor.close()


def message(task_id: int) -> ExecutionSpec:
    values: dict[str, Any] = {
        "task_type": TaskType.CLIENT_APP,
        "runtime_api_address": "127.0.0.1:1",
        "token": "token",
        "insecure": True,
        "root_certificates_path": None,
        "runtime_dependency_install": False,
        "parent_pid": None,
        "suppress_output": False,
        "task_id": task_id,
    }
    return ExecutionSpec(**values)


def test_an_app_that_is_not_ready_in_time_is_ended_and_given_up_on(
    executor: WarmExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    for _ in range(MAX_STARTS):
        executor.launch(message(7))
        assert executor.process is not None
        started.append(executor.process)
        assert started[-1].is_alive()
        for ended in started[:-1]:
            with pytest.raises(ValueError, match="process object is closed"):
                ended.is_alive()
    with pytest.raises(SystemExit, match=f"within 30 s in any of {MAX_STARTS} starts: this mac"):
        executor.launch(message(7))
    assert executor.process is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == MAX_STARTS - 1
    late = "warning: the app was not ready for its message within 30 s; it is ended and started"
    assert lines[0] == f"{late} again (start 2 of {MAX_STARTS})"


def test_another_message_starts_afresh_and_ends_what_hangs(
    executor: WarmExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    for task_id in range(1, MAX_STARTS + 3):
        executor.launch(message(task_id))
    assert executor.process is not None
    assert executor.process.is_alive()
    assert capsys.readouterr().out == ""


def test_an_app_that_has_ended_is_collected(
    executor: WarmExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "_work", end_at_once)
    executor.launch(message(1))
    assert executor.process is not None
    executor.process.join()
    executor.reconcile()
    assert executor.process is None


@pytest.mark.slow
def test_all_that_the_app_imports_is_preloaded_except_its_own_code() -> None:
    """The app's own code must not be: it comes with the run."""
    assert not OWN & {name.partition(".")[0] for name in warm_start.PRELOADED}
    text = Path(warm_start.__file__).read_text(encoding="utf-8")
    assert not any(f"import {name}" in text or f"from {name}" in text for name in OWN)
    process = subprocess.run(
        [sys.executable, "-c", PRINT_LATE], capture_output=True, text=True, check=True
    )
    known = OWN | sys.stdlib_module_names
    assert not [name for name in process.stdout.split() if name.partition(".")[0] not in known]
