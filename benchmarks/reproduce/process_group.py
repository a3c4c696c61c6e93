"""The processes of a comparison: one a node, for all its runs."""

from __future__ import annotations

import json
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
    cases: Sequence[Case]


def start_nodes(arguments: Arguments) -> None:
    """Start a process a node on this machine, and wait for the end of all runs."""
    with tempfile.TemporaryDirectory() as folder:
        group_file = str(Path(folder) / "group")
        nodes = arguments.cases[0].experiment.nodes
        spawn(run_node, (arguments, group_file), nodes)  # type: ignore[no-untyped-call]


def run_node(rank: int, arguments: Arguments, group_file: str = "") -> None:
    """Run all cases as one process of the group; rank 0 writes the results."""
    torch.set_num_threads(arguments.threads)
    on_gpu = arguments.device == "cuda"
    nodes = arguments.cases[0].experiment.nodes
    # Under torchrun the environment has the address, the rank and the number of processes.
    place = {"init_method": f"file://{group_file}", "rank": rank, "world_size": nodes}
    dist.init_process_group("nccl" if on_gpu else "gloo", **(place if group_file else {}))  # type: ignore[arg-type]
    device = (
        torch.device("cuda", rank % torch.cuda.device_count()) if on_gpu else torch.device("cpu")
    )
    first = arguments.cases[0].experiment
    store = arguments.out.with_suffix(f".store-{first.px}px")
    images = (arguments.data, first.px, first.test_share, store)
    if rank == 0:
        open_images(*images)  # ingested by one process, read by all
    dist.barrier()
    node = Node(open_images(*images), device)
    for case in arguments.cases:
        figures = node.run(case.method, case.times, case.seed, case.experiment)
        if rank == 0:
            line = {**case.values(), **figures}
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
        dist.barrier()
    dist.destroy_process_group()
