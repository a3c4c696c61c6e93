"""What the workers of a process group exchange: encoded buffers, and sums of vectors."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from rsdgc.arrays import Float32
from rsdgc.errors import RunError


def gather_payloads(
    payload: bytes, problem: str, group: dist.ProcessGroup, device: torch.device
) -> list[bytes]:
    """Send every worker's buffer to all workers: first the sizes, then the bytes.

    Parameters
    ----------
    payload : bytes
        This worker's buffer.
    problem : str
        Why this worker has none; empty if it has. Without it the others would wait for its buffer
        until the process group's timeout.
    group, device
        The workers, and where the group's backend takes tensors from.

    Returns
    -------
    list of bytes
        The buffers in the order of the ranks, the same for all workers.

    Raises
    ------
    RunError
        A worker has a problem. All workers raise the same error, with the same text.
    """
    own = problem.encode() if problem else payload
    # A negative size announces a problem's text instead of a buffer.
    size = torch.tensor([-len(own) if problem else len(own)], dtype=torch.int64, device=device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    counts = [int(each) for each in torch.cat(sizes).tolist()]
    # Backends gather tensors of one size, so shorter buffers are padded; budgets make them alike.
    longest = max(map(abs, counts))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
    received: list[Tensor] = [
        torch.empty(longest, dtype=torch.uint8, device=device) for _ in counts
    ]
    dist.all_gather(received, padded.to(device), group=group)
    buffers = [
        tensor[: abs(count)].cpu().numpy().tobytes()
        for tensor, count in zip(received, counts, strict=True)
    ]
    problems = [
        f"rank {rank}: {buffer.decode(errors='replace')}"
        for rank, (buffer, count) in enumerate(zip(buffers, counts, strict=True))
        if count < 0
    ]
    if problems:
        raise RunError("; ".join(problems))
    return buffers


def average(vector: Float32, group: dist.ProcessGroup, device: torch.device) -> Float32:
    """Return the mean of the workers' vectors, float32 [n], the same bits for all workers."""
    tensor = torch.from_numpy(vector).to(device)
    dist.all_reduce(tensor, group=group)
    mean: Float32 = (tensor / dist.get_world_size(group)).cpu().numpy()
    return mean


def collective_device(group: dist.ProcessGroup, device: torch.device) -> torch.device:
    """Return where the group's backend takes tensors from, for gradients on a device."""
    return torch.device("cpu") if dist.get_backend(group) == "gloo" else device
