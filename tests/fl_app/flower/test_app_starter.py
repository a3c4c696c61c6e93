"""One process for each task: forked, kept alive, and ended when it is superseded or lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.runtime_pb2 import PushTaskOutputRequest
from flwr.supercore.constant import TASK_TOKEN_HEADER, TaskType
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResultStatus

from fl_app.flower import app_starter
from fl_app.flower.app_starter import MAX_STARTS, App, AppStarter
from tests.killed_process import PRELOADED

OWN = {"rsdgc", "clients", "strategies", "data_prep", "fl_app"}
PRINT_LATE = """
import sys
from fl_app.flower.app_starter import PRELOADED
for name in PRELOADED:
    __import__(name)
before = set(sys.modules)
import fl_app.client_app
print(*sorted(set(sys.modules) - before))
"""
AT_THE_SERVER = [TaskType.SERVER_APP, TaskType.SIMULATION]
HEARTBEAT = "/v1/runtime/send-task-heartbeat"
OUTPUT = "/v1/runtime/push-task-output"


def sleep_for_ever(spec: ExecutionSpec, ready: Connection) -> None:
    time.sleep(600)


def get_ready(spec: ExecutionSpec, ready: Connection) -> None:
    ready.close()
    time.sleep(600)


def end_at_once(spec: ExecutionSpec, ready: Connection) -> None:
    pass


def fail(spec: ExecutionSpec, ready: Connection) -> None:
    sys.exit(3)


class Runtime:
    """Where a starter's requests go; keeps their paths, tokens, and contents."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.requests: list[tuple[str, str, bytes]] = []

    def count(self, path: str) -> int:
        return sum(request[0] == path for request in self.requests)


@contextmanager
def listening() -> Iterator[Runtime]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            runtime.requests.append((self.path, str(self.headers[TASK_TOKEN_HEADER]), content))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        runtime = Runtime(server.server_port)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield runtime
        server.shutdown()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with listening() as runtime:
        yield runtime


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Iterator[AppStarter]:
    monkeypatch.setattr(app_starter, "PRELOADED", PRELOADED)
    monkeypatch.setattr(app_starter, "END_TIMEOUT_S", 0.2)
    monkeypatch.setattr(app_starter, "_work", sleep_for_ever)
    starter = AppStarter()
    starter.warm_up()
    yield starter
    starter.close()


def task(
    task_id: int, kind: TaskType = TaskType.CLIENT_APP, address: str = "127.0.0.1:1"
) -> ExecutionSpec:
    values: dict[str, Any] = {
        "task_type": kind,
        "runtime_api_address": address,
        "token": f"token-{task_id}",
        "insecure": True,
        "root_certificates_path": None,
        "runtime_dependency_install": False,
        "parent_pid": None,
        "suppress_output": False,
        "task_id": task_id,
    }
    return ExecutionSpec(**values)


def collected(starter: AppStarter, task_id: int) -> App:
    """Return an app once its process has ended, and the starter has noticed that."""
    app = starter.apps[task_id]
    app.process.join()
    starter.reconcile()
    return app


@pytest.mark.slow
def test_a_sites_app_that_is_never_ready_is_started_again_and_given_up_on(
    starter: AppStarter, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    for _ in range(MAX_STARTS):
        starter.launch(task(7))
        started.append(starter.apps[7].process)
        assert [process.is_alive() for process in started] == [False] * len(started[:-1]) + [True]
    with pytest.raises(SystemExit, match=f"not ready in any of {MAX_STARTS} starts: free memory"):
        starter.launch(task(7))
    assert starter.apps == {}
    assert not started[-1].is_alive()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == MAX_STARTS - 1
    late = "warning: the app was not ready in time; it is started again"
    assert lines[0] == f"{late} (start 2 of {MAX_STARTS})"


@pytest.mark.parametrize("kind", AT_THE_SERVER)
def test_a_run_that_is_never_ready_fails_with_the_reason(
    kind: TaskType, starter: AppStarter, runtime: Runtime
) -> None:
    for _ in range(MAX_STARTS):
        starter.launch(task(7, kind, runtime.address))
    assert starter.apps[7].process.is_alive()
    result = starter.launch(task(7, kind, runtime.address))
    assert result.status == LaunchResultStatus.FAILED
    assert starter.apps == {}
    ((path, token, content),) = runtime.requests
    output = PushTaskOutputRequest.FromString(content)
    assert (path, token, output.sub_status) == (OUTPUT, "token-7", "failed")
    assert output.details.startswith(f"the app was not ready in any of {MAX_STARTS} starts")


def test_another_message_starts_afresh_and_ends_what_hangs(
    starter: AppStarter, capsys: pytest.CaptureFixture[str]
) -> None:
    for task_id in range(1, MAX_STARTS + 3):
        starter.launch(task(task_id))
    assert list(starter.apps) == [task_id]
    assert starter.apps[task_id].process.is_alive()
    assert capsys.readouterr().out == ""


def test_runs_of_a_server_go_on_beside_each_other(starter: AppStarter) -> None:
    for task_id in (1, 2):
        starter.launch(task(task_id, TaskType.SERVER_APP))
    assert all(app.process.is_alive() for app in starter.apps.values())
    assert list(starter.apps) == [1, 2]


@pytest.mark.parametrize("kind", [TaskType.CLIENT_APP, *AT_THE_SERVER])
def test_the_claim_is_renewed_until_the_app_ends(
    kind: TaskType, starter: AppStarter, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_starter, "HEARTBEAT_DEFAULT_INTERVAL", 0.06)
    starter.launch(task(5, kind, runtime.address))
    while runtime.count(HEARTBEAT) < 4:
        time.sleep(0.02)
    assert {token for _, token, _ in runtime.requests} == {"token-5"}
    starter.close()
    before = len(runtime.requests)
    time.sleep(0.2)
    assert len(runtime.requests) <= before + 1  # one may have been on its way


def test_an_app_that_is_ready_renews_its_claim_itself(
    starter: AppStarter, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_starter, "HEARTBEAT_DEFAULT_INTERVAL", 0.06)
    monkeypatch.setattr(app_starter, "_work", get_ready)
    starter.launch(task(5, address=runtime.address))
    assert starter.apps[5]._starting.poll(60)
    time.sleep(0.1)
    before = len(runtime.requests)
    time.sleep(0.2)
    assert len(runtime.requests) == before
    assert starter.apps[5].process.is_alive()


def test_the_claim_of_an_app_that_hangs_is_not_renewed_for_ever(
    starter: AppStarter, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_starter, "HEARTBEAT_DEFAULT_INTERVAL", 0.06)
    monkeypatch.setattr(app_starter, "START_TIMEOUT_S", 0.3)
    starter.launch(task(5, address=runtime.address))
    time.sleep(0.5)
    before = len(runtime.requests)
    assert before
    time.sleep(0.2)
    assert len(runtime.requests) == before
    assert starter.apps[5].process.is_alive()


def test_a_claim_that_cannot_be_renewed_leaves_the_app_alone(
    starter: AppStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_starter, "HEARTBEAT_DEFAULT_INTERVAL", 0.06)
    starter.launch(task(5, address="127.0.0.1:1"))  # where nothing listens
    time.sleep(0.2)
    assert starter.apps[5].process.is_alive()


def test_an_app_that_has_ended_is_collected(
    starter: AppStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_starter, "_work", end_at_once)
    starter.launch(task(1))
    collected(starter, 1)
    assert starter.apps == {}


@pytest.mark.parametrize("kind", AT_THE_SERVER)
def test_a_run_whose_process_is_killed_fails_at_once(
    kind: TaskType, starter: AppStarter, runtime: Runtime
) -> None:
    starter.launch(task(3, kind, runtime.address))
    os.kill(starter.apps[3].process.pid or 0, signal.SIGKILL)
    collected(starter, 3)
    assert starter.apps == {}
    ((path, token, content),) = runtime.requests
    assert (path, token) == (OUTPUT, "token-3")
    details = PushTaskOutputRequest.FromString(content).details
    assert details == "the run's process was ended by SIGKILL (is the memory too small?)"


def test_a_message_whose_process_failed_is_left_to_flower(
    starter: AppStarter,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Flower answers it with an error, or has the app started again."""
    monkeypatch.setattr(app_starter, "_work", fail)
    starter.launch(task(3, address=runtime.address))
    collected(starter, 3)
    assert runtime.requests == []
    starter.launch(task(3, address=runtime.address))
    assert capsys.readouterr().out == (
        f"warning: the app has ended with exit code 3; it is started again (start 2 of "
        f"{MAX_STARTS})\n"
    )


@pytest.mark.slow
def test_all_that_a_sites_app_imports_is_preloaded_except_its_own_code() -> None:
    """The app's own code must not be: it comes with the run."""
    assert not OWN & {name.partition(".")[0] for name in app_starter.PRELOADED}
    text = Path(app_starter.__file__).read_text(encoding="utf-8")
    assert not any(f"import {name}" in text or f"from {name}" in text for name in OWN)
    process = subprocess.run(
        [sys.executable, "-c", PRINT_LATE], capture_output=True, text=True, check=True
    )
    known = OWN | sys.stdlib_module_names
    assert not [name for name in process.stdout.split() if name.partition(".")[0] not in known]
