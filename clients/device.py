"""The device that a setting names."""

from __future__ import annotations

import torch

from rsdgc.errors import SettingError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """Return the device to train on.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        ``"auto"`` (CUDA where there is one, else the CPU), ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    SettingError
        The name is unknown, or CUDA is asked for and absent.
    """
    if name not in DEVICES:
        raise SettingError(f"device {name!r} is unknown: choose one of {', '.join(DEVICES)}")
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if name == "cuda":
        raise SettingError("device 'cuda' is not available on this machine: set device to 'auto'")
    return torch.device("cpu")
