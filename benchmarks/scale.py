"""Memory and time of a simulation by the number of its sites.

Writes an archive in the layout of benchmarks with many clients (``client_k/class/image.tif``, a
few chips each), ingests it, and simulates. Memory is sampled from the kernel during the run as
proportional set sizes, which count a page shared by several processes once in all.

    python -m benchmarks.scale --sites 6 34 135 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.archives import write_images
from benchmarks.netns import terminated
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.partition import partition
from fl_app.flower.processes import managed_process, process_tree
from rsdgc.errors import RsdgcError, RunError

CLASSES = 4
PER_CLASS = 5
CHIP_PX = 16
SAMPLE_S = 1.0
"""Pause between two samples: reading the page tables of all workers takes processor time, too."""

KINDS = {
    "server": "multiprocessing.forkserver",
    "workers": "ClientAppActor",
    "SuperLink": "flower-superlink",
}
"""Kinds of processes, by a part of their command line."""
MARK = "RSDGC_SCALE"


@dataclass
class Memory:
    """Peak memory of each kind of process, and of a single worker, bytes."""

    peaks: dict[str, int] = field(default_factory=dict)
    worker: int = 0

    def sample(self, mark: str) -> None:
        """Take a sample of the processes that carry a mark in their environment."""
        sums: Counter[str] = Counter()
        for process in process_tree(MARK, mark):
            with suppress(psutil.Error):  # it has ended since
                title = " ".join(process.cmdline())
                size = process.memory_full_info().pss
                kind = next((kind for kind, name in KINDS.items() if name in title), "other")
                sums[kind] += size
                self.worker = max(self.worker, size if kind == "workers" else 0)
        for kind, size in sums.items():
            self.peaks[kind] = max(self.peaks.get(kind, 0), size)


def make_data(folder: Path, sites: int) -> Path:
    """Write ``client_k/class/`` folders, ingest them, and make a site of each client."""
    rng = np.random.default_rng(0)
    for site in range(sites):
        for code in range(CLASSES):
            images = folder / "archive" / f"client_{site}" / f"class-{code}"
            write_images(images, PER_CLASS, CHIP_PX, 150 + 30 * code, rng)
    ingest_class_folders(folder / "archive", folder / "store", processes=1)
    partition(folder / "store", folder / "data", scheme="folder", min_train=1)
    return folder / "data"


def measure(sites: int, arguments: argparse.Namespace) -> str:
    """Simulate so many sites; return a row of the table."""
    with tempfile.TemporaryDirectory(prefix="rsdgc-scale-", dir=arguments.work) as name:
        folder = Path(name)
        data, run = make_data(folder, sites), folder / "run"
        memory, mark = Memory(), uuid.uuid4().hex
        command = [sys.executable, "-m", "fl_app.cli", "simulate", "--data", str(data)]
        command += ["--out", str(run), "--method", arguments.method]
        command += ["--rounds", str(arguments.rounds), f"model={arguments.model}"]
        command += ["local-steps=1", "batch-size=8", "device=cpu"]
        environment, log = {**os.environ, MARK: mark}, folder / "simulate.log"
        with terminated(), managed_process(command, environment, log) as running:
            while running.poll() is None:
                memory.sample(mark)
                time.sleep(SAMPLE_S)
        if running.returncode:
            lines = log.read_text(errors="replace").splitlines()
            raise RunError(f"{sites} sites: {lines[-1] if lines else 'no output'}")
        history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        seconds = statistics.median([line["seconds"] for line in history[1:]])
        state = sum(path.stat().st_size for path in (run / "state").rglob("*") if path.is_file())
        ledger, report = ((run / n).stat().st_size for n in ("rounds.jsonl", "report.html"))
    ledger_kb = ledger / 1e3 / arguments.rounds
    gigabytes = [memory.peaks.get(kind, 0) / 1e9 for kind in ("server", "workers", "SuperLink")]
    return (
        f"| {sites} | {seconds:.1f} | {seconds / sites:.3f} | {gigabytes[0]:.2f} "
        f"| {gigabytes[1]:.2f} | {memory.worker / 1e9:.2f} | {gigabytes[2]:.2f} "
        f"| {state / sites / 1e6:.1f} | {ledger_kb:.0f} | {report / 1e3:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sites", type=int, nargs="+", default=[6, 34, 135])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="small-resnet")
    parser.add_argument("--method", default="rs-dgc")
    parser.add_argument("--work", type=Path, help="folder for the runs' files; default: /tmp")
    arguments = parser.parse_args()
    print(
        "| sites | s per round | per site, s | server, GB | all workers, GB | one worker, GB "
        "| SuperLink, GB | state per site, MB | ledger per round, kB | report, kB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    try:
        for sites in arguments.sites:
            print(measure(sites, arguments), flush=True)
    except RsdgcError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
