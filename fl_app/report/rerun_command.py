"""The command that repeats a run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from fl_app.settings import Settings

if TYPE_CHECKING:
    from fl_app.runs.records import Run

_OPTIONS = ("method", "budget", "model", "rounds", "seed")
# Folders, which --data and --out name.
_FOLDERS = {"data-dir", "out", "state-dir"}


def command_text(run: Run) -> str:
    """Return the command line of a run, ready for a shell.

    It is ``rsdgc simulate`` with the run's main settings as options and every other setting that
    differs from its default.
    """
    settings, defaults = run.config.settings, Settings().to_mapping()
    words = ["rsdgc", "simulate"]
    if run.config.data.path:
        words += ["--data", run.config.data.path]
    for key in _OPTIONS:
        if key in settings:
            words += [f"--{key}", _text(settings[key])]
    words += ["--out", f"runs/{run.folder.resolve().name}"]
    words += [
        f"{key}={_text(settings[key])}"
        for key, default in defaults.items()
        if key in settings and key not in _FOLDERS | set(_OPTIONS) and settings[key] != default
    ]
    return shlex.join(words)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
