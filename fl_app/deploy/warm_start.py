"""Flower's SuperExec, with an executor that forks the app's process instead of starting a Python.

Flower starts a process for every message, which imports Flower and PyTorch before it does
anything else: four seconds of a processor for each message. Here a process that has imported both
(Python's ``forkserver``) is forked for each message. What is specific to a run, its code and its
state, still lives in a process of its own.

An app that has not fetched its message 30 s after its start is started again by Flower, which does
not end the one before: on a busy machine the processes pile up. A SuperNode handles one message at
a time, so :class:`WarmExecutor` ends the process before the one that it starts, and gives up after
:data:`MAX_STARTS` of one message.

This file runs as a script, and imports none of this project's packages: in the forked process
those must come from the code that the server sent.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext, ForkServerProcess

from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult

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
"""What an app of this project imports besides its own code, and which is the same in every run."""
MAX_STARTS = 5
"""Starts of the app for one message, each of which has Flower's ``HEARTBEAT_DEFAULT_INTERVAL``."""
END_TIMEOUT_S = 5.0
"""For an app to end after its reply, or once it is told to."""


class WarmExecutor(SubprocessExecutor):
    """Starts the app for each message; ends the process before that, should it still run."""

    def __init__(self) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self.process: ForkServerProcess | None = None  #: the app at work on a message
        self._task_id = 0
        self._starts = 0

    def warm_up(self) -> None:
        """Wait until the process that is forked has imported everything."""
        first = self._context.Process(target=int)
        first.start()
        first.join()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the app for a message.

        Raises
        ------
        SystemExit
            It was started :data:`MAX_STARTS` times for this message, and was never ready in time.
        """
        if spec.task_type != TaskType.CLIENT_APP:
            return super().launch(spec)
        self._starts = self._starts + 1 if spec.task_id == self._task_id else 1
        self._task_id = spec.task_id
        if self._starts > 1:
            late = f"the app was not ready for its message within {HEARTBEAT_DEFAULT_INTERVAL} s"
            if self._starts > MAX_STARTS:
                self.close()
                raise SystemExit(
                    f"error: {late} in any of {MAX_STARTS} starts: this machine is too slow or too "
                    "busy. Free memory and processors, then start the site again"
                )
            count = f"start {self._starts} of {MAX_STARTS}"
            print(f"warning: {late}; it is ended and started again ({count})", flush=True)
        self._end_previous()
        self.process = self._context.Process(target=_work, args=(spec,))
        self.process.start()
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Collect an app that has ended."""
        if self.process is not None and not self.process.is_alive():
            self.process.close()
            self.process = None

    def close(self) -> None:
        """End the app; it reports to the SuperNode that it was stopped."""
        if self.process is not None:
            self.process.terminate()
            self._end_previous()

    def _end_previous(self) -> None:
        if self.process is not None:
            if self._starts == 1:
                self.process.join(END_TIMEOUT_S)  # it has replied, and is about to end
            self.process.kill()
            self.process.join()
            self.reconcile()


def _work(spec: ExecutionSpec) -> None:
    """Handle one message, in the forked process."""
    import numpy as np  # noqa: PLC0415  # all of these are imported already
    from flwr.supercore.tls import validate_and_resolve_root_certificates  # noqa: PLC0415
    from flwr.supernode.runtime.run_clientapp import run_clientapp  # noqa: PLC0415

    np.random.seed()  # noqa: NPY002  # a model of the user's own may draw from it
    run_clientapp(
        runtime_api_address=spec.runtime_api_address,
        token=spec.token,
        insecure=spec.insecure,
        certificates=validate_and_resolve_root_certificates(
            spec.root_certificates_path, spec.insecure
        ),
        parent_pid=spec.parent_pid,
        runtime_dependency_install=spec.runtime_dependency_install,
    )


def main() -> None:
    """Run SuperExec with the arguments of ``flower-superexec``."""
    from flwr.supercore.cli.flower_superexec import flower_superexec  # noqa: PLC0415
    from flwr.supercore.superexec import run_superexec  # noqa: PLC0415

    executor = WarmExecutor()
    executor.warm_up()
    setattr(run_superexec, "get_executor", lambda *_, **__: executor)  # noqa: B010
    flower_superexec()


if __name__ == "__main__":
    main()
