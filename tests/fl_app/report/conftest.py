"""Fixtures of the report's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fl_app.report.fake_run import make_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of 20 rounds over 4 sites, two uploads missing."""
    return make_run(tmp_path / "demo")
