"""A DistributedDataParallel communication hook that sends compressed gradients.

::

    model = DistributedDataParallel(model)
    state = NsiState(model, Compression("100x"))
    model.register_comm_hook(state, nsi_hook)

Every worker encodes its gradient (:class:`rsdgc.BudgetCompressor`), all gather the encoded buffers,
and each decodes them and adds them up in the order of the ranks, so all workers hold the same mean
to the last bit. The gradients of all buckets are encoded together when the last one is ready: one
budget, one step of the quantizer, and two collectives a step, whatever the buckets are. So nothing
depends on how parameters are divided into buckets, and DDP may divide them anew.
"""

# No "from __future__ import annotations" in this module: DistributedDataParallel compares a hook's
# annotations with its own classes, and would find their names as text.

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # public, not in its stubs

from rsdgc.budget_compressor import BudgetCompressor
from rsdgc.codec.wire import decode
from rsdgc.compression import Compression
from rsdgc.errors import RsdgcError, RunError, SettingError
from rsdgc.torch.collectives import average, collective_device, gather_payloads
from rsdgc.torch.saved_state import load_compressor, save_compressor
from rsdgc.torch.tensors import (
    joined,
    shares_memory,
    spec_of,
    to_layer,
    trained_parameters,
    write_layer,
)
from rsdgc.update import SparseUpdate

_STEP_BYTES = 4
"""What a worker sends before a dense step: its number alone, shorter than every update."""


@dataclass(frozen=True, eq=False)
class _Bucket:
    """A bucket whose gradients wait for those of the others."""

    buffer: Tensor
    gradients: dict[int, Tensor]  #: by number of the layer, with the strides of the parameter
    future: torch.futures.Future[Tensor]


class NsiState:
    """The state of :func:`nsi_hook`: settings, and what this worker has not sent yet.

    Parameters
    ----------
    model : torch.nn.Module
        The model, wrapped in DistributedDataParallel or not. Its trained parameters of now take
        part.
    compression : Compression, optional
        How much is sent, and in which form; 100× by default. With momentum correction the
        optimizer's own momentum must be 0.
    process_group : torch.distributed.ProcessGroup, optional
        The workers; all by default.

    Attributes
    ----------
    bytes_sent : int
        Of this worker's encoded buffers so far, and of the float32 gradients of dense steps.

    Raises
    ------
    SettingError
        No parameter is trained, or the compression does not fit the model.
    RunError
        There is no process group.
    """

    def __init__(
        self,
        model: nn.Module,
        compression: Compression | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if process_group is None:
            if not dist.is_initialized():
                raise RunError("there is no process group: call init_process_group() first")
            process_group = dist.group.WORLD
        assert process_group is not None
        self.process_group: dist.ProcessGroup = process_group
        self._parameters = trained_parameters(model)
        self._numbers = {id(p): number for number, p in enumerate(self._parameters.values())}
        self._compressor = BudgetCompressor(
            spec_of(self._parameters), compression, dist.get_world_size(process_group)
        )
        self._waiting: list[_Bucket] = []
        self.bytes_sent = 0

    @property
    def compressor(self) -> BudgetCompressor:
        """The worker's compressor: its step, ratios and residual."""
        return self._compressor

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, as tensors and plain values.

        Every rank has its own: save one for each.
        """
        return save_compressor(self._compressor) | {"bytes_sent": self.bytes_sent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises
        ------
        SettingError
            The state is of another model or of other settings.
        """
        load_compressor(self._compressor, state, "bytes_sent")
        self.bytes_sent = int(state["bytes_sent"])

    def collect(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Take a bucket; with the last one of a step, exchange the gradients of all of them."""
        if bucket.index() == 0:
            self._waiting.clear()  # of a backward pass that an error has ended
        buffer = bucket.buffer()
        future: torch.futures.Future[Tensor] = torch.futures.Future(
            devices=[buffer.device] if buffer.device.type == "cuda" else None
        )
        gradients = {}
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            number = self._numbers.get(id(parameter))
            if number is None:
                shape = tuple(parameter.shape)
                raise SettingError(
                    f"a parameter of shape {shape} is trained that was not when the state was "
                    "made: make it after the model is complete"
                )
            gradients[number] = _with_strides_of(parameter, gradient)
        self._waiting.append(_Bucket(buffer, gradients, future))
        if bucket.is_last():
            waiting, self._waiting = self._waiting, []
            self._exchange({n: g for each in waiting for n, g in each.gradients.items()})
            for each in waiting:
                each.future.set_result(each.buffer)
        return future

    def _exchange(self, gradients: dict[int, Tensor]) -> None:
        """Replace the gradients, by number of their layer, by their mean over the workers."""
        compressor = self._compressor
        layers = {number: to_layer(gradient) for number, gradient in gradients.items()}
        device = collective_device(self.process_group, next(iter(gradients.values())).device)
        step, dense, problem, present, sent = compressor.step, compressor.is_dense, "", None, None
        try:
            present = compressor.add([layers.get(n) for n in range(len(compressor.spec.layers))])
            if not dense:
                sent = compressor.encode(present, lambda: joined(self._parameters.values()))
        except RsdgcError as error:
            problem = str(error)
        payload = sent.payload if sent else step.to_bytes(_STEP_BYTES, "little")
        payloads = gather_payloads(payload, problem, self.process_group, device)
        own = dist.get_rank(self.process_group)
        updates = [
            sent if rank == own else self._decode(received)
            for rank, received in enumerate(payloads)
        ]
        _check_steps(payloads, updates)
        if dense:
            everything = compressor.send_everything()
            mean = average(everything, self.process_group, device)
            self.bytes_sent += everything.nbytes
            means = compressor.spec.views(mean)
            for number, gradient in gradients.items():
                write_layer(means[number], gradient)
            return
        self.bytes_sent += len(payload)
        arrived = [update.layers for update in updates if update is not None]
        share = 1.0 / len(updates)
        for number, gradient in gradients.items():
            layer = layers[number]
            layer.fill(0.0)
            for layers_of_rank in arrived:
                layers_of_rank[number].add_to(layer, share)
            if not shares_memory(layer, gradient):
                write_layer(layer, gradient)

    def _decode(self, payload: bytes) -> SparseUpdate | None:
        """Return what a worker sent; None before a dense step."""
        is_dense = len(payload) == _STEP_BYTES
        return None if is_dense else decode(payload, self._compressor.spec)


def _check_steps(payloads: list[bytes], updates: list[SparseUpdate | None]) -> None:
    """Refuse workers that would not go on together: some would even wait for the others."""
    steps = [
        int.from_bytes(payload, "little") if update is None else update.stamp.round
        for payload, update in zip(payloads, updates, strict=True)
    ]
    if len(set(steps)) > 1:
        raise RunError(
            f"the ranks are at steps {steps}: resume all of them from the same checkpoint"
        )
    dense = [update is None for update in updates]
    if len(set(dense)) > 1:
        raise RunError(
            f"rank {dense.index(True)} sends its whole gradient in step {steps[0]} and rank "
            f"{dense.index(False)} does not: give all ranks the same compression"
        )


def nsi_hook(state: NsiState, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Average gradients over the workers by their neighborhood-sparsified, encoded form.

    For ``DistributedDataParallel.register_comm_hook(state, nsi_hook)``; it calls this function.

    Raises
    ------
    RunError
        A gradient of some worker holds NaN or infinity: all workers raise this error, which names
        rank and layer. Or the workers are not at the same step.
    """
    return state.collect(bucket)


def _with_strides_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return a bucket's gradient as its parameter sees it.

    DDP lays a gradient out as its parameter is in memory (channels last, for instance), but hooks
    see it as if it were contiguous. Only where memory has gaps, as in a slice of a larger tensor,
    it is contiguous.
    """
    # A copy keeps the strides of a tensor exactly if its memory has neither gaps nor overlaps.
    copied = torch.empty_like(parameter, device="meta", memory_format=torch.preserve_format)
    if parameter.is_contiguous() or copied.stride() != parameter.stride():
        return gradient
    return gradient.as_strided(parameter.shape, parameter.stride(), gradient.storage_offset())
