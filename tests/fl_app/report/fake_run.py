"""A run folder that looks like a real one, made of random numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.data_prep.pictures.fake_store import CLASSES

LAYERS = {
    "stem.0.weight": [32, 5, 3, 3],
    "stem.1.weight": [32],
    "stage1.conv1.weight": [32, 32, 3, 3],
    "stage1.conv2.weight": [32, 32, 3, 3],
    "stage2.conv1.weight": [64, 32, 3, 3],
    "stage2.conv2.weight": [64, 64, 3, 3],
    "stage3.conv1.weight": [128, 64, 3, 3],
    "stage3.conv2.weight": [128, 128, 3, 3],
    "stage4.conv1.weight": [256, 128, 3, 3],
    "stage4.conv2.weight": [256, 256, 3, 3],
    "head.weight": [10, 256],
    "head.bias": [10],
}

WHOLE = {"stem.1.weight", "head.bias"}


def dense_bytes() -> int:
    return 4 * sum(int(np.prod(shape)) for shape in LAYERS.values())


def make_run(folder: Path, **changes: Any) -> Path:
    """Write a run folder; see ``defaults`` for what can be changed."""
    defaults: dict[str, Any] = {
        "method": "rs-dgc",
        "rounds": 20,
        "sites": [f"site-{at:02d}" for at in range(4)],
        "classes": CLASSES,
        "synthetic": True,
        "ratios": True,
        "absent": {(3, "site-02"): "no reply", (7, "site-01"): "not a valid upload"},
        "data_path": "data-elsewhere",
        "dataset": "synthetic archive, 4 sites",
        "seed": 0,
    }
    made = SimpleNamespace(**{**defaults, **changes})
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(made.seed)
    visits, history = _ledger(made, rng)
    _write(folder / "config.json", _config(made))
    _lines(folder / "rounds.jsonl", visits)
    _lines(folder / "history.jsonl", history)
    _write(folder / "summary.json", _summary(made, history, visits, rng))
    return folder


def _config(made: SimpleNamespace) -> dict[str, Any]:
    return {
        "method": made.method,
        "budget": "100x",
        "model": "small-resnet",
        "rounds": made.rounds,
        "seed": 0,
        "learning-rate": 0.03,
        "min-sites": 3,  # as a simulation sets it
        "augment": True,
        "run_id": 7,
        "data": {
            "path": made.data_path,
            "name": made.dataset,
            "synthetic": made.synthetic,
            "classes": made.classes,
            "sites": made.sites,
            "num_bands": 5,
            "chip_px": 64,
        },
        "layers": [{"name": name, "shape": shape} for name, shape in LAYERS.items()],
        "versions": {"python": "3.11.7", "flwr": "1.41.0", "torch": "2.14.1"},
    }


def _ledger(made: SimpleNamespace, rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
    visits: list[dict[str, Any]] = []
    history = [_round(0, 0.11)]
    groups = ["header", "stem", "stage1", "stage2", "stage3", "stage4", "head"]
    dense = dense_bytes()
    for number in range(1, made.rounds + 1):
        for site in made.sites:
            reason = made.absent.get((number, site), "")
            scale = dense if made.method == "fedavg" else dense / 100
            sizes = (scale * rng.dirichlet([1, 3, 6, 8, 12, 20, 2])).astype(int)
            if reason == "no reply":
                sizes[:] = 0
            visits.append(
                {
                    "round": number,
                    "site": site,
                    "accepted": not reason,
                    "reason": reason,
                    "num_examples": 0 if reason else 300 + len(site),
                    "train_loss": None if reason else 2.0 / number,
                    "bytes_up": int(sizes.sum()),
                    "bytes_down": dense + 900,
                    "up_by_group": dict(zip(groups, sizes.tolist(), strict=True)),
                    "seconds": 3.2,
                }
            )
        mine = visits[-len(made.sites) :]
        accuracy = 0.9 - 0.8 * float(np.exp(-number / 5)) + 0.01 * float(rng.normal())
        line = _round(number, accuracy)
        line["bytes_up"] = sum(visit["bytes_up"] for visit in mine)
        line["bytes_down"] = sum(visit["bytes_down"] for visit in mine)
        line["dense_bytes_up"] = dense * sum(visit["bytes_up"] > 0 for visit in mine)
        line["dense_bytes_down"] = dense * len(mine)
        line["sites"] = sum(visit["accepted"] for visit in mine)
        line["refused"] = len(mine) - line["sites"]
        if made.ratios:
            line["ratios"] = {
                name: 1.0 if name in WHOLE else float(np.clip(0.02 * rng.lognormal(), 1e-4, 1))
                for name in LAYERS
            }
        history.append(line)
    return visits, history


def _round(number: int, accuracy: float) -> dict[str, Any]:
    return {
        "round": number,
        "accuracy": accuracy,
        "balanced_accuracy": accuracy - 0.04,
        "kappa": accuracy - 0.1,
        "loss": 2.3 * (1 - accuracy),
        "bytes_up": 0,
        "bytes_down": 0,
        "dense_bytes_up": 0,
        "dense_bytes_down": 0,
        "ratios": {},
        "sites": 0,
        "refused": 0,
        "seconds": 9.5 if number else 0.0,
    }


def _summary(
    made: SimpleNamespace, history: list[Any], visits: list[Any], rng: np.random.Generator
) -> dict[str, Any]:
    sums = {
        name: sum(line[name] for line in history)
        for name in ("bytes_up", "bytes_down", "dense_bytes_up", "dense_bytes_down")
    }
    count = len(made.classes)
    confusion = rng.integers(0, 6, (count, count)) * (rng.random((count, count)) < 0.35)
    confusion += np.diag(rng.integers(20, 80, count))
    dense = sums["dense_bytes_up"] + sums["dense_bytes_down"]
    refused = Counter(visit["reason"] for visit in visits if not visit["accepted"])
    return {
        "method": made.method,
        "dataset": made.dataset,
        "synthetic": made.synthetic,
        "model": "small-resnet",
        "num_sites": len(made.sites),
        "rounds": made.rounds,
        "seed": 0,
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": 0.842,
        "kappa": 0.8531,
        **sums,
        "compression_up": sums["dense_bytes_up"] / max(1, sums["bytes_up"]),
        "compression_down": sums["dense_bytes_down"] / max(1, sums["bytes_down"]),
        "compression_total": dense / max(1, sums["bytes_up"] + sums["bytes_down"]),
        "seconds": 212.4,
        "classes": made.classes,
        "confusion": confusion.tolist(),
        "refused": refused,
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _lines(path: Path, values: list[Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
