"""A model's gradients as bytes, and back.

::

    compressor = GradientCompressor(model, Compression("100x"))
    loss.backward()
    payload = compressor.compress()          # bytes, to send anywhere
    load_gradients(model, payload)           # there, in a model of the same parameters
    optimizer.step()
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rsdgc.arguments import BytesLike, payload_bytes
from rsdgc.budget_compressor import BudgetCompressor
from rsdgc.codec.wire import decode
from rsdgc.compression import Compression
from rsdgc.errors import SettingError
from rsdgc.torch.saved_state import load_compressor, save_compressor
from rsdgc.torch.tensors import joined, spec_of, to_layer, trained_parameters, write_layer


class GradientCompressor:
    """Compresses a model's gradients step by step, with error feedback.

    Parameters
    ----------
    model : torch.nn.Module
        Its trained parameters of now take part.
    compression : Compression, optional
        How much is sent, and in which form; 100× by default.
    workers : int
        Number of workers whose gradients are averaged; for clipping.

    Raises
    ------
    SettingError
        No parameter is trained, one is complex or has no shape yet, the compression does not fit
        the model, or ``workers`` is not a whole number of at least 1.
    """

    def __init__(
        self, model: nn.Module, compression: Compression | None = None, workers: int = 1
    ) -> None:
        self._parameters = trained_parameters(model)
        self._compressor = BudgetCompressor(spec_of(self._parameters), compression, workers)

    def compress(self) -> bytes:
        """Encode the gradients of the parameters, and keep what the bytes leave out.

        The gradients stay as they are. A parameter without one takes no part.

        Raises
        ------
        RsdgcError
            A gradient holds NaN or infinity. The message names the parameter; nothing has changed.
        """
        gradients = [
            None if parameter.grad is None else to_layer(parameter.grad)
            for parameter in self._parameters.values()
        ]
        sent = self._compressor.compress(gradients, lambda: joined(self._parameters.values()))
        return sent.payload

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, as tensors and plain values."""
        return save_compressor(self._compressor)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned, bit for bit.

        Raises
        ------
        SettingError
            The state is of another model or of other settings.
        """
        load_compressor(self._compressor, state)


def load_gradients(model: nn.Module, payloads: BytesLike | Sequence[BytesLike]) -> None:
    """Set the gradients of a model's trained parameters to those of a payload.

    Parameters
    ----------
    model : torch.nn.Module
        Of the same trained parameters as the model that was compressed.
    payloads : bytes-like or sequence of bytes-like
        Of one worker, or of several, whose mean is taken; in the same order everywhere, the result
        is the same to the last bit.

    Raises
    ------
    WireError
        A payload is not an update of these parameters. No gradient has changed.
    SettingError
        There is no payload, one is not bytes-like, or no parameter is trained.
    """
    parameters = trained_parameters(model)
    spec = spec_of(parameters)
    if isinstance(payloads, Sequence) and not isinstance(payloads, BytesLike | str):
        buffers = [payload_bytes(each, f"payload {n}") for n, each in enumerate(payloads)]
    else:
        buffers = [payload_bytes(payloads)]
    if not buffers:
        raise SettingError("there is no payload: pass that of at least one worker")
    updates = [decode(payload, spec) for payload in buffers]
    for number, parameter in enumerate(parameters.values()):
        gradient = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        layer = to_layer(torch.zeros_like(parameter, dtype=torch.float32, device="cpu"))
        for update in updates:
            update.layers[number].add_to(layer, 1.0 / len(updates))
        write_layer(layer, gradient)
        parameter.grad = gradient
