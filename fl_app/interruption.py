"""Ending early: by Ctrl-C, by SIGTERM, or because nobody reads the output any more.

A command that works for a while says, when it is ended, what stands and which command goes on:

    with explain_interruption(lambda: "no store was written; the same command goes on"):
        ...
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDED_BY_CTRL_C = 128 + signal.SIGINT
ENDED_BY_SIGTERM = 128 + signal.SIGTERM
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
        if stop.code != ENDED_BY_SIGTERM:
            raise
        raise Interrupted(notice(), ENDED_BY_SIGTERM) from None
