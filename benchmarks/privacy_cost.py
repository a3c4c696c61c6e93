"""Accuracy under differential privacy: dense updates, with noise on their mean.

Trains in one process, without Flower, with the product's clipping, noise and accounting. Prints a
row of a table for each noise multiplier; 0 is the mean of the clipped updates.

    rsdgc partition STORE --out sites/ --scheme iid --sites 20
    python -m benchmarks.privacy_cost sites/ --noise 0 0.01 1 --clip 0.3 --rounds 20
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.federated_training import Federation
from data_prep.dataset import open_data
from strategies.differential_privacy import PrivateMean

DELTA = 1e-5
HARDLY_ANY = 1e-12
"""Noise multiplier in place of 0, for which there is no mechanism."""


def run(federation: Federation, noise: float, clip: float, rounds: int) -> tuple[float, float]:
    """Train a model; return its accuracy and its ε."""
    with tempfile.TemporaryDirectory() as folder:
        mean = PrivateMean(noise or HARDLY_ANY, clip, DELTA, Path(folder))
        weights = federation.start.copy()
        for number in range(1, rounds + 1):
            changes, _ = federation.changes(weights, number)
            sizes = {"asked": len(changes), "size": weights.size}
            weights += mean.release(changes, server_round=number, **sizes)
        return federation.accuracy(weights), mean.epsilon() if noise else np.inf


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="partition with the sites")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.01, 0.1, 1.0])
    parser.add_argument("--clip", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset = open_data(options.data)
    print("| noise multiplier | ε at δ = 1e-05 | accuracy |\n|---|---|---|")
    for noise in options.noise:
        federation = Federation(dataset, options.seed, options.model, options.rounds)
        accuracy, spent = run(federation, noise, options.clip, options.rounds)
        print(f"| {noise:g} | {spent:.3g} | {accuracy:.3f} |", flush=True)


if __name__ == "__main__":
    main()
