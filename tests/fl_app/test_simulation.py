"""A whole simulation through the real ``flwr run``, with Ray, as a person starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import rasterio

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.partition import partition
from tests.federation import write_class_folders, write_image

pytestmark = pytest.mark.slow

WORDS = ["--model", "small-cnn", "--rounds", "2", "--budget", "10x", "batch-size=8", "device=cpu"]


def simulate(tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "rsdgc"), "simulate"]
    environment = {**os.environ, "HOME": str(tmp_path), "RSDGC_HOME": str(tmp_path / "home")}
    return subprocess.run(
        [*command, *map(str, words)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def processes_of(folder: Path) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in status.read_bytes():
                found.append(status.parent.name)
        except OSError:
            continue
    return found


def test_a_simulation_ends_in_a_report_and_leaves_no_process(data: Path, tmp_path: Path) -> None:
    done = simulate(tmp_path, "--data", data, "--out", tmp_path / "run", *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith(f"report: {tmp_path / 'run' / 'report.html'} | accuracy ")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["num_sites"] == 3
    assert summary["compression_up"] > 8
    assert processes_of(tmp_path) == []


def test_sites_of_two_sensors_agree_on_one_normalization(tmp_path: Path) -> None:
    """Two folders of one archive, from sensors of other gains; then each with its own samples."""
    for number, site in enumerate(("agency-a", "agency-b")):
        write_class_folders(tmp_path / "archive" / site, seed=number)
    for path in (tmp_path / "archive" / "agency-b").rglob("*.tif"):
        with rasterio.open(path) as source:
            image = source.read()
        write_image(path, image // 2 + 1)
    store = ingest_class_folders(tmp_path / "archive", tmp_path / "store")
    data = partition(tmp_path / "store", tmp_path / "data", scheme="folder")
    pixels = []
    for site in data.sites:
        (values,) = store.take(data.site(site).split("train")[0])
        pixels.append(np.moveaxis(values, 1, 0).reshape(3, -1).astype(float))
    assert pixels[0].mean() > 1.5 * pixels[1].mean()
    words = [*WORDS, "normalization=common", "--out", tmp_path / "run"]
    done = simulate(tmp_path, "--data", tmp_path / "data", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all sites normalize by the statistics of agency-a, agency-b" in done.stdout
    found = json.loads((tmp_path / "run" / "normalization.json").read_text())["image"]
    together = np.concatenate(pixels, axis=1)
    np.testing.assert_allclose(found["mean"], together.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["std"], together.std(axis=1), rtol=1e-6)
    visits = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    phases = [json.loads(line)["phase"] for line in visits]
    assert phases == ["statistics"] * 2 + ["train"] * 4 + ["evaluate"] * 2


def test_a_run_that_fails_exits_with_1_and_says_why(data: Path, tmp_path: Path) -> None:
    words = ["--data", data, "--out", tmp_path / "run", *WORDS, "state-dir=/proc/nowhere"]
    done = simulate(tmp_path, *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: no round reached the quorum of 1: error at the site (6)")
    assert done.stderr.count("\n") == 1
    assert processes_of(tmp_path) == []


def test_a_run_that_is_told_to_terminate_ends_what_it_started(data: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "rsdgc"), "simulate", "--data", str(data)]
    command += ["--out", str(tmp_path / "run"), *WORDS, "--rounds", "1000"]
    with subprocess.Popen(
        command, env={**os.environ, "HOME": str(tmp_path)}, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("round "):
                break
        running.send_signal(signal.SIGTERM)
        running.stdout.read()
        assert running.wait(timeout=60) == 128 + signal.SIGTERM
    assert processes_of(tmp_path) == []


def test_a_simulation_that_was_killed_is_resumed(data: Path, tmp_path: Path) -> None:
    """SIGKILL of everything, as when the machine goes down; then ``--resume``."""
    words = ["--data", data, *WORDS, "--rounds", "16", "checkpoint-every=2"]
    assert simulate(tmp_path, "--out", tmp_path / "whole", *words).returncode == 0
    command = [str(Path(sys.executable).parent / "rsdgc"), "simulate", *map(str, words)]
    command += ["--out", str(tmp_path / "run")]
    with subprocess.Popen(
        command, env={**os.environ, "HOME": str(tmp_path)}, stdout=subprocess.DEVNULL
    ) as running:
        while not list((tmp_path / "run").glob("checkpoints/round-*4.safetensors")):
            assert running.poll() is None  # the log lags behind the run, its files do not
            time.sleep(0.02)
        running.kill()
        while left := processes_of(tmp_path):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)
    assert not (tmp_path / "run" / "summary.json").exists()
    done = simulate(tmp_path, "--resume", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"resumed after round (4|6|8|10|12|14)\b", done.stdout)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert models[0] == models[1]
    assert simulate(tmp_path, "--resume", tmp_path / "run").returncode == 1
