"""A compressor's state in the form in which PyTorch saves it."""

from __future__ import annotations

from typing import Any

import torch

from rsdgc.budget_compressor import BudgetCompressor, CompressorState
from rsdgc.errors import SettingError

_KEYS = ("model", "step", "residual", "velocity", "ratios")


def save_compressor(compressor: BudgetCompressor) -> dict[str, Any]:
    """Return a compressor's state as tensors and plain values, for ``torch.save``.

    They are copies, and ``torch.load`` reads them with ``weights_only=True``.
    """
    state = compressor.state()
    return {
        "model": compressor.spec.signature.hex(),
        "step": state.step,
        "residual": torch.from_numpy(state.residual.copy()),
        "velocity": torch.from_numpy(state.velocity.copy()),
        "ratios": torch.from_numpy(state.ratios.copy()),
    }


def load_compressor(compressor: BudgetCompressor, state: dict[str, Any], *others: str) -> None:
    """Let a compressor continue from what :func:`save_compressor` returned.

    Parameters
    ----------
    others : str
        Keys that the state must have, too.

    Raises
    ------
    SettingError
        The state is of another model or of other settings, or no such state. Nothing has changed.
    """
    for key in (*_KEYS, *others):
        if key not in state:
            raise SettingError(
                f"the saved state has no {key!r}: load what state_dict() of the same class returned"
            )
    if state["model"] != compressor.spec.signature.hex():
        raise SettingError(
            "the saved state is of a model with other layers: load it with the same model"
        )
    arrays = (state[name].cpu().numpy() for name in ("residual", "velocity", "ratios"))
    compressor.restore(CompressorState(int(state["step"]), *arrays))
