"""A run folder and a store that look like real ones, made of random numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

CLASSES = [
    "water",
    "wetland",
    "grassland",
    "cropland",
    "orchard",
    "broadleaf forest",
    "conifer forest",
    "built-up",
    "bare ground",
    "quarry",
]

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


class FakeStore:
    """What the report uses of a store, from arrays in memory."""

    def __init__(
        self,
        manifest: dict[str, list[Any]],
        arrays: list[np.ndarray],
        bands: list[list[str]],
        classes: list[str],
        *,
        kind: str = "chips",
        stride_px: int = 1,
        nodata: float | None = None,
    ) -> None:
        self.path = Path("store")
        self.manifest = pa.table(manifest)
        self.arrays = arrays
        self.classes = classes
        self.num_bands = sum(array.shape[1] for array in arrays)
        self.chip_px = arrays[0].shape[-1]
        modalities = [
            SimpleNamespace(
                name=f"modality-{number}",
                bands=names,
                dtype=array.dtype.name,
                nodata=nodata,
                scale=[],
                offset=[],
                mean=array.mean(axis=(0, 2, 3)).tolist(),
                std=array.std(axis=(0, 2, 3)).tolist(),
            )
            for number, (names, array) in enumerate(zip(bands, arrays, strict=True))
        ]
        self.meta = SimpleNamespace(modalities=modalities, kind=kind, stride_px=stride_px)

    def take(self, chips: np.ndarray) -> list[np.ndarray]:
        return [array[chips] for array in self.arrays]


def scene_store(
    rows: int = 14, cols: int = 16, chip_px: int = 64, stride_px: int | None = None, seed: int = 0
) -> FakeStore:
    """One scene of smooth land cover in blue, green, red, nir, with a test block and a gap."""
    rng = np.random.default_rng(seed)
    stride = stride_px or chip_px
    height, width = (rows - 1) * stride + chip_px, (cols - 1) * stride + chip_px
    y, x = np.mgrid[:height, :width] / stride
    field = np.sin(x / 2.3 + seed) + np.cos(y / 2.9) + np.sin((x + y) / 3.7)
    cover = np.clip(((field + 3) / 6 * len(CLASSES)).astype(int), 0, len(CLASSES) - 1)
    tones = rng.uniform(400, 3500, (len(CLASSES), 4))
    image = (tones[cover] + rng.normal(0, 160, (height, width, 4))).clip(1, 9000)
    image[: stride // 2, :, :] = 0
    manifest: dict[str, list[Any]] = {key: [] for key in ("chip", "label", "split", "scene")}
    manifest |= {"row": [], "col": []}
    chips = []
    for row in range(rows):
        for col in range(cols):
            if (row - 3) ** 2 + (col - 13) ** 2 < 3:
                continue
            top, left = row * stride, col * stride
            window = (slice(top, top + chip_px), slice(left, left + chip_px))
            inner = cover[window]
            manifest["chip"].append(len(chips))
            manifest["label"].append(int(np.bincount(inner.ravel()).argmax()))
            test = (5 <= row < 11 and 8 <= col < 13) or (row >= 10 and col < 4)
            near = (4 <= row < 12 and 7 <= col < 14) or (row >= 9 and col < 5)
            manifest["split"].append("test" if test else "buffer" if near else "train")
            manifest["scene"].append("north/scene-1")
            manifest["row"].append(top)
            manifest["col"].append(left)
            chips.append(image[window].transpose(2, 0, 1))
    names = [["blue", "green", "red", "nir"]]
    arrays = [np.array(chips, dtype=np.uint16)]
    return FakeStore(manifest, arrays, names, CLASSES, stride_px=stride, nodata=0.0)


def folder_store(per_class: int = 12, chip_px: int = 64) -> FakeStore:
    """Images without scenes: 8-bit RGB, each class a tone with stripes."""
    rng = np.random.default_rng(1)
    manifest: dict[str, list[Any]] = {key: [] for key in ("chip", "label", "split", "scene")}
    manifest |= {"row": [], "col": []}
    chips = []
    for label in range(len(CLASSES)):
        tone = rng.uniform(40, 200, 3)
        for at in range(per_class):
            stripes = 30 * np.sin(np.arange(chip_px) * (label + 1) / 6 + at)
            chip = tone[:, None, None] + stripes[None, None] + rng.normal(0, 9, (3, chip_px, 1))
            chips.append(chip.clip(0, 255))
            manifest["chip"].append(len(chips) - 1)
            manifest["label"].append(label)
            manifest["split"].append("test" if at % 3 == 0 else "train")
            manifest["scene"].append("")
            manifest["row"].append(0)
            manifest["col"].append(0)
    return FakeStore(
        manifest, [np.array(chips, dtype=np.uint8)], [["red", "green", "blue"]], CLASSES
    )
