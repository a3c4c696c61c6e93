"""Captured energy, 1 − ‖v − decode(encode(v))‖² / ‖v‖², of real updates against bytes.

Trains a federation densely for some rounds, without Flower, and then encodes the sites' next
updates with every scheme. This measures what a byte buys before error feedback acts.

    python -m benchmarks.energy data/ --rounds 12 --budgets 50 100 200

NNCodec (ISO/IEC 15938-17; a rival, not a dependency) is measured at quantization parameters of its
own, beside ``rs-dgc`` at the same bytes, if it is installed. It is licensed without patent rights:

    pip install nncodec==2.1.3
    python -m benchmarks.energy data/ --nncodec -38 -36 -34 -32 -30

The channel transform with bases of several sizes, and the seconds that they take:

    python -m benchmarks.energy data/ --model resnet50 --rounds 3 --bases 128 256 512
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import cast
from unittest.mock import patch

import numpy as np

from benchmarks.federated_training import MODEL, Federation, Flat
from data_prep.dataset import Dataset, open_data
from fl_app.methods import METHODS
from fl_app.settings import Settings
from rsdgc import (
    NSI,
    RMS,
    Compressor,
    Indicator,
    ModelSpec,
    Scheme,
    Stamp,
    channel_transform,
    make_indicator,
)
from rsdgc.channel_transform import transformed_part
from rsdgc.neighborhoods import NEIGHBORHOOD_CODES, NeighborhoodKind
from strategies.rate_control import Policy, RateControl

VALUES = ("float32", "int8", "deadzone")
NSI_WEIGHTS = ((1.0, 0.0), (0.9, 0.1), (0.8, 0.2), (0.6, 0.4), (0.5, 0.5), (0.3, 0.7), (0.0, 1.0))


@dataclass(frozen=True)
class Updates:
    """Model, aggregated step and each site's update of the last dense round."""

    spec: ModelSpec
    start: Flat
    weights: Flat
    step: Flat
    sites: list[Flat]


def real_updates(dataset: Dataset, rounds: int, seed: int, model: str = MODEL) -> Updates:
    """Train densely and return the last round's updates."""
    federation = Federation(dataset, seed, model)
    weights = federation.start
    for number in range(1, rounds + 1):
        updates, _ = federation.changes(weights, number)
        step = federation.mean(updates)
        weights = weights + step
        print(f"round {number}/{rounds} trained", flush=True)
    return Updates(federation.spec, federation.start, weights, step, updates)


def captured(
    updates: Updates, scheme: Scheme, indicator: Indicator, policy: str, times: float
) -> tuple[float, float]:
    """Return the mean captured energy of the sites, and the mean real compression."""
    spec = updates.spec
    rates = RateControl(spec, scheme, cast(Policy, policy), spec.dense_bytes / times)
    rates.begin(updates.weights)
    rates.adjust(updates.weights, updates.step, rates.budget_bytes)
    compressor = Compressor(spec, scheme, indicator)
    energies, upload_bytes = [], []
    for update in updates.sites:
        sent = compressor.compress(update, rates.ratios, Stamp(1, 1, 0), rates.budget_bytes)
        error = update - sent.to_dense()
        energies.append(1.0 - float(np.square(error).sum() / np.square(update).sum()))
        upload_bytes.append(len(sent.payload))
    return float(np.mean(energies)), spec.dense_bytes / float(np.mean(upload_bytes))


def methods(updates: Updates, budgets: list[float]) -> Iterator[str]:
    """Yield a table of the app's methods, each in its own coding."""
    yield "| method | " + " | ".join(f"{b:g}×" for b in budgets) + " |"
    yield "|---|" + "---|" * len(budgets)
    for name in METHODS:
        if name == "fedavg":
            continue
        settings = Settings.from_mapping({"method": name})
        indicator = make_indicator(settings.resolved("indicator"))
        cells = []
        for times in budgets:
            policy = METHODS[name].ratio_policy
            energy, real = captured(updates, settings.scheme(), indicator, policy, times)
            own = f" (at {real:.1f}×)" if abs(real / times - 1) > 0.02 else ""
            cells.append(f"{energy:.3f}{own}")
        yield f"| `{name}` | " + " | ".join(cells) + " |"


def schemes(updates: Updates, budgets: list[float]) -> Iterator[str]:
    """Yield a table of neighborhoods × values × ratio policies."""
    yield "| neighborhood | values | ratios | " + " | ".join(f"{b:g}×" for b in budgets) + " |"
    yield "|---|---|---|" + "---|" * len(budgets)
    for neighborhood in NEIGHBORHOOD_CODES:
        for values in VALUES:
            for policy in ("uniform", "weight", "update"):
                scheme = Scheme(neighborhood=neighborhood, values=values)
                cells = [captured(updates, scheme, NSI(), policy, b)[0] for b in budgets]
                row = " | ".join(f"{cell:.3f}" for cell in cells)
                yield f"| {neighborhood} | {values} | {policy} | {row} |"


def indicators(updates: Updates, budget: float) -> Iterator[str]:
    """Yield a table of indicators on kernel slices and on tiles."""
    yield f"| indicator at {budget:g}× | kernel | tile |"
    yield "|---|---|---|"
    rows: list[tuple[str, Indicator]] = [(f"NSI {a} / {b}", NSI(a, b)) for a, b in NSI_WEIGHTS]
    for name, indicator in [*rows, ("RMS", RMS())]:
        kinds: tuple[NeighborhoodKind, ...] = ("kernel", "tile")
        cells = [
            captured(updates, Scheme(neighborhood=kind), indicator, "update", budget)[0]
            for kind in kinds
        ]
        yield f"| {name} | {cells[0]:.4f} | {cells[1]:.4f} |"


def nncodec(updates: Updates, parameters: list[int]) -> Iterator[str]:
    """Yield a table of NNCodec's quantization parameters, one for all tensors, and of rs-dgc."""
    codec = importlib.import_module("nncodec.nn")
    yield "| NNCodec, QP | fewer bytes | its energy | s | rs-dgc | s |"
    yield "|---|---|---|---|---|---|"
    spec = updates.spec
    for qp in parameters:
        rows = []
        for update in updates.sites:
            views = zip(spec.layers, spec.views(update), strict=True)
            tensors = {layer.name: view.reshape(layer.shape) for layer, view in views}
            start = time.process_time()
            with tempfile.TemporaryDirectory() as folder:  # it writes the bitstream there, too
                options = {"qp": qp, "nonweight_qp": qp, "verbose": False, "results": folder}
                payload = codec.encode(tensors, options, incremental=True)
            seconds = time.process_time() - start
            decoded = codec.decode(payload)
            error = sum(float(np.square(tensors[name] - decoded[name]).sum()) for name in tensors)
            rows.append((len(payload), 1.0 - error / float(np.square(update).sum()), seconds))
        num_bytes, energy, seconds = np.mean(rows, axis=0)
        times = spec.dense_bytes / num_bytes
        start = time.process_time()
        ours, _ = captured(updates, Scheme(), NSI(), "update", times)
        own_seconds = (time.process_time() - start) / len(updates.sites)
        yield (
            f"| {qp} | {times:.0f}× | {energy:.3f} | {seconds:.2f} | {ours:.3f} "
            f"| {own_seconds:.2f} |"
        )


def bases(updates: Updates, budgets: list[float], sizes: list[int]) -> Iterator[str]:
    """Yield a table of the channel transform, by the largest basis; 0 is no transform."""
    spec = updates.spec
    before = updates.weights - updates.step
    reference = transformed_part(spec, updates.start)
    yield "| largest basis | s | " + " | ".join(f"{b:g}×" for b in budgets) + " |"
    yield "|---|---|" + "---|" * len(budgets)
    for size in [0, *sizes]:
        turned, seconds = updates, 0.0
        if size:
            start = time.process_time()
            with patch.multiple(channel_transform, MAX_CHANNELS=size, WIDE_MODEL_CHANNELS=size):
                transform = channel_transform.ChannelTransform(spec, before, reference)
            seconds = time.process_time() - start
            turned = replace(
                updates,
                step=updates.step.copy(),
                sites=[update.copy() for update in updates.sites],
            )
            for vector in (turned.step, *turned.sites):
                transform.forward(vector)
        energies = (captured(turned, Scheme(), NSI(), "update", b)[0] for b in budgets)
        cells = " | ".join(f"{energy:.4f}" for energy in energies)
        yield f"| {size or 'none'} | {seconds:.1f} | {cells} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="partition folder")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--budgets", type=float, nargs="+", default=[50.0, 100.0, 200.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--nncodec", type=int, nargs="+", metavar="QP", help="its table instead of the others"
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument(
        "--bases", type=int, nargs="+", metavar="CHANNELS", help="their table instead of the others"
    )
    options = parser.parse_args()
    if options.nncodec and find_spec("nncodec") is None:
        parser.error("--nncodec needs NNCodec: pip install nncodec==2.1.3")
    updates = real_updates(open_data(options.data), options.rounds, options.seed, options.model)
    if options.nncodec:
        tables = [nncodec(updates, options.nncodec)]
    elif options.bases:
        tables = [bases(updates, options.budgets, options.bases)]
    else:
        tables = [
            methods(updates, options.budgets),
            schemes(updates, options.budgets),
            indicators(updates, 100.0),
        ]
    for table in tables:
        print()
        for line in table:
            print(line, flush=True)


if __name__ == "__main__":
    main()
