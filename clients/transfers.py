"""Copies from the host to a device that do not stop the device.

A copy from ordinary (*pageable*) memory to a GPU makes the host wait until the GPU has done all
earlier work of that stream. A copy from page-locked (*pinned*) memory runs beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a small CPU tensor on the device: itself on a CPU, a copy that does not wait on a GPU.

    PyTorch keeps pinned memory, and uses it again once the copy is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor).to(device, non_blocking=True)


class BatchCopier:
    """Copies batches to a GPU on a stream of their own, from two sets of pinned buffers in turn.

    One thread calls :meth:`send`, one batch ahead, and the thread that trains calls
    :meth:`receive`. So the copy of a batch runs while the GPU computes on the batch before.

    Parameters
    ----------
    device : torch.device
        A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._slots = [_Slot(), _Slot()]

    def send(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], torch.cuda.Event]:
        """Begin to copy a batch, and return its tensors on the GPU with the event of their end."""
        slot = self._slots[0]
        self._slots.reverse()
        slot.copied.synchronize()  # the batch before last must have left the buffers
        with torch.cuda.stream(self._stream):
            sent = [
                slot.pinned(index, tensor).to(self._device, non_blocking=True)
                for index, tensor in enumerate(tensors)
            ]
            slot.copied.record()
        return sent, slot.copied

    def receive(self, sent: list[Tensor], copied: torch.cuda.Event) -> list[Tensor]:
        """Let the present stream use a batch, once it has been copied; the host does not wait."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in sent:
            # The memory belongs to the copies' stream, which must not reuse it any earlier.
            tensor.record_stream(stream)
        return sent


class _Slot:
    """Pinned buffers of one batch, a buffer a tensor, and the event of their last copy."""

    def __init__(self) -> None:
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._buffers: dict[int, Tensor] = {}

    def pinned(self, index: int, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor in a pinned buffer, which grows if it is too small."""
        buffer = self._buffers.get(index)
        if buffer is None or buffer.dtype != tensor.dtype or buffer.numel() < tensor.numel():
            buffer = torch.empty(tensor.numel(), dtype=tensor.dtype, pin_memory=True)
            self._buffers[index] = buffer
        return buffer[: tensor.numel()].view(tensor.shape).copy_(tensor)
