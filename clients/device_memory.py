"""What training takes of a device's memory, before it takes it.

An estimate adds up weights, gradients, the optimizer's state and what a step keeps for its backward
pass. The last comes from a trial step on PyTorch's meta device, which has shapes and no values: it
takes no memory, and needs no GPU. Chips are then cached in what remains.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from rsdgc.errors import SettingError

RESERVE = 0.1
"""Share of a GPU's memory left to cuDNN's workspaces, fragments and the estimate's error."""

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container of its own limits (control groups, version 2)."""

_log = logging.getLogger(__name__)


def free_bytes(device: torch.device) -> int:
    """Return how much memory this process can still take on a device; 0 or more."""
    if device.type == "cuda":
        return process_bytes(device) - torch.cuda.memory_allocated(device)
    # Includes the page cache, which the system gives up when memory is needed.
    free = int(psutil.virtual_memory().available)
    in_container = _free_in_container()
    return free if in_container is None else max(0, min(free, in_container))


def _free_in_container() -> int | None:
    """Return what a container's own limit leaves of memory; None if it has no limit."""
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        pages = {name: int(count) for name, count in map(str.split, lines)}
    except (OSError, ValueError):  # without a limit it is the word "max"
        return None
    # The page cache again, which counts as used here.
    cache = pages.get("active_file", 0) + pages.get("inactive_file", 0)
    return limit - used + cache


def process_bytes(device: torch.device, share: float = 1.0) -> int:
    """Return how much of a GPU's memory this process can take, with what it has already."""
    free, total = torch.cuda.mem_get_info(device)
    return min(int(share * total), free + torch.cuda.memory_reserved(device))


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a site takes on its device while it trains, without the chips cached there."""

    weights: int  #: parameters and buffers
    gradients: int  #: of the parameters that are trained
    optimizer: int  #: what the optimizer keeps for them
    activations: int  #: what a step keeps and works with, per chip of its batch

    def step(self, chips: int) -> int:
        """Return the bytes of a step on so many chips, weights not included."""
        return self.gradients + self.optimizer + chips * self.activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "activations")
        listed = ", ".join(f"{name} {gigabytes(getattr(self, name))}" for name in parts)
        return f"{listed} a chip"


def estimate_training(
    model: nn.Module,
    inputs: Sequence[tuple[int, int, int]],
    batch_size: int,
    *,
    states: int,
    half: bool = False,
) -> TrainingMemory:
    """Estimate what training a model takes.

    Parameters
    ----------
    model : torch.nn.Module
        On any device; not changed.
    inputs : sequence of (C, H, W)
        Shape of a chip in each tensor that the model takes.
    batch_size : int
        Chips in a step.
    states : int
        Values that the optimizer keeps for each trained parameter.
    half : bool
        Whether the forward pass runs in mixed precision, which halves what is kept of float32.
    """
    tensors = [*model.parameters(), *model.buffers()]
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    batch_size = max(batch_size, 2)  # batch normalization cannot train on a single value
    chips = [torch.empty(batch_size, *shape, device="meta") for shape in inputs]
    kept = _kept_bytes(model, chips, half=half)
    # Chips as normalized, augmented, and in the model's memory format.
    pixels = 3 * sum(x.nbytes for x in chips)
    return TrainingMemory(
        weights=sum(tensor.nbytes for tensor in tensors),
        gradients=trained,
        optimizer=states * trained,
        activations=(kept + pixels) // batch_size,
    )


def _kept_bytes(model: nn.Module, chips: list[Tensor], *, half: bool) -> int:
    """Return what a forward pass keeps for the backward pass, and the gradients it then holds."""
    own = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    weights = {tensor.untyped_storage()._cdata for tensor in own.values()}  # noqa: SLF001
    saved: dict[int, Tensor] = {}  # by storage: several operations may keep the same one

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # noqa: SLF001
        return tensor

    was_training = model.training
    model.train()
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            torch.func.functional_call(model, own, tuple(chips))
    except Exception as error:  # a model from outside may do what meta tensors cannot
        _log.warning("the memory of a step is not known: the model has no trial step (%s)", error)
        return 0
    finally:
        model.train(was_training)
    sizes = [
        tensor.untyped_storage().nbytes() // (2 if half and tensor.dtype == torch.float32 else 1)
        for storage, tensor in saved.items()
        if storage not in weights
    ]
    # Going back, the gradients of a layer's output and of its input are held as well.
    return sum(sizes) + 2 * max(sizes, default=0)


@dataclass(frozen=True)
class MemoryPlan:
    """How a process divides its share of a GPU."""

    sites: int  #: sites that can stay there between rounds
    cache_bytes: int  #: what the chips of each may take
    chips_at_once: int  #: chips of a step that go through the model at once
    #: what gives the process more memory, such as "raise gpu-share, "; empty if nothing does
    more_memory: str = ""


def plan_memory(
    memory: TrainingMemory, limit_bytes: int, batch_size: int, sites: int, more_memory: str = ""
) -> MemoryPlan:
    """Divide a process's share of a GPU over its sites, of which one trains at a time.

    Parameters
    ----------
    memory : TrainingMemory
        What each site takes.
    limit_bytes : int
        What the process may take (:func:`process_bytes`).
    batch_size : int
        Chips in a step.
    sites : int
        Sites that the process may be asked to work for; 1 or more.
    more_memory : str
        What gives the process more memory (:attr:`MemoryPlan.more_memory`), for the error.

    Raises
    ------
    SettingError
        Not even a step on one chip fits.
    """
    usable = int(limit_bytes * (1 - RESERVE))
    for_chips = usable - memory.weights - memory.step(0)
    chips = min(batch_size, for_chips // max(memory.activations, 1))
    if chips < 1:
        raise SettingError(
            f"training needs {gigabytes(memory.weights + memory.step(1))} of GPU memory ({memory}) "
            f"and this site may take {gigabytes(usable)}: {more_memory}"
            "choose a smaller model, or set device to 'cpu'"
        )
    kept = usable - memory.step(chips)
    sites = max(1, min(sites, kept // max(memory.weights, 1)))
    return MemoryPlan(sites, max(0, kept // sites - memory.weights), chips, more_memory)


def gigabytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
