"""The change between two state dicts as bytes, and back.

::

    compressor = StateDictCompressor(model, Compression("100x"))
    before = copy.deepcopy(model.state_dict())
    train(model)
    payload = compressor.compress(before, model.state_dict())   # bytes, to send anywhere
    model.load_state_dict(apply_to_state_dict(before, payload))  # there
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rsdgc.arguments import BytesLike
from rsdgc.arrays import Float32
from rsdgc.compression import Compression
from rsdgc.errors import SettingError
from rsdgc.model_change import AnyArray, ChangeCompressor, apply_change
from rsdgc.torch.saved_state import load_compressor, save_compressor


class StateDictCompressor:
    """Compresses the changes of a model's state dict, with error feedback.

    Parameters are compressed inside the budget. Buffers of floating point, such as running
    statistics, are sent whole in float16 if they have changed, and those of integers as they are
    (:mod:`rsdgc.model_change` says why).

    Parameters
    ----------
    model : torch.nn.Module or mapping of str to Tensor
        The model; of a state dict alone, the running statistics are those that PyTorch calls so.
    compression : Compression, optional
        How much is sent, and in which form; 100× by default.

    Raises
    ------
    SettingError
        The compression does not fit the model, or an entry is no tensor of real numbers.
    """

    def __init__(
        self, model: nn.Module | Mapping[str, Tensor], compression: Compression | None = None
    ) -> None:
        running = None
        if isinstance(model, nn.Module):
            # Every name of a shared buffer: a state dict has all of them.
            running = {name for name, _ in model.named_buffers(remove_duplicate=False)}
            model = model.state_dict()
        self._changes = ChangeCompressor(_arrays(model), compression, running)
        self._dtypes = {name: tensor.dtype for name, tensor in model.items()}

    def compress(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bytes:
        """Return what changes one state dict into the next, and keep what the bytes leave out.

        Raises
        ------
        SettingError
            Names, shapes or dtypes are not the model's.
        RsdgcError
            A value is NaN or infinite. The message names the entry.
        """
        for state in (before, after):
            for name, tensor in state.items():
                if tensor.dtype != self._dtypes.get(name, tensor.dtype):
                    raise SettingError(
                        f"entry {name!r} is {tensor.dtype} and was {self._dtypes[name]}: make a "
                        "compressor for each model"
                    )
        return self._changes.compress(_arrays(before), _arrays(after))

    def roll_back(self, payload: BytesLike) -> None:
        """Keep what a payload held, too, because it did not arrive.

        Raises
        ------
        WireError
            The payload is not a change of this model.
        """
        self._changes.roll_back(payload)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, as tensors and plain values."""
        return save_compressor(self._changes.compressor)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned, bit for bit.

        Raises
        ------
        SettingError
            The state is of another model or of other settings.
        """
        load_compressor(self._changes.compressor, state)


def apply_to_state_dict(before: Mapping[str, Tensor], payload: BytesLike) -> dict[str, Tensor]:
    """Return the state dict after a change.

    Parameters
    ----------
    before : mapping of str to Tensor
        The state dict before the change; not changed.
    payload : bytes-like
        As :meth:`StateDictCompressor.compress` returned it. Nothing in it is trusted.

    Returns
    -------
    dict of str to Tensor
        New tensors with the names, shapes, dtypes and devices of ``before``.

    Raises
    ------
    WireError
        The payload is not a change of this model.
    """
    after = apply_change(_arrays(before), payload)
    return {
        name: torch.from_numpy(after[name]).to(tensor.device, tensor.dtype)
        for name, tensor in before.items()
    }


def _arrays(state: Mapping[str, Tensor]) -> dict[str, AnyArray]:
    """Return the entries as arrays, of bfloat16 as float32, which holds its values."""
    arrays: dict[str, AnyArray] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise SettingError(f"entry {name!r} is {type(tensor).__name__}: pass tensors only")
        if tensor.dtype == torch.bfloat16:
            widened: Float32 = tensor.detach().float().cpu().numpy()
            arrays[name] = widened
            continue
        try:
            arrays[name] = tensor.detach().cpu().numpy()
        except (TypeError, NotImplementedError):  # sparse, quantized, of 8 bits, or without data
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise SettingError(
                f"entry {name!r} is {kind}: NumPy has no such array; convert it, or leave it out"
            ) from None
    return arrays
