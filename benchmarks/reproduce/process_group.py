"""The processes of a comparison: one a node, for all its runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.reproduce.experiments import Experiment
from benchmarks.reproduce.node_training import Node, open_images
from rsdgc.errors import SettingError


@dataclass(frozen=True)
class Case:
    """One run; ``times`` is how many times fewer bytes it may send, 1 for dense training."""

    method: str
    times: float
    seed: int
    experiment: Experiment

    def values(self) -> dict[str, Any]:
        """Return the fields of its line in the results file."""
        names = {"method": self.method, "times": self.times, "seed": self.seed}
        return {**names, **self.experiment.model_dump()}


@dataclass(frozen=True)
class Arguments:
    """What every process of a group is started with."""

    data: Path
    out: Path
    device: str
    threads: int
    experiment: Experiment
    cases: Sequence[Case]


def start_nodes(arguments: Arguments) -> None:
    """Start a process a node on this machine, and wait for the end of all runs."""
    with tempfile.TemporaryDirectory() as folder:
        group_file = str(Path(folder) / "group")
        # Python ends its daemons on an exit, but not when a signal ends it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        nodes = arguments.experiment.nodes
        spawn(run_node, (arguments, group_file), nodes, daemon=True)  # type: ignore[no-untyped-call]


def run_node(rank: int, arguments: Arguments, group_file: str = "") -> None:
    """Run all cases as one process of the group; rank 0 decides which, and writes the results.

    Raises
    ------
    SettingError
        The group has more or fewer processes than the experiment has nodes.
    """
    torch.set_num_threads(arguments.threads)
    nodes = arguments.experiment.nodes
    # Under torchrun the environment has the address, the rank and the number of processes.
    place = {"init_method": f"file://{group_file}", "rank": rank, "world_size": nodes}
    backend = "nccl" if arguments.device == "cuda" else "gloo"
    dist.init_process_group(backend, **(place if group_file else {}))  # type: ignore[arg-type]
    try:
        if dist.get_world_size() != nodes:
            raise SettingError(
                f"{dist.get_world_size()} processes for nodes={nodes}: start as many processes as "
                f"nodes, or add --set nodes={dist.get_world_size()}"
            )
        _run_cases(rank, arguments)
    finally:
        dist.destroy_process_group()


def _run_cases(rank: int, arguments: Arguments) -> None:
    on_this_machine = int(os.environ.get("LOCAL_RANK", rank))
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", on_this_machine % torch.cuda.device_count())
        torch.cuda.set_device(device)
    chosen = arguments.experiment
    suffix = f".store-{chosen.px}px-{chosen.test_share:g}"
    images = (arguments.data, chosen.px, chosen.test_share, arguments.out.with_suffix(suffix))
    if on_this_machine == 0:
        open_images(*images)  # ingested by one process, read by all
    # Other machines may not have the results file.
    cases: list[Sequence[Case]] = [arguments.cases]
    dist.broadcast_object_list(cases)
    node = Node(open_images(*images), device)
    for case in cases[0]:
        figures = node.run(case.method, case.times, case.seed, case.experiment)
        if rank == 0:
            line = {**case.values(), **figures}
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
        dist.barrier()
