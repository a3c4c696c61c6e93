"""Functions in processes of their own, which end by SIGKILL: as when power or memory is lost.

The processes are forked from one that has imported the app once. The first process that a test
starts decides what that one imports, so all tests start theirs here.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

PRELOADED = ["fl_app.server_app", "fl_app.client_app", "tests.federation"]
TIMEOUT_S = 240.0
"""For processes that take seconds on a quiet machine."""


def forkserver() -> ForkServerContext:
    """Return the way to start processes that have the app imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start_process(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    process = forkserver().Process(target=function, args=arguments)
    process.start()
    return process


def run_until_killed(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a process of its own, which must end by SIGKILL."""
    process = start_process(function, *arguments)
    process.join(TIMEOUT_S)
    assert process.exitcode == -signal.SIGKILL
