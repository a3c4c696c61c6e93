"""Makes every Python send signs of life more often: the least interval that Flower takes.

Flower then counts a site as offline after 20 s of silence instead of 60, and starts an app again
whose claim to its task was not renewed for 10 s instead of 30. While the file exists that
``RSDGC_TEST_SLOW`` names, an app is not ready. Python imports this module at its start if the
folder is on its path.
"""

import os
import time

from flwr.common import constant

constant.HEARTBEAT_DEFAULT_INTERVAL = constant.HEARTBEAT_MIN_INTERVAL


_forks: list[None] = []


def _wait() -> None:
    # The first fork is no app: it shows that the process that is forked has imported everything.
    while len(_forks) > 1 and os.path.exists(os.environ.get("RSDGC_TEST_SLOW", "")):
        time.sleep(0.2)


os.register_at_fork(before=lambda: _forks.append(None), after_in_child=_wait)
