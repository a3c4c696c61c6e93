"""What a site does on a GPU: steps, scores, codec, transfers and memory, against their rivals.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --device cpu --models small-resnet --px 16 --chips 64 --steps 2

Training and scoring are set beside a plain PyTorch loop on batches that are ready on the device,
peak memory beside a site's estimate, NSI and encoding beside one read pass of the update, and
transfers beside one large copy from pinned memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from numpy.typing import NDArray
from torch import nn

from benchmarks.codec import median_s, synthetic_update
from clients.acceleration import half_type
from clients.device_memory import estimate_training
from clients.evaluation import score_model
from clients.loader import SplitLoader
from clients.memory_format import format_chips, place_model
from clients.model_parts import ModelParts
from clients.normalization import Normalization, to_native
from clients.optimizers import OPTIMIZERS
from clients.training import TrainSettings, train
from clients.transfers import BatchCopier
from fl_app.models import build_model
from fl_app.settings import Settings
from fl_app.task_records import train_settings
from rsdgc import (
    NSI,
    Compressor,
    ErrorFeedback,
    ModelSpec,
    Scheme,
    Stamp,
    fit_ratios,
    uniform_shares,
)

NUM_BANDS, NUM_CLASSES = 4, 45
CPU = torch.device("cpu")
COPY_BYTES = 256 << 20
BUDGETS = (100.0, 1000.0)


@dataclass(frozen=True)
class Row:
    """A figure and its rival's, in the same unit; None where it cannot be measured."""

    what: str
    value: float | None
    rival: float | None
    unit: str

    def __str__(self) -> str:
        cells = (f"{x:,.4g}" if x is not None else "–" for x in (self.value, self.rival))
        ratio = f"{self.value / self.rival:.2f}" if self.value and self.rival else "–"
        return f"| {self.what} | {' | '.join(cells)} | {ratio} | {self.unit} |"


@dataclass(frozen=True)
class Chips:
    """Random chips in memory, as a store would return them."""

    pixels: NDArray[np.uint16]

    def take(self, positions: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return the chips at positions."""
        return [self.pixels[positions]]

    def take_validity(self, positions: NDArray[np.int64]) -> list[NDArray[np.uint8] | None]:
        """Return that all pixels are data."""
        return [None]


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Return the median time of a call, with all that it has started on the device."""

    def timed() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return median_s(timed, repeats)


def make_split(count: int, px: int, device: torch.device, *, cached: bool) -> SplitLoader:
    """Return a loader of random chips, on the device or streamed to it."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4096, (count, NUM_BANDS, px, px), dtype=np.uint16)
    normalization = Normalization(
        np.full(NUM_BANDS, 2048, np.float32), np.full(NUM_BANDS, 1182, np.float32)
    )
    return SplitLoader(
        Chips(pixels),
        np.arange(count),
        np.arange(count) % NUM_CLASSES,
        [normalization],
        device,
        cache_bytes=pixels.nbytes if cached else 0,
    )


def plain_loop(
    model: nn.Module, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], settings: TrainSettings
) -> None:
    """Train as a PyTorch tutorial does, on batches that are ready on the device."""
    device = batches[0][1].device
    half = half_type(device) if settings.amp else None
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), settings.lr, momentum=settings.momentum, fused=True
    )
    for step in range(settings.steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None):
            loss = F.cross_entropy(model(x).float(), y)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()


def training_rows(
    name: str, px: int, count: int, settings: TrainSettings, device: torch.device
) -> list[Row]:
    """Measure training, scoring and memory of a network on chips of one size."""
    half = half_type(device) if settings.amp else None
    precision = "float32" if half is None else str(half).removeprefix("torch.")
    label = f"{name} {px} px {precision}"
    model = build_model(name, NUM_BANDS, NUM_CLASSES, px)
    memory = estimate_training(
        model,
        [(NUM_BANDS, px, px)],
        settings.batch_size,
        states=OPTIMIZERS[settings.optimizer].states,
        half=half is not None,
    )
    place_model(model, device)
    cached, streamed = (make_split(count, px, device, cached=cached) for cached in (True, False))
    augmented = replace(settings, augment=True)
    plain, forward = rival_speeds(model, cached, settings)

    def speed(settings: TrainSettings, split: SplitLoader) -> float:
        chips = settings.steps * settings.batch_size
        return chips / seconds(lambda: train(model, split, settings, 0), device)

    scoring = count / seconds(lambda: score_model(model, cached, NUM_CLASSES), device)
    rows = [
        Row(f"{label}: {what}", value, rival, "chips/s")
        for what, value, rival in (
            ("training, cached", speed(settings, cached), plain),
            ("training, streamed", speed(settings, streamed), plain),
            ("training, augmented", speed(augmented, cached), plain),
            ("scoring", scoring, forward),
        )
    ]
    peak = _peak_mb(lambda: train(model, cached, settings, 0), device, cached.cached_bytes)
    expected = memory.weights + memory.step(settings.batch_size)
    rows.append(Row(f"{label}: peak memory of training", peak, expected / 1e6, "MB"))
    return rows


def rival_speeds(
    model: nn.Module, split: SplitLoader, settings: TrainSettings
) -> tuple[float, float]:
    """Return chips per second of a plain loop's training, and of forward passes."""
    batches = []
    for chips, y in split.batches(settings.batch_size, None):
        (x,) = format_chips(chips, model)
        assert x is not None
        batches.append((x, y))

    def forward() -> None:
        model.eval()
        with torch.inference_mode():
            for x, _ in batches:
                model(x)

    took = seconds(lambda: plain_loop(model, batches, settings), split.device)
    chips_seen = settings.steps * settings.batch_size
    return chips_seen / took, len(split) / seconds(forward, split.device)


def _peak_mb(work: Callable[[], object], device: torch.device, cached: int) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - cached) / 1e6


def codec_rows(name: str, px: int, device: torch.device) -> list[Row]:
    """Measure what follows training: the model to the host and back, NSI and encoding."""
    model = build_model(name, NUM_BANDS, NUM_CLASSES, px).to(device)
    parts = ModelParts(model)
    vector = parts.vector()
    crossing = parts.spec.dense_bytes / 1e9 / pinned_gb_per_s(device)
    down = seconds(lambda: parts.vector(vector), device)
    up = seconds(lambda: parts.load_vector(vector), device)
    rows = [
        Row(f"{name}: model to the host", down, crossing, "s"),
        Row(f"{name}: model to the device", up, crossing, "s"),
    ]
    update = synthetic_update(parts.spec)
    read_pass = seconds(update.sum, CPU)
    for times in BUDGETS:
        took = encoding_s(parts.spec, update, times)
        rows.append(Row(f"{name}: NSI and encoding at {times:g}×", took, read_pass, "s"))
    return rows


def encoding_s(spec: ModelSpec, update: NDArray[np.float32], times: float) -> float:
    """Return how long an upload `times` smaller than the update takes at a site."""
    budget = spec.dense_bytes / times
    ratios = fit_ratios(spec, Scheme(), uniform_shares(spec), budget)
    compressor = Compressor(spec, Scheme(), NSI())
    change, residual = update.copy(), 0.5 * update

    def encode() -> None:
        np.copyto(change, update)
        ErrorFeedback(compressor, residual).compress(change, ratios, Stamp(1, 1, 0), budget)

    return seconds(encode, CPU)


def pinned_gb_per_s(device: torch.device) -> float:
    """Return the rate of one large copy to the device, from pinned memory if it is a GPU."""
    pinned = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty_like(pinned, device=device)
    return COPY_BYTES / 1e9 / seconds(lambda: target.copy_(pinned, non_blocking=True), device)


def transfer_rows(px: int, batch_size: int, device: torch.device) -> list[Row]:
    """Measure the copies of batches to a GPU."""
    if device.type != "cuda":
        return []
    rng = np.random.default_rng(0)
    batch = to_native(rng.integers(0, 4096, (batch_size, NUM_BANDS, px, px), dtype=np.uint16))
    copier = BatchCopier(device)

    def copy() -> None:
        for _ in range(16):
            copier.receive(*copier.send([batch]))

    rate = 16 * batch.nbytes / 1e9 / seconds(copy, device)
    return [Row(f"batches of {px} px to the device", rate, pinned_gb_per_s(device), "GB/s")]


def main() -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", nargs="+", default=["vgg19", "resnet50"])
    parser.add_argument("--px", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--chips", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    settings = replace(
        train_settings(Settings(), learning_rate=1e-4),
        batch_size=options.batch_size,
        steps=options.steps,
        augment=False,
        weight_decay=0.0,
    )
    print(f"{machine}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    print("| figure | here | rival | here / rival | unit |\n|---|---|---|---|---|")
    rows: list[Row] = []
    for px in options.px:
        rows += _printed(transfer_rows(px, options.batch_size, device))
        for name in options.models:
            for amp in (True, False) if device.type == "cuda" else (False,):
                chosen = replace(settings, amp=amp)
                rows += _printed(training_rows(name, px, options.chips, chosen, device))
    for name in options.models:
        rows += _printed(codec_rows(name, options.px[0], device))
    if options.json:
        content = {"machine": machine, "figures": [vars(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _printed(rows: list[Row]) -> list[Row]:
    for row in rows:
        print(row, flush=True)
    return rows


if __name__ == "__main__":
    main()
