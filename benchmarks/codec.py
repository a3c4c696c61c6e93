"""Time and memory of the codec on the shapes of real networks.

The unit of time is M: the time that one thread takes to read the complete update once (a float32
sum). Times are processor time, the least of several calls, so that other programs on the machine
count little; rows of several threads and of a GPU are medians of wall-clock time. Memory is the
additional peak allocation, divided by the size of the update.

    OMP_NUM_THREADS=1 python -m benchmarks.codec --models vgg19 resnet50 resnet18 --budgets 100 1000
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from clients.model_parts import ModelParts
from fl_app.models import build_model
from rsdgc import (
    NSI,
    Compressor,
    ErrorFeedback,
    ModelSpec,
    Scheme,
    Stamp,
    decode,
    fit_ratios,
    uniform_shares,
    update_shares,
)
from rsdgc.arrays import Float64
from rsdgc.channel_transform import ChannelTransform, transformed_size
from rsdgc.feedback import compress_with_feedback

Flat = NDArray[np.float32]
NUM_CLASSES, CHIP_PX = 45, 256
STAMP = Stamp(1, 1, 0)


def spec_of(name: str) -> ModelSpec:
    """Return the layers of a network without allocating its weights."""
    with torch.device("meta"):
        return ModelParts(build_model(name, 3, NUM_CLASSES, CHIP_PX)).spec


def synthetic_update(spec: ModelSpec, seed: int = 0) -> Flat:
    """Return an update whose scale varies by layer, row and column, as that of real ones does."""
    rng = np.random.default_rng(seed)
    flat = np.empty(spec.size, dtype=np.float32)
    for layer, view in zip(spec.layers, spec.views(flat), strict=True):
        rows = layer.shape[0] if len(layer.shape) > 1 else 1
        matrix = view.reshape(rows, -1)
        matrix[:] = rng.standard_normal(matrix.shape, dtype=np.float32)
        matrix *= rng.lognormal(0.0, 0.7, (rows, 1)).astype(np.float32)
        matrix *= rng.lognormal(0.0, 0.7, (1, matrix.shape[1])).astype(np.float32)
        matrix *= np.float32(1e-3 / np.sqrt(matrix.shape[1]))
    return flat


def median_s(
    work: Callable[[], object], repeats: int, prepare: Callable[[], object] = lambda: None
) -> float:
    """Return the median time of a call in seconds, after a first one that does not count."""
    prepare()
    work()
    return statistics.median(_times(work, repeats, prepare, time.perf_counter))


def processor_s(
    work: Callable[[], object], repeats: int, prepare: Callable[[], object] = lambda: None
) -> float:
    """Return the least processor time of several calls in seconds."""
    return min(_times(work, repeats, prepare, time.process_time))


def _times(
    work: Callable[[], object],
    repeats: int,
    prepare: Callable[[], object],
    clock: Callable[[], float],
) -> list[float]:
    """Return the time of each call by a clock, without that of what prepares it."""
    times = []
    for _ in range(repeats):
        prepare()
        begin = clock()
        work()
        times.append(clock() - begin)
    return times


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the peak number of bytes that a call allocated."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def measure(name: str, budgets: Sequence[float], repeats: int, threads: int) -> None:
    """Print the results of one network."""
    spec = spec_of(name)
    update, step = synthetic_update(spec), synthetic_update(spec, seed=1)
    unit = processor_s(lambda: float(update.sum()), repeats + 4)
    print(f"\n{name}: {spec.size / 1e6:.1f} M parameters, M = {1e3 * unit:.1f} ms")
    one_percent = spec.size // 100
    magnitudes = np.abs(update)
    rivals = {
        "torch.topk, 1 % of |v|": lambda: torch.topk(torch.from_numpy(magnitudes), one_percent),
        "np.partition, 1 % of |v|": lambda: np.partition(magnitudes, spec.size - one_percent),
    }
    for what, work in rivals.items():
        print(f"  {what:<34} {processor_s(work, max(1, repeats // 2)) / unit:7.1f} M")
    if torch.cuda.is_available():
        _cuda(update, repeats, unit)
    for times in budgets:
        _codec(spec, update, step, times, repeats, threads, unit)


def _cuda(update: Flat, repeats: int, unit: float) -> None:
    """Print what an update on a GPU costs: the copy to the codec, and torch.topk on the GPU."""
    on_gpu = torch.from_numpy(update).cuda()
    pinned = torch.empty(update.size, dtype=torch.float32, pin_memory=True)

    def copy() -> None:
        pinned.copy_(on_gpu, non_blocking=True)
        torch.cuda.synchronize()

    def topk() -> None:
        torch.topk(on_gpu.abs(), update.size // 100)
        torch.cuda.synchronize()

    for what, work in (("GPU to pinned memory", copy), ("torch.topk on the GPU", topk)):
        print(f"  {what:<34} {median_s(work, repeats) / unit:7.1f} M")


def _codec(
    spec: ModelSpec, update: Flat, step: Flat, times: float, repeats: int, threads: int, unit: float
) -> None:
    """Print what an upload `times` smaller than the update costs at a site and at the server."""
    scheme, budget = Scheme(), spec.dense_bytes / times
    even = fit_ratios(spec, scheme, uniform_shares(spec), budget)
    sizes = np.array([layer.size for layer in spec.layers])
    # As the strategy does: the top is as large as the density that the budget allows.
    top = float((even * sizes).sum() / sizes.sum())
    ratios = fit_ratios(spec, scheme, update_shares(spec, scheme, step, top), budget)
    compressor = Compressor(spec, scheme, NSI())
    change, residual = update.copy(), 0.5 * step
    payload = ErrorFeedback(compressor, residual).compress(change, ratios, STAMP, budget)

    def fresh() -> None:
        np.copyto(change, update)

    def client() -> None:
        ErrorFeedback(compressor, residual).compress(change, ratios, STAMP, budget)

    target = np.ones(spec.size, dtype=np.float32)

    def server() -> None:
        decode(payload, spec).add_to(target, 0.5)

    print(f"  {times:g}×: {len(payload)} bytes, {len(payload) / budget:.4f} of the budget")
    for what, work in (("client step", client), ("server: decode and add", server)):
        took = processor_s(work, repeats, fresh) / unit
        fresh()
        memory = peak_bytes(work) / spec.dense_bytes
        print(f"  {what:<34} {took:7.1f} M   peak memory {memory:.2f} of the update")
    _transformed(compressor, change, fresh, ratios, budget, unit)
    with ThreadPoolExecutor(threads) as pool:
        took = median_s(lambda: list(pool.map(lambda _: decode(payload, spec), range(8))), repeats)
    print(f"  {f'decode of 8 uploads, {threads} threads':<34} {took / unit / 8:7.1f} M each")


def _transformed(
    compressor: Compressor,
    change: Flat,
    fresh: Callable[[], None],
    ratios: Float64,
    budget: float,
    unit: float,
) -> None:
    """Print what the channel transform adds at a site; ``fresh`` renews the change."""
    spec = compressor.spec
    published, reference = synthetic_update(spec, seed=2), np.zeros(transformed_size(spec), "f4")
    in_basis = replace(compressor, scheme=replace(compressor.scheme, transform="channels"))
    transforms = []

    def basis() -> None:
        transforms.append(ChannelTransform(spec, published, reference))

    def client() -> None:
        compress_with_feedback(in_basis, change, ratios, STAMP, budget, transforms[0])

    for what, work in (("basis of the transform", basis), ("residual and code in it", client)):
        print(f"  {what:<34} {processor_s(work, 2, fresh) / unit:7.1f} M")


def main() -> None:
    """Print the results of every requested network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", default=["vgg19", "resnet50", "resnet18"])
    parser.add_argument("--budgets", type=float, nargs="+", default=[100.0, 1000.0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        measure(name, options.budgets, options.repeats, options.threads)


if __name__ == "__main__":
    main()
