"""The program ``rsdgc``, also as ``python -m fl_app``.

Ctrl-C while the command line is imported, or while Python shuts down after it, gives no traceback.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line; the entry point of ``rsdgc``."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # a shell that starts a job in the background ignores
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fl_app.cli import main as run_command_line

    signal.signal(signal.SIGINT, handler)
    try:
        run_command_line()
    finally:  # all is done: what stops a command would only disturb Python's own end
        from fl_app.interruption import stop_signals

        for number in stop_signals():
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
