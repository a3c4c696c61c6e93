"""Flower's SuperExec, with an executor that keeps track of the apps that it starts.

SuperExec starts a process for every run at the SuperLink, and for every message at a SuperNode. Two
things are different here:

- Flower starts a Python, which imports Flower and PyTorch before it does anything else: four
  seconds of a processor for each message. Here a process that has imported both (Python's
  ``forkserver``) is forked. What is specific to a run, its code and its state, still lives in a
  process of its own.
- Flower starts an app again that has not fetched its task 30 s after its start, and does not end
  the one before: on a busy machine the processes pile up, and none gets ready. Here the claim to
  the task is renewed while the process starts, and a process is ended before another is started
  for its task.

This file runs as a script, whose first argument is the command of Flower's: ``flower-superexec``,
or ``flower-superlink``, which then starts this one for its SuperExec. It imports none of this
project's packages: in the forked process those must come from the code that the server sent.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from queue import Queue
from typing import Any

import httpx
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, SubStatus
from flwr.proto.runtime_pb2 import PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.tls import validate_and_resolve_root_certificates

PRELOADED = (
    "flwr.clientapp",
    "flwr.supernode.runtime.run_clientapp",
    "torch",
    # What import torch leaves for later, and the app asks for.
    "torch.export",
    "torchvision.models",
    "numpy",
    "pyarrow.parquet",
    "pydantic.dataclasses",
    "pydantic.functional_serializers",
    "psutil",
    "filelock",
    "safetensors.numpy",
    "safetensors.torch",
    "xxhash",
)
"""What a site's app imports besides its own code, and which is the same in every run.

A run's process at the server needs little else, and that once a run.
"""
APP_TYPES = frozenset({TaskType.CLIENT_APP, TaskType.SERVER_APP, TaskType.SIMULATION})
MAX_STARTS = 5
"""Starts of the app for one task."""
START_TIMEOUT_S = 300.0
"""For an app to be ready: from then on it renews its claim itself, or loses it."""
END_TIMEOUT_S = 5.0
"""For an app to end after its reply, or once it is told to."""
_SUPEREXEC_COMMAND = "_get_superexec_command"
"""The SuperLink's own function that returns the command of its SuperExec."""


class App:
    """A process at work on a task, whose claim to the task is renewed until it can do so itself."""

    def __init__(self, spec: ExecutionSpec, context: ForkServerContext, starts: int) -> None:
        self.spec = spec
        self.starts = starts  #: of this task, with this one
        self._starting, ready = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(spec, ready))
        threading.Thread(target=self._renew_claim, daemon=True).start()
        self.process.start()  # which waits for the forkserver to have imported everything
        ready.close()  # the app has it now: closed by the app, or with it

    def end(self, timeout_s: float = 0.0) -> None:
        """Wait until the process ends, and kill it if it does not in time."""
        self.process.join(timeout_s)
        self.process.kill()
        self.process.join()

    def _renew_claim(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        client = None
        interval_s = HEARTBEAT_DEFAULT_INTERVAL / 3
        while not self._starting.poll(interval_s) and time.monotonic() < deadline:
            client = client or _runtime_client(self.spec)
            with suppress(httpx.HTTPError):  # tried again
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        if client is not None:
            client.close()


class AppStarter(SubprocessExecutor):
    """Starts an app for each task, and never a second one beside it."""

    def __init__(self) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self.apps: dict[int, App] = {}  #: by the number of the task

    def warm_up(self) -> None:
        """Wait until the process that is forked has imported everything."""
        first = self._context.Process(target=int)
        first.start()
        first.join()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the app for a task.

        Raises
        ------
        SystemExit
            A site's app was started :data:`MAX_STARTS` times for this message, and was never ready.
        """
        if spec.task_type not in APP_TYPES:
            return super().launch(spec)
        previous = self.apps.pop(spec.task_id, None)
        starts = 1 if previous is None else previous.starts + 1
        if previous is not None:
            exit_code = previous.process.exitcode
            previous.end()
            if starts > MAX_STARTS:
                return self._give_up(spec)
            fault = "was not ready in time" if exit_code is None else _describe_end(exit_code)
            print(
                f"warning: the app {fault}; it is started again (start {starts} of {MAX_STARTS})",
                flush=True,
            )
        if spec.task_type == TaskType.CLIENT_APP:
            # A SuperNode handles one message at a time: these have replied, and are about to end.
            for task_id in list(self.apps):
                self.apps.pop(task_id).end(END_TIMEOUT_S)
        self.apps[spec.task_id] = App(spec, self._context, starts)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Collect apps that have ended, and report a run whose process was lost.

        A message is left to Flower, which answers it with an error, or has the app started again.
        """
        for task_id, app in list(self.apps.items()):
            exit_code = app.process.exitcode
            if exit_code is None:
                continue
            app.end()
            if exit_code == 0:
                del self.apps[task_id]
            elif app.spec.task_type != TaskType.CLIENT_APP:
                del self.apps[task_id]
                _report_failure(app.spec, f"the run's process {_describe_end(exit_code)}")

    def close(self) -> None:
        """End the apps; they report that they were stopped."""
        for app in self.apps.values():
            app.process.terminate()
        for app in self.apps.values():
            app.end(END_TIMEOUT_S)
        self.apps.clear()

    def _give_up(self, spec: ExecutionSpec) -> LaunchResult:
        reason = f"the app was not ready in any of {MAX_STARTS} starts: free memory and processors"
        if spec.task_type == TaskType.CLIENT_APP:
            self.close()
            raise SystemExit(f"error: {reason}, then start the site again")
        _report_failure(spec, reason)
        return LaunchResult.failed(reason)


def _report_failure(spec: ExecutionSpec, reason: str) -> None:
    """Tell the SuperLink that a task has failed, unless it knows the outcome already."""
    print(f"error: {reason}", flush=True)
    client = _runtime_client(spec)
    with suppress(httpx.HTTPError):
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=reason))
    client.close()


def _describe_end(exit_code: int) -> str:
    if exit_code >= 0:
        return f"has ended with exit code {exit_code}"
    memory = " (is the memory too small?)" if exit_code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-exit_code).name}{memory}"


def _runtime_client(spec: ExecutionSpec) -> RuntimeHttpClient:
    """Return a client that speaks for the app."""
    return RuntimeHttpClient.from_server_address(
        server_address=spec.runtime_api_address,
        insecure=spec.insecure,
        root_certificates=validate_and_resolve_root_certificates(
            spec.root_certificates_path, spec.insecure
        ),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            RuntimeTokenHttpInterceptor(spec.token),
        ],
    )


def _work(spec: ExecutionSpec, ready: Connection) -> None:
    """Work on a task, in the forked process; ``ready`` is closed when Flower renews the claim."""
    import numpy as np  # noqa: PLC0415  # imported already

    if spec.suppress_output:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.dup2(null, sys.stderr.fileno())
    np.random.seed()  # noqa: NPY002  # a model of the user's own may draw from it
    arguments: dict[str, Any] = {
        "runtime_api_address": spec.runtime_api_address,
        "token": spec.token,
        "insecure": spec.insecure,
        "certificates": validate_and_resolve_root_certificates(
            spec.root_certificates_path, spec.insecure
        ),
        "parent_pid": spec.parent_pid,
        "runtime_dependency_install": spec.runtime_dependency_install,
    }
    if spec.task_type == TaskType.CLIENT_APP:
        from flwr.supernode.runtime.run_clientapp import run_clientapp  # noqa: PLC0415  # likewise

        ready.close()
        run_clientapp(**arguments)
        return
    from flwr.simulation.app import run_simulation_process  # noqa: PLC0415  # not of a site
    from flwr.supercore.logger import mirror_output_to_queue  # noqa: PLC0415
    from flwr.superlink.runtime.run_serverapp import run_serverapp  # noqa: PLC0415

    log: Queue[str | None] = Queue()
    mirror_output_to_queue(log)
    run = run_serverapp if spec.task_type == TaskType.SERVER_APP else run_simulation_process
    ready.close()
    run(log_queue=log, **arguments)


def _run_superexec() -> None:
    from flwr.supercore.cli.flower_superexec import flower_superexec  # noqa: PLC0415
    from flwr.supercore.superexec import run_superexec  # noqa: PLC0415

    starter = AppStarter()
    starter.warm_up()
    setattr(run_superexec, "get_executor", lambda *_, **__: starter)  # noqa: B010
    flower_superexec()


def _run_superlink() -> None:
    module = importlib.import_module("flwr.superlink.cli.flower_superlink")
    flowers_command = getattr(module, _SUPEREXEC_COMMAND)

    def command(*arguments: Any, **options: Any) -> list[str]:
        return [sys.executable, "-P", __file__, *flowers_command(*arguments, **options)]

    setattr(module, _SUPEREXEC_COMMAND, command)
    module.flower_superlink()


if __name__ == "__main__":
    del sys.argv[0]
    {"flower-superexec": _run_superexec, "flower-superlink": _run_superlink}[sys.argv[0]]()
