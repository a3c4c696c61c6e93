"""The home folder of rsdgc, for what has no place of its own."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the home folder of rsdgc: ``$RSDGC_HOME``, else ``~/.rsdgc``."""
    return Path(os.environ.get("RSDGC_HOME") or Path.home() / ".rsdgc").absolute()
