"""Time of a DDP training step over thin links: the NSI hook, PowerSGD's hook, plain all-reduce.

Every worker is a process in a network namespace of its own, with a shaped link to a router
(:mod:`benchmarks.netns`, needs root). The steps train on noise, so that the figures measure the
gradients' way and not a data loader.

    python -m benchmarks.ddp_hook --models small-resnet resnet18 --rates none 100 10 --workers 4
    python -m benchmarks.ddp_hook --equal-after 500 --workers 4

The second command trains that many steps without a limit and compares the workers' weights, bit for
bit. The row ``none`` is a step without any exchange.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power_sgd
from torch.nn.parallel import DistributedDataParallel

from benchmarks.netns import Network, inside, network
from fl_app.models import build_model
from rsdgc.codec.wire import decode
from rsdgc.errors import RunError
from rsdgc.torch import Compression, NsiState, nsi_hook

CHIP_PX = 32
CLASSES = 21
PORT = 29400
DEVICE = "uplink"
VARIANTS = ("none", "all-reduce", "powersgd-1", "powersgd-4", "nsi-50x", "nsi-100x")


@dataclass(frozen=True)
class Measured:
    """Of one variant: median seconds of a step, and bytes that rank 0 sent in it."""

    step_s: float
    bytes_sent: float


def main() -> None:
    """Parse the arguments, run the workers, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--models", nargs="+", default=["small-resnet"])
    parser.add_argument("--rates", nargs="+", default=["none", "100", "10"], help="Mbit/s, or none")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a variant")
    parser.add_argument("--batch", type=int, default=4, help="images of a worker's step")
    parser.add_argument("--equal-after", type=int, default=0, metavar="STEPS")
    parser.add_argument("--rank", type=int, default=-1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank >= 0:
        print(json.dumps(work(args)))
        return
    for model in args.models:
        for rate in args.rates[:1] if args.equal_after else args.rates:
            answers = run(args, model, None if rate == "none" else float(rate))
            if args.equal_after:
                print_equality(model, args, answers)
            else:
                print_table(model, rate, args, answers[0])


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def run(args: argparse.Namespace, model: str, rate: float | None) -> list[dict[str, list[float]]]:
    """Run one process for each worker; return their answers by rank."""
    with network([rate] * args.workers) as net, ExitStack() as started:
        _route_between(net)
        address = net.links[0].server.rpartition(".")[0] + ".2"
        processes = []
        for rank, link in enumerate(net.links):
            command = [sys.executable, "-m", "benchmarks.ddp_hook", "--rank", str(rank)]
            command += ["--models", model, "--workers", str(args.workers)]
            command += ["--steps", str(args.steps), "--batch", str(args.batch)]
            command += ["--equal-after", str(args.equal_after), "--variants", *args.variants]
            environment = {
                **os.environ,
                "MASTER_ADDR": address,
                "MASTER_PORT": str(PORT),
                "GLOO_SOCKET_IFNAME": DEVICE,
                "OMP_NUM_THREADS": "1",
            }
            with inside(link.namespace):
                process = subprocess.Popen(
                    command, env=environment, stdout=subprocess.PIPE, text=True
                )
            started.callback(end_process, process)
            processes.append(process)
        answers = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RunError("a worker failed: its message is above")
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def end_process(process: subprocess.Popen[str]) -> None:
    """End a worker that still runs: this program was interrupted, or another worker failed."""
    if process.poll() is None:
        process.kill()
    process.wait()


def _route_between(net: Network) -> None:
    """Let the router's namespace forward packets from one worker to the other."""
    with inside(net.server):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for link in net.links:
        command = ["ip", "-n", link.namespace, "route", "add", "default", "via", link.server]
        subprocess.run(command, check=True)


def work(args: argparse.Namespace) -> dict[str, list[float] | str]:
    """Do a worker's part and return what it measured."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=args.rank, world_size=args.workers)
    try:
        if args.equal_after:
            return {"hash": train_and_hash(args)}
        results: dict[str, list[float] | str] = {}
        for variant in args.variants:
            measured = measure(args, variant)
            results[variant] = [measured.step_s, measured.bytes_sent]
        # Every worker: wrapping a model in DDP is a collective operation.
        results["codec"] = list(time_codec(args))
        return results
    finally:
        dist.barrier()
        dist.destroy_process_group()


def wrapped(model_name: str, variant: str) -> tuple[DistributedDataParallel, NsiState | None]:
    """Return a model with the variant's hook, and its state if it is ours."""
    kind, _, option = variant.partition("-")
    # One bucket: over gloo, PowerSGD's hook starts the later collectives of several buckets in an
    # order that differs between workers, and fails.
    model = DistributedDataParallel(
        build_model(model_name, 3, CLASSES, CHIP_PX, 0),
        bucket_cap_mb=1000 if kind == "powersgd" else None,
    )
    if kind == "powersgd":
        state = power_sgd.PowerSGDState(
            None, matrix_approximation_rank=int(option), start_powerSGD_iter=2
        )
        model.register_comm_hook(state, power_sgd.powerSGD_hook)
    if kind == "nsi":
        nsi = NsiState(model, Compression(option))
        model.register_comm_hook(nsi, nsi_hook)
        return model, nsi
    return model, None


def steps(model: nn.Module, args: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """Yield one training step after another, on noise that differs from worker to worker."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(args.rank)
    while True:
        images = torch.randn(args.batch, 3, CHIP_PX, CHIP_PX, generator=generator)
        labels = torch.randint(0, CLASSES, (args.batch,), generator=generator)

        def step(images: torch.Tensor = images, labels: torch.Tensor = labels) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        yield step


def measure(args: argparse.Namespace, variant: str) -> Measured:
    """Time the steps of one variant, after some that are not timed."""
    model, _ = wrapped(args.models[0], variant)
    seconds, sent = [], []
    warm = 4  # DDP makes its buckets anew after the first step, PowerSGD starts at the third
    for number, step in enumerate(steps(model, args)):
        if number == warm + args.steps:
            break
        dist.barrier()
        before, start = _bytes_sent(), time.perf_counter()
        if variant == "none":
            with model.no_sync():
                step()
        else:
            step()
        if number >= warm:
            seconds.append(time.perf_counter() - start)
            sent.append(_bytes_sent() - before)
    return Measured(statistics.median(seconds), statistics.median(sent))


def time_codec(args: argparse.Namespace) -> tuple[float, float]:
    """Return the processor seconds of an encoding and of a decoding at 100×, without a network."""
    model, state = wrapped(args.models[0], "nsi-100x")
    assert state is not None
    with model.no_sync():
        next(steps(model, args))()
    gradients = [p.grad.reshape(-1).numpy() for p in model.parameters() if p.grad is not None]
    encode_s, decode_s = [], []
    for _ in range(5):
        start = time.process_time()
        payload = state.compressor.compress(gradients).payload
        middle = time.process_time()
        decode(payload, state.compressor.spec)
        encode_s.append(middle - start)
        decode_s.append(time.process_time() - middle)
    return statistics.median(encode_s), statistics.median(decode_s)


def train_and_hash(args: argparse.Namespace) -> str:
    """Train with the NSI hook, everything turned on; return a hash of the weights."""
    model = DistributedDataParallel(build_model(args.models[0], 3, CLASSES, CHIP_PX, 0))
    compression = Compression(
        "100x", momentum=0.9, clip_norm=5.0, dense_steps=10, warm_up_steps=100
    )
    model.register_comm_hook(NsiState(model, compression), nsi_hook)
    for number, step in enumerate(steps(model, args)):
        if number == args.equal_after:
            break
        step()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def _bytes_sent() -> int:
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == DEVICE:
            return int(numbers.split()[8])
    return 0


def print_table(
    model: str, rate: str, args: argparse.Namespace, results: dict[str, list[float]]
) -> None:
    """Print rank 0's figures as a table."""
    encode_s, decode_s = results.pop("codec")
    print(f"\n{model}, {args.workers} workers, {rate} Mbit/s, batch {args.batch}")
    print(f"encoding {1000 * encode_s:.0f} ms, decoding one update {1000 * decode_s:.0f} ms")
    print("| exchange | step (s) | sent by rank 0 (kB) |\n|---|---|---|")
    for variant, (step_s, sent) in results.items():
        print(f"| {variant} | {step_s:.3f} | {sent / 1000:.0f} |")


def print_equality(
    model: str, args: argparse.Namespace, answers: list[dict[str, list[float]]]
) -> None:
    """Print whether the workers' weights are the same."""
    hashes = {str(answer["hash"]) for answer in answers}
    verdict = "equal to the bit" if len(hashes) == 1 else "DIFFERENT"
    print(f"{model}: {args.workers} workers after {args.equal_after} steps: {verdict} {hashes}")


if __name__ == "__main__":
    main()
