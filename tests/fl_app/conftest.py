"""A partition shared by the tests of this folder; nobody writes to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.federation import make_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("federation"))
