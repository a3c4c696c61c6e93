"""What Flower's command leaves behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

FOLLOW = """
import sys
from fl_app.flower import command
command.tool = lambda name: sys.argv[1]
command.FlowerCli({}).follow("7")
"""


def test_a_log_that_is_followed_ends_with_a_command_that_was_killed(tmp_path: Path) -> None:
    flwr, ready = tmp_path / "flwr", tmp_path / "ready"
    flwr.write_text(
        f"#!{sys.executable}\nimport time\nopen({str(ready)!r}, 'w').close()\ntime.sleep(600)\n"
    )
    flwr.chmod(0o755)
    command = subprocess.Popen([sys.executable, "-c", FOLLOW, flwr])
    while not ready.exists():
        time.sleep(0.02)
    (child,) = psutil.Process(command.pid).children()
    command.kill()
    command.wait()
    child.wait(60)
