"""Cost of a round at a site without training, scoring and codec, for a model of many parameters.

Loads the state, brings the replica up to date, compares its fingerprint, loads it into the model,
computes change plus residual in the file that will hold it, forces it to disk, and commits the new
state. The decoding of the patch is part of it; its cost is also shown separately.

    python -m benchmarks.site_cost --rounds 5
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torchvision.models import vgg19

from clients.mapped_vectors import checksum
from clients.model_parts import ModelParts
from clients.replica import update_replica
from clients.state import SiteState, StateFolder
from clients.task import ReceivedModel, RunOrigin
from clients.uplink import held_back
from rsdgc import RMS, Compressor, ModelSpec, Scheme, Stamp, decode, fit_ratios, uniform_shares
from rsdgc.patches import fingerprint

RUN = 1


@dataclass
class Clock:
    """Wall clock and processor seconds of every step, by round."""

    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        """Add the time of a block to a step."""
        start = time.perf_counter(), time.process_time()
        yield
        elapsed = time.perf_counter() - start[0], time.process_time() - start[1]
        self.seconds.setdefault(step, []).append(elapsed)

    def lines(self) -> Iterator[str]:
        """Yield the table of medians."""
        yield "| step | wall clock, s | processor, s |"
        yield "|---|---|---|"
        sums = np.zeros(2)
        for step, values in self.seconds.items():
            medians = np.array([statistics.median(column) for column in zip(*values, strict=True)])
            yield f"| {step} | {medians[0]:.3f} | {medians[1]:.3f} |"
            sums += 0 if step.startswith("(") else medians
        yield f"| **all steps but those in brackets** | **{sums[0]:.3f}** | **{sums[1]:.3f}** |"


def patches(
    spec: ModelSpec, start: np.ndarray, count: int, times: float
) -> Iterator[ReceivedModel]:
    """Yield what a server would send: one patch per round."""
    model = start.copy()
    compressor = Compressor(spec, Scheme(), RMS())
    change = np.random.default_rng(0).standard_normal(spec.size, dtype=np.float32)
    change *= np.float32(1e-3)
    budget_bytes = spec.dense_bytes / times
    ratios = fit_ratios(spec, compressor.scheme, uniform_shares(spec), budget_bytes)
    for version in range(1, count + 1):
        stamp = Stamp(RUN, version, version - 1)
        sent = compressor.compress(change, ratios, stamp, budget_bytes)
        sent.add_to(model)
        yield ReceivedModel(version, fingerprint(model), patches=(sent.payload,))


def work(
    folder: StateFolder,
    model: ModelParts,
    spec: ModelSpec,
    received: ReceivedModel,
    start: np.ndarray,
    upload: bytes,
    clock: Clock,
) -> None:
    """Handle the state of one round, as :meth:`clients.site.Site.work` does."""
    number = received.version  # one version per round
    with clock.timing("(in all)"), folder.transaction(RunOrigin(RUN)) as transaction:
        with clock.timing("replica: map, copy, patch, compare the fingerprint"):
            replica = update_replica(transaction, received, lambda: start)
        with clock.timing("(decoding the patch, once more)"):
            decode(received.patches[0], spec)
        with clock.timing("load into the model"):
            model.load_vector(replica.weights)
        with clock.timing("change + residual, in the new file"):
            name, residual = transaction.new_vector("residual")
            model.vector(out=residual)
            residual -= replica.weights
            held = held_back(transaction, number - 1)
            if held is not None:
                residual += held
        with clock.timing("to disk, and commit the state"):
            transaction.sync(name)
            transaction.commit(
                SiteState(
                    round=number,
                    version=replica.version,
                    replica=replica.name,
                    residual=name,
                    upload=transaction.write_bytes("upload", upload),
                    residual_check=checksum(residual),
                    upload_check=checksum(upload),
                )
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=float, default=50.0, help="compression of the patches")
    parser.add_argument("--folder", type=Path, help="where the state is written; default: /tmp")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = vgg19(num_classes=45)
    parts = ModelParts(model)
    spec, start = parts.spec, parts.vector()
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        folder = StateFolder(root, RUN, "site", spec)
        upload = bytes(spec.dense_bytes // 100)
        for received in patches(spec, start, args.rounds + 2, args.times):
            if received.version == 3:
                clock = Clock()  # the first two rounds make the files that the others reuse
            work(folder, parts, spec, received, start, upload, clock)
        disk = sum(file.stat().st_size for file in folder.path.iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"VGG-19, {spec.size:,} parameters, {spec.dense_bytes / 1e6:.0f} MB, one thread")
    for line in clock.lines():
        print(line)
    print(f"on disk {disk / 1e6:.0f} MB; peak memory of the process {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
