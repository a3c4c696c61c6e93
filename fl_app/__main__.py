"""The program ``rsdgc``, also as ``python -m fl_app``.

Ctrl-C while the command line is imported ends it without Python's list of what it was importing.
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
    run_command_line()


if __name__ == "__main__":
    main()
