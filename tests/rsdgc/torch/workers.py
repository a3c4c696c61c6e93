"""Worker processes of a gloo process group, and a group of one in this process."""

import io
import multiprocessing
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist


def run_workers(function, count, *arguments):
    """Run ``function(rank, *arguments)`` in processes of one group; return results by rank.

    The function must be one of a module. What it raises is raised here.
    """
    # A server that has imported PyTorch once forks the workers: each saves seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rsdgc.torch", "torch._dynamo"])
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        workers = [
            context.Process(target=_work, args=(function, rank, count, folder, pipe[1], arguments))
            for rank, pipe in enumerate(pipes)
        ]
        for worker in workers:
            worker.start()
        results = []
        for receiver, sender in pipes:
            sender.close()  # so that the end of a worker without a result is seen
            with receiver:
                problem, result = receiver.recv()
            assert not problem, problem
            results.append(torch.load(io.BytesIO(result)))
        for worker in workers:
            worker.join()
    return results


def _work(function, rank, count, folder, pipe, arguments):
    torch.set_num_threads(1)
    try:
        with process_group(Path(folder), rank, count):
            buffer = io.BytesIO()
            # As bytes: tensors in a pipe would be files that end with this process.
            torch.save(function(rank, *arguments), buffer)
            answer = "", buffer.getvalue()
    except BaseException:
        answer = traceback.format_exc(), None
    pipe.send(answer)


@contextmanager
def process_group(folder: Path, rank: int = 0, count: int = 1) -> Iterator[None]:
    """Make the default process group, by a file in a folder."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=count
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
