"""The command line, called in the test's own process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fl_app import cli


def rsdgc(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run ``rsdgc WORDS``; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["rsdgc", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
