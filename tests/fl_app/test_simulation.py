"""Whole simulations through the real ``flwr run``, with Ray, as a person starts them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from safetensors.numpy import load_file

from data_prep.dataset import Dataset
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.partition import partition
from data_prep.store import Store
from tests.deployment.parties import QUICK_HEARTBEATS, ROOT, starts_for
from tests.federation import write_class_folders, write_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FEW_WORKERS = ["--cpus-per-site", str(min(2, os.cpu_count() or 1)), "threads=1"]
"""One of Ray's workers to every two CPUs: each imports PyTorch, which takes longer than the run.

With one thread, for two of PyTorch's wait for each other where other tests keep the CPUs busy.
"""
WORDS = ["--model", "small-cnn", "--rounds", "2", "--budget", "10x", "batch-size=8", "device=cpu"]
WORDS += FEW_WORKERS
AGENCIES = ("agency-a", "agency-b", "agency-c")
ROUNDS = 12
"""So many that the fourth is long over before the last: a run can be killed between them."""


END_TIMEOUT_S = 900.0
"""For a simulation, which takes half a minute on a quiet machine."""


def simulate(tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "rsdgc"), "simulate"]
    environment = {**os.environ, "HOME": str(tmp_path), "RSDGC_HOME": str(tmp_path / "home")}
    return subprocess.run(
        [*command, *map(str, words)],
        env=environment,
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


@dataclass(frozen=True)
class Simulated:
    """A simulation that ran to its end, over the folders of agencies with different sensors."""

    store: Store
    data: Dataset
    words: list[str | Path]
    folder: Path
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
    words: list[str | Path] = ["--data", home / "data", *WORDS, "--rounds", str(ROUNDS)]
    words += ["normalization=common", "checkpoint-every=2"]
    process = simulate(home, "--out", home / "run", *words)
    assert process.returncode == 0, process.stdout + process.stderr
    return Simulated(store, data, words, home / "run", process)


def test_a_simulation_ends_in_a_report_and_leaves_no_process(simulated: Simulated) -> None:
    last = simulated.process.stdout.strip().splitlines()[-1]
    assert last.startswith(f"report: {simulated.folder / 'report.html'} | accuracy ")
    assert "<svg" in (simulated.folder / "report.html").read_text()
    summary = json.loads((simulated.folder / "summary.json").read_text())
    assert summary["num_sites"] == len(AGENCIES)
    assert summary["compression_up"] > 8
    assert processes_of(simulated.folder.parent) == []


def test_sites_of_different_sensors_agree_on_one_normalization(simulated: Simulated) -> None:
    pixels = []
    for site in simulated.data.sites:
        (values,) = simulated.store.take(simulated.data.site(site).split("train")[0])
        pixels.append(np.moveaxis(values, 1, 0).reshape(3, -1).astype(float))
    assert pixels[0].mean() > 1.5 * pixels[1].mean() > 1.5 * pixels[2].mean()
    assert f"normalize by the statistics of {', '.join(AGENCIES)}" in simulated.process.stdout
    statistics = json.loads((simulated.folder / "normalization.json").read_text())["image"]
    together = np.concatenate(pixels, axis=1)
    np.testing.assert_allclose(statistics["mean"], together.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(statistics["std"], together.std(axis=1), rtol=1e-6)
    visits = (simulated.folder / "rounds.jsonl").read_text().splitlines()
    phases = [json.loads(line)["phase"] for line in visits]
    assert phases == ["statistics"] * 3 + ["train"] * 3 * ROUNDS + ["evaluate"] * 3


def test_a_frozen_backbone_is_never_sent(simulated: Simulated) -> None:
    """A run with adapters starts from the model of another, named by a relative path."""
    home = simulated.folder.parent
    words = ["--data", simulated.words[1], "--out", home / "adapters", *WORDS]
    done = simulate(home, *words, "init-weights=run/model.safetensors", "adapters=lora")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100.0% of the values are the file's" in done.stdout
    assert "93472 are frozen" in done.stdout
    visits = (home / "adapters" / "rounds.jsonl").read_text()
    assert "frozen part" not in visits
    assert max(json.loads(line)["bytes_up"] for line in visits.splitlines()) < 5000
    before, after = (load_file(home / run / "model.safetensors") for run in ("run", "adapters"))
    assert before.keys() == after.keys()
    assert np.array_equal(before["stage2.1.weight"], after["stage2.1.weight"])
    assert not np.array_equal(before["stage2.0.weight"], after["stage2.0.weight"])


def test_a_run_that_fails_exits_with_1_and_says_why(data: Path, tmp_path: Path) -> None:
    # A network that is fine with the two chips that it is tried on, and not with a batch.
    (tmp_path / "fragile.py").write_text(
        "from torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_bands, num_classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Sequential(\n"
        "            nn.Linear(num_bands, 512), nn.ReLU(), nn.Linear(512, num_classes)\n"
        "        )\n\n"
        "    def forward(self, x):\n"
        "        assert len(x) < 3\n"
        "        return self.layer(x.mean((2, 3)))\n"
    )
    words = ["--data", data, "--out", tmp_path / "run", *WORDS]
    done = simulate(tmp_path, *words, "--model", "fragile:Net")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: no round reached the quorum of 1: error at the site (13)")
    assert done.stderr.count("\n") == 1
    assert processes_of(tmp_path) == []


def test_sites_that_all_fail_at_the_roll_call_end_the_run_at_once_with_one_reason(
    data: Path, tmp_path: Path
) -> None:
    # A network that the server can import, and Ray's workers cannot.
    (tmp_path / "homebound.py").write_text(
        "import sys\n\nfrom torch import nn\n\n"
        "if 'default_worker' in sys.argv[0]:\n"
        "    import no_such_package\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_bands, num_classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Sequential(\n"
        "            nn.Linear(num_bands, 512), nn.ReLU(), nn.Linear(512, num_classes)\n"
        "        )\n\n"
        "    def forward(self, x):\n"
        "        return self.layer(x.mean((2, 3)))\n"
    )
    # Longer than this test may take.
    words = ["--data", data, "--out", tmp_path / "run", *WORDS, "join-timeout-s=20000"]
    done = simulate(tmp_path, *words, "--model", "homebound:Net")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: 0 of at least 3 sites joined, and all nodes have ans")
    assert done.stderr.count("no_such_package") == 1
    assert done.stderr.count("\n") == 1


def test_a_slow_start_is_waited_for_and_a_signal_ends_everything(
    data: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    path = os.pathsep.join(map(str, (QUICK_HEARTBEATS, ROOT)))
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": path}
    command = [str(Path(sys.executable).parent / "rsdgc"), "simulate", "--data", str(data)]
    command += ["--out", str(tmp_path / "run"), *WORDS, "--rounds", "1000"]
    with subprocess.Popen(
        command,
        env={**environment, "RSDGC_TEST_SLOW": str(slow)},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        while not starts_for(running.pid, 15.0):
            time.sleep(0.2)
        slow.unlink()
        for line in running.stdout:
            if line.startswith("round "):
                break
        running.send_signal(signal.SIGTERM)
        running.stdout.read()
        assert running.wait(END_TIMEOUT_S) == 128 + signal.SIGTERM
    assert processes_of(tmp_path) == []


def test_a_simulation_that_was_killed_is_resumed(simulated: Simulated, tmp_path: Path) -> None:
    """SIGKILL of everything, as when the machine goes down; then ``--resume``."""
    command = [str(Path(sys.executable).parent / "rsdgc"), "simulate", *map(str, simulated.words)]
    command += ["--out", str(tmp_path / "run")]
    with subprocess.Popen(
        command, env={**os.environ, "HOME": str(tmp_path)}, stdout=subprocess.DEVNULL
    ) as running:
        while not list((tmp_path / "run").glob("checkpoints/round-*[468].safetensors")):
            assert running.poll() is None  # the log lags behind the run, its files do not
            time.sleep(0.02)
        running.kill()
        while left := processes_of(tmp_path):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)
    assert not (tmp_path / "run" / "summary.json").exists()
    done = simulate(tmp_path, "--resume", tmp_path / "run", *FEW_WORKERS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"resumed after round (4|6|8|10)\b", done.stdout)
    whole, resumed = (
        (folder / "model.safetensors").read_bytes()
        for folder in (simulated.folder, tmp_path / "run")
    )
    assert whole == resumed
    assert simulate(tmp_path, "--resume", tmp_path / "run").returncode == 2
