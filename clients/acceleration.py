"""What makes a step quicker: forward passes in 16 bits, where a GPU has them, and compilation."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from clients.optimizers import Optimizer
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from torch.amp import GradScaler

FIRST_SCALE = 2.0**12
"""Of losses in float16. Gradients down to 1.5e-11 then count. A scale that is too large costs
steps, of which a round has few."""


def half_type(device: torch.device) -> torch.dtype | None:
    """Return the type for mixed precision on a device; None where float32 is as quick.

    bfloat16 where the GPU computes with it (emulated it is slower than float32), else float16.
    """
    if device.type != "cuda":
        return None
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float16


class MixedPrecision:
    """A step's precision, and the scale that float16 needs for its small gradients.

    A step whose gradients overflow is skipped on the device, and the next scale is half as large.

    Parameters
    ----------
    device : torch.device
        Where the model is.
    dtype : torch.dtype or None
        bfloat16 or float16; None for float32.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self._device = device
        self._dtype = dtype
        self._scaler: GradScaler | None = None
        if dtype == torch.float16:
            self._scaler = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE)

    @property
    def may_skip(self) -> bool:
        """Whether steps are skipped if their gradients are not finite."""
        return self._scaler is not None

    def forward(self) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(
            self._device.type,
            dtype=self._dtype or torch.bfloat16,
            enabled=self._dtype is not None,
        )

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients, scaled, to those of the parameters."""
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        torch.autograd.backward(loss)  # what loss.backward() does, but typed

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, before anything looks at them."""
        if self._scaler is not None:
            self._scaler.unscale_(cast("torch.optim.Optimizer", optimizer))

    def step(self, optimizer: Optimizer) -> None:
        """Update the parameters, unless a gradient is not finite."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(cast("torch.optim.Optimizer", optimizer))
            self._scaler.update()


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Let PyTorch compile the model when it is called; the names of its entries stay as they are.

    A function of one line is compiled at once, so that a missing compiler shows before a round.

    Raises
    ------
    SettingError
        PyTorch cannot compile for the device on this machine.
    """
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.zeros(8, device=device))
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise SettingError(
            f"compile=true, but PyTorch cannot compile for {device} here "
            f"({type(error).__name__}: {line}): install a C++ compiler and, for a GPU, Triton, or "
            "set compile to false"
        ) from error
    model.compile()
