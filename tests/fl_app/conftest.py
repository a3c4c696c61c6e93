"""What the tests of this folder share: a partition that no test writes to, and a made-up run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.federation import make_data
from tests.fl_app.report.fake_run import make_run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of 20 rounds over 4 sites, two uploads missing."""
    return make_run(tmp_path / "demo")
