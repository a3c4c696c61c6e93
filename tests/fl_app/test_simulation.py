"""Whole simulations through the real ``flwr run``, with Ray, as a person starts them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import load_file, save_file

from data_prep.dataset import Dataset
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.partition import partition
from data_prep.store import Store
from fl_app.models import build_model
from fl_app.runs.resumption import read_settings
from tests.deployment.parties import QUICK_HEARTBEATS, ROOT, starts_for
from tests.federation import CHIP_PX, CLASSES, run, write_class_folders, write_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FEW_WORKERS = ["--cpus-per-site", str(min(2, os.cpu_count() or 1)), "threads=1"]
"""One of Ray's workers to every two CPUs: each imports PyTorch, which takes longer than the run.

With one thread, for two of PyTorch's wait for each other where other tests keep the CPUs busy.
"""
WORDS = ["--model", "small-cnn", "--budget", "10x", "batch-size=8", "device=cpu", *FEW_WORKERS]
AGENCIES = ("agency-a", "agency-b", "agency-c")
ROUNDS = 24
"""So many that the run can be stopped twice on its way."""
END_TIMEOUT_S = 900.0
"""For a simulation, which takes half a minute on a quiet machine."""


COMMAND = (str(Path(sys.executable).parent / "rsdgc"), "simulate")


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(home), "RSDGC_HOME": str(home / "home")}


def simulate(tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=END_TIMEOUT_S,
        check=False,
    )


def processes_of(folder: Path) -> list[str]:
    pids = []
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in status.read_bytes():
                pids.append(status.parent.name)
        except OSError:
            continue
    return pids


@contextmanager
def started(
    home: Path, log: Path, *words: str | Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a simulation whose output goes to a file."""
    command = [*COMMAND, *map(str, words)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env={**environment(home), **variables}, cwd=home, stdout=output
        ) as running,
    ):
        yield running


def checkpoint_after(run: Path, number: int) -> int:
    """Return the round of the newest checkpoint if that is after a round, else 0."""
    rounds = [int(path.stem.partition("-")[2]) for path in run.glob("checkpoints/round-*.*")]
    return max((each for each in rounds if each > number), default=0)


@dataclass(frozen=True)
class Simulated:
    """A simulation over the folders of agencies with different sensors, with two stops.

    It starts slowly, from weights that a relative path names, and trains adapters. Everything of
    it is killed; it is resumed, and a signal ends it; it is resumed, and runs to its end.

    Attributes
    ----------
    weights : Path
        What it started from.
    first : str
        The output of the start, until everything was killed.
    ended : tuple of int and list
        The exit status after the signal, and the processes that were left then.
    process : CompletedProcess
        The last start.
    """

    store: Store
    data: Dataset
    weights: Path
    folder: Path
    first: str
    ended: tuple[int, list[str]]
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    home = tmp_path_factory.mktemp("simulated")
    for number, agency in enumerate(AGENCIES):
        images = write_class_folders(home / "archive" / agency, seed=number)
        for path in images.rglob("*.tif"):
            with rasterio.open(path) as source:
                image = source.read()
            write_image(path, image // 2**number + 1)
    store = ingest_class_folders(home / "archive", home / "store")
    data = partition(home / "store", home / "data", scheme="folder")
    weights, folder = home / "start.safetensors", home / "run"
    save_file(build_model("small-cnn", 3, len(CLASSES), CHIP_PX, seed=5).state_dict(), weights)
    words = ["--data", home / "data", "--out", "run", *WORDS, "--rounds", str(ROUNDS)]
    words += ["normalization=common", "checkpoint-every=2"]
    words += [f"init-weights={weights.name}", "adapters=lora"]
    first = start_slowly_and_kill(home, *words)
    ended = resume_and_end(home)
    process = simulate(home, "--resume", folder, *FEW_WORKERS)
    assert process.returncode == 0, process.stdout + process.stderr
    return Simulated(store, data, weights, folder, first, ended, process)


def start_slowly_and_kill(home: Path, *words: str | Path) -> str:
    """Kill everything after some rounds, as when the machine goes down; return the output."""
    slow, log = home / "slow", home / "first.log"
    slow.touch()
    path = os.pathsep.join(map(str, (QUICK_HEARTBEATS, ROOT)))
    with started(home, log, *words, PYTHONPATH=path, RSDGC_TEST_SLOW=str(slow)) as running:
        while not starts_for(running.pid, 15.0):
            assert running.poll() is None, log.read_text()
            time.sleep(0.2)
        slow.unlink()
        # The log lags behind the run, its files do not.
        while not (checkpoint_after(home / "run", 0) and "normalize by" in log.read_text()):
            assert running.poll() is None, log.read_text()
            time.sleep(0.02)
        running.kill()
        while left := processes_of(home):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)
    assert not (home / "run" / "summary.json").exists()
    return log.read_text()


def resume_and_end(home: Path) -> tuple[int, list[str]]:
    """Resume the run, and end it by SIGTERM; return its exit status, and what is left of it."""
    folder, log = home / "run", home / "second.log"
    before = checkpoint_after(folder, 0)
    with started(home, log, "--resume", folder, *FEW_WORKERS) as running:
        resumed = f"resumed after round {before}"
        while not (checkpoint_after(folder, before) and resumed in log.read_text()):
            assert running.poll() is None, log.read_text()
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        status = running.wait(END_TIMEOUT_S)
    assert not (folder / "summary.json").exists()
    return status, processes_of(home)


def test_a_simulation_ends_in_a_report_and_leaves_no_process(simulated: Simulated) -> None:
    last = simulated.process.stdout.strip().splitlines()[-1]
    assert last.startswith(f"report: {simulated.folder / 'report.html'} | accuracy ")
    assert "<svg" in (simulated.folder / "report.html").read_text()
    summary = json.loads((simulated.folder / "summary.json").read_text())
    assert summary["num_sites"] == len(AGENCIES)
    assert summary["compression_up"] > 8
    assert processes_of(simulated.folder.parent) == []


def test_a_signal_ends_everything(simulated: Simulated) -> None:
    assert simulated.ended == (128 + signal.SIGTERM, [])


def test_a_simulation_that_was_killed_and_ended_is_resumed(
    simulated: Simulated, tmp_path: Path
) -> None:
    """It ends as the same federation does in this process, to the bit."""
    resumed = re.search(r"resumed after round (\d+)\b", simulated.process.stdout)
    assert resumed is not None
    assert 4 <= int(resumed[1]) < ROUNDS
    chosen, _ = read_settings(simulated.folder)
    run(chosen.model_copy(update={"out": str(tmp_path / "whole"), "resume": False}))
    whole, stopped = (
        (folder / "model.safetensors").read_bytes()
        for folder in (tmp_path / "whole", simulated.folder)
    )
    assert whole == stopped
    assert simulate(tmp_path, "--resume", simulated.folder).returncode == 2


def test_sites_of_different_sensors_agree_on_one_normalization(simulated: Simulated) -> None:
    pixels = []
    for site in simulated.data.sites:
        (values,) = simulated.store.take(simulated.data.site(site).split("train")[0])
        pixels.append(np.moveaxis(values, 1, 0).reshape(3, -1).astype(float))
    assert pixels[0].mean() > 1.5 * pixels[1].mean() > 1.5 * pixels[2].mean()
    assert f"normalize by the statistics of {', '.join(AGENCIES)}" in simulated.first
    statistics = json.loads((simulated.folder / "normalization.json").read_text())["image"]
    together = np.concatenate(pixels, axis=1)
    np.testing.assert_allclose(statistics["mean"], together.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(statistics["std"], together.std(axis=1), rtol=1e-6)
    visits = (simulated.folder / "rounds.jsonl").read_text().splitlines()
    phases = [json.loads(line)["phase"] for line in visits]
    assert phases == ["statistics"] * 3 + ["train"] * 3 * ROUNDS + ["evaluate"] * 3


def test_a_frozen_backbone_is_never_sent(simulated: Simulated) -> None:
    assert "100.0% of the values are the file's" in simulated.first
    assert "93472 are frozen" in simulated.first
    visits = (simulated.folder / "rounds.jsonl").read_text()
    assert "frozen part" not in visits
    assert max(json.loads(line)["bytes_up"] for line in visits.splitlines()) < 5000
    files = (simulated.weights, simulated.folder / "model.safetensors")
    before, after = (load_file(path) for path in files)
    assert before.keys() == after.keys()
    assert torch.equal(before["stage2.1.weight"], after["stage2.1.weight"])
    assert not torch.equal(before["stage2.0.weight"], after["stage2.0.weight"])


def write_network(path: Path, at_import: str = "", in_forward: str = "pass") -> None:
    path.write_text(
        f"import sys\n\nfrom torch import nn\n\n{at_import}\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_bands, num_classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Sequential(\n"
        "            nn.Linear(num_bands, 512), nn.ReLU(), nn.Linear(512, num_classes)\n"
        "        )\n\n"
        "    def forward(self, x):\n"
        f"        {in_forward}\n"
        "        return self.layer(x.mean((2, 3)))\n"
    )


def test_a_run_that_fails_exits_with_1_and_says_why(data: Path, tmp_path: Path) -> None:
    # A network that is fine with the two chips that it is tried on, and not with a batch.
    write_network(tmp_path / "fragile.py", in_forward="assert len(x) < 3")
    words = ["--data", data, "--out", tmp_path / "run", *WORDS, "--rounds", "2"]
    done = simulate(tmp_path, *words, "--model", "fragile:Net")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: no round reached the quorum of 1: error at the site (13)")
    assert done.stderr.count("\n") == 1
    assert processes_of(tmp_path) == []


def test_sites_that_all_fail_at_the_roll_call_end_the_run_at_once_with_one_reason(
    data: Path, tmp_path: Path
) -> None:
    # A network that the server can import, and Ray's workers cannot.
    ray_alone = "if 'default_worker' in sys.argv[0]:\n    import no_such_package"
    write_network(tmp_path / "homebound.py", at_import=ray_alone)
    # Longer than this test may take.
    words = ["--data", data, "--out", tmp_path / "run", *WORDS, "join-timeout-s=20000"]
    done = simulate(tmp_path, *words, "--model", "homebound:Net")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: 0 of at least 3 sites joined, and all nodes have ans")
    assert done.stderr.count("no_such_package") == 1
    assert done.stderr.count("\n") == 1
