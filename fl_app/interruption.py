"""Ending early: by Ctrl-C, by a signal, or because nobody reads the output any more.

A command that works for a while says, when it is ended, what stands and which command goes on:

    with explain_interruption(lambda: "no store was written; the same command goes on"):
        ...
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rsdgc.errors import RsdgcError

ENDED_BY_CTRL_C = 128 + signal.SIGINT
ENDED_BY_SIGTERM = 128 + signal.SIGTERM
ENDED_BY_SIGHUP = 128 + signal.SIGHUP
OUTPUT_CLOSED = 128 + signal.SIGPIPE


class Interrupted(Exception):  # noqa: N818  # not an error: somebody wanted it
    """Somebody ended the command; the text says what stands and how to go on."""

    def __init__(self, notice: str, exit_code: int) -> None:
        super().__init__(notice)
        self.exit_code = exit_code


@contextmanager
def explain_interruption(notice: Callable[[], str]) -> Iterator[None]:
    """Raise :class:`Interrupted` with a notice, made when it happens, if the block is ended early.

    The block's own clean-up has been done by then.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(notice(), ENDED_BY_CTRL_C) from None
    except BrokenPipeError:
        raise Interrupted(notice(), OUTPUT_CLOSED) from None
    except Interrupted as stop:  # of a part of this block: the whole says more
        raise Interrupted(notice(), stop.exit_code) from None
    except SystemExit as stop:
        if stop.code not in (ENDED_BY_SIGTERM, ENDED_BY_SIGHUP):
            raise
        raise Interrupted(notice(), stop.code) from None
    except Exception as error:
        if not (code := code_of_signal(error)):
            raise
        raise Interrupted(notice(), code) from None


_received: list[int] = []


def exit_on_signals() -> None:
    """Exit on SIGTERM, and on SIGHUP (the terminal is gone) unless ``nohup`` has it ignored.

    By default Python would end at once; an exit lets a command end the processes it started.
    Ctrl-C raises KeyboardInterrupt as before, unless the shell has it ignored in the background.
    """
    _received.clear()
    for number in stop_signals():
        if number != signal.SIGINT or signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    sys.exit(128 + number)


def code_of_signal(error: Exception) -> int:
    """Return the exit code of the signal that an error comes of; 0 if it comes of none.

    Some libraries raise an error of their own where a signal ends what they are doing, as pydantic
    does while it builds a class. An error that the project or the system names stands for itself.
    """
    if not _received or isinstance(error, RsdgcError | OSError | Interrupted):
        return 0
    return 128 + _received[-1]


def stop_signals() -> set[signal.Signals]:
    """Return the signals by which a command is told to stop."""
    numbers = {signal.SIGTERM, signal.SIGINT}
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return numbers if ignored else numbers | {signal.SIGHUP}
