"""Where the application keeps what nobody told it to put elsewhere."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the application's own folder: ``$RSDGC_HOME``, else ``~/.rsdgc``."""
    return Path(os.environ.get("RSDGC_HOME") or Path.home() / ".rsdgc").absolute()
