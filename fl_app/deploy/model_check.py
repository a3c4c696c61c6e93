"""Check that a server can import a run's model and read the weights that it starts from.

Both take PyTorch, so a process of its own does it: the command that follows a run for days does not
keep PyTorch's memory.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from rsdgc.errors import RsdgcError, RunError
from rsdgc.registry import add_code_dir


def check_model(model: str, code_dir: str, weights: Path | None) -> None:
    """Check a run's model if it is not built in, and its initial weights if they are a file.

    Raises
    ------
    SettingError
        This machine cannot import the model, or cannot read the weights.
    RunError
        The process that checks them ended early.
    """
    if ":" not in model and weights is None:
        return
    # Not a fork: other threads of this process may hold locks.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    checker = context.Process(target=_check, args=(sender, model, code_dir, weights))
    checker.start()
    sender.close()
    try:
        error: RsdgcError | None = receiver.recv()
    except EOFError:
        checker.join()
        raise RunError(
            f"the process that checked model {model} ended early with exit code "
            f"{checker.exitcode} (is the memory too small?)"
        ) from None
    finally:
        checker.kill()  # it has answered, or this process was told to end
        checker.join()
        receiver.close()
    if error is not None:
        raise error


def _check(result: Connection, model: str, code_dir: str, weights: Path | None) -> None:
    """Send the error of this project that a model or its weights lead to, or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this
    error = None
    try:
        if ":" in model:
            from fl_app.models import find_builder  # noqa: PLC0415  # imports torch

            add_code_dir(code_dir)
            find_builder(model)
        if weights is not None:
            from fl_app.models.weight_file import WeightFile  # noqa: PLC0415  # imports torch

            WeightFile(weights)
    except RsdgcError as caught:
        error = caught
    sys.stdout.flush()  # what a module of the user's own has printed
    result.send(error)
