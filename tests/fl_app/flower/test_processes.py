"""A process is ended with all that it started, however that hides."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_app.flower.processes import managed_process

# Each prints its number and sleeps: an ordinary child, one in a session of its own whose parent
# ends, one without the environment (as Ray's agents), and one that does not listen to SIGTERM.
CHILDREN = {
    "plain": "sleep 600 & echo $!; wait",
    "daemon": "setsid sh -c 'sleep 600 & echo $!'; sleep 600",
    "without its environment": "setsid env -i sh -c 'echo $$; exec sleep 600' & wait",
    "deaf": "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait",
}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("kind", CHILDREN)
def test_all_that_a_process_started_is_ended(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_app.flower.processes.STOP_TIMEOUT_S", 2.0)
    log = tmp_path / "log"
    with managed_process(["sh", "-c", CHILDREN[kind]], dict(os.environ), log) as running:
        while not log.read_text().strip():
            time.sleep(0.02)
        pid = int(log.read_text())
        assert alive(pid)
        assert pid != running.pid
    assert not alive(pid)
    assert running.returncode is not None


@pytest.mark.parametrize("kind", ["plain", "daemon"])
def test_all_is_ended_if_who_started_it_is_killed(kind: str, tmp_path: Path) -> None:
    starter = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from fl_app.flower.processes import managed_process\n"
        "log = Path(sys.argv[2])\n"
        "command = ['sh', '-c', sys.argv[1]]\n"
        "with managed_process(command, dict(os.environ), log, temporary=log.parent):\n"
        "    time.sleep(600)\n"
    )
    log = tmp_path / "temporary" / "log"
    log.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", starter, CHILDREN[kind], str(log)]) as killed:
        while not (log.exists() and log.read_text().strip()):
            assert killed.poll() is None
            time.sleep(0.02)
        pid = int(log.read_text())
        killed.kill()
    while alive(pid) or log.parent.exists():  # pytest's time-out ends it
        time.sleep(0.05)
    assert tmp_path.exists()


def test_a_process_that_someone_else_started_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with managed_process(["sleep", "600"], dict(os.environ), tmp_path / "log"):
            pass
        assert other.poll() is None
        other.communicate(b"\n")
