"""Bytes of a site's reply when a backbone is frozen and its head, or adapters, are trained.

A network is prepared as a run prepares it, trained for some steps on one site's chips, and its
change is encoded. The bytes are those of the whole message: update, running statistics and report.
The network starts from its random initialization unless weights are given; the bytes follow the
budget either way, and the energy is what the update keeps of the change.

    python -m benchmarks.frozen data/ --models resnet50 timm:vit_small_patch16_224
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from flwr.app import MetricRecord, RecordDict

from clients.memory_format import place_model
from clients.model_parts import ModelParts
from clients.training import train
from data_prep.dataset import open_data
from fl_app.data_loaders import load_split
from fl_app.prepared_model import prepare_model
from fl_app.settings import Settings
from fl_app.site_data import modality_infos
from fl_app.task_records import train_settings
from rsdgc import NSI, Compressor, Stamp, fit_ratios, uniform_shares, update_shares
from rsdgc.statistics_codec import encode_statistics
from strategies import messages
from strategies.ledger import content_bytes
from strategies.transport import chunk_upload

PARTS: dict[str, dict[str, str | int]] = {
    "whole model": {},
    "head": {"train-only": "head"},
    "adapters of rank 4, head": {"adapters": "lora"},
    "adapters of rank 1, head": {"adapters": "lora", "adapter-rank": 1},
}
STAMP = Stamp(1, 1, 0)


def measure(data: Path, name: str, part: str, budget: int, steps: int, weights: str) -> None:
    """Print the sizes and the bytes of one network and one trained part."""
    dataset = open_data(data)
    store, site = dataset.store, dataset.sites[0]
    settings = Settings.from_mapping({"model": name, "init-weights": weights, **PARTS[part]})
    model, _ = prepare_model(
        settings, modality_infos(store), len(store.classes), settings.initial_weights()
    )
    parts = ModelParts(place_model(model, torch.device("cpu")))
    spec, before = parts.spec, parts.vector()
    statistics = parts.arrays(parts.running)
    split = load_split(dataset, site, "train", torch.device("cpu"))
    assert split is not None
    chosen = train_settings(settings, settings.learning_rate_at(1))
    report = train(model, split, replace(chosen, steps=steps), seed=0)

    change = parts.vector() - before
    content = RecordDict({messages.METRICS: _report(report.loss, len(store.classes))})
    encoded = encode_statistics(parts.arrays(parts.running), statistics)
    if encoded:
        content[messages.RUNNING] = chunk_upload(encoded)
    content[messages.UPDATE] = chunk_upload(b"")
    room = min(budget - content_bytes(content), spec.dense_bytes)
    scheme = settings.scheme()
    even = fit_ratios(spec, scheme, uniform_shares(spec), room)
    sizes = np.array([layer.size for layer in spec.layers])
    top = float((even * sizes).sum() / sizes.sum())  # as large as the density that fits
    ratios = fit_ratios(spec, scheme, update_shares(spec, scheme, change, top), room)
    update = Compressor(spec, scheme, NSI()).compress(change, ratios, STAMP, room)
    content[messages.UPDATE] = chunk_upload(update.payload)

    missed = change.copy()
    update.add_to(missed, -1.0)
    energy = 1 - float(missed @ missed) / float(change @ change)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"| {name} | {part} | {total:,} | {spec.size:,} | {spec.dense_bytes:,} | "
        f"{len(encoded):,} | {content_bytes(content):,} | {energy:.2f} |",
        flush=True,
    )


def _report(loss: float, num_classes: int) -> MetricRecord:
    """Return a report as a site sends it."""
    names = (messages.TRAIN_LOSS, messages.SCORE_LOSS, messages.SECONDS)
    record = MetricRecord({messages.NUM_EXAMPLES: 0, messages.VERSION: 0})
    record.update(dict.fromkeys(names, loss))
    record.update(dict.fromkeys(messages.CLASS_COUNTS, [0] * num_classes))
    return record


def main() -> None:
    """Print a table of all networks and parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="a store or partition; its first site trains")
    parser.add_argument("--models", nargs="+", default=["resnet50", "timm:vit_small_patch16_224"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS)[1:])
    parser.add_argument("--budget", type=int, default=10_000, help="bytes of the whole reply")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--weights", default="", help="a safetensors file to start from")
    options = parser.parse_args()
    print(
        "| model | trained | parameters | of them trained | float32, B | statistics, B | "
        "reply, B | energy |\n|---|---|---|---|---|---|---|---|"
    )
    for name in options.models:
        for part in options.parts:
            measure(options.data, name, part, options.budget, options.steps, options.weights)


if __name__ == "__main__":
    main()
