"""A federation for each file, of its ``SITES``, so that the files can run side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.deployment.parties import Running


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with ExitStack() as stack:
        federation = Running(stack, tmp_path_factory.mktemp("federation"), request.module.SITES)
        yield federation
        # All at once: the stack waits for one after another.
        for process in (*federation.nodes.values(), *federation.apps.values()):
            process.popen.terminate()
