"""The compared methods: how a gradient is compressed in the hook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.reproduce.experiments import Experiment
from rsdgc.compression import Compression, budget_of_step
from rsdgc.documents import explain_invalid
from rsdgc.errors import SettingError
from rsdgc.indicators import make_indicator
from rsdgc.scheme import Scheme


class GradientMethod(BaseModel):
    """A method's own settings; those of its names in :class:`rsdgc.compression.Compression`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    neighborhood: Literal["kernel", "tile", "element"] = "tile"
    tile_px: int = Field(3, ge=1)
    indicator: str = "nsi"
    mean_weight: float = Field(0.8, ge=0)
    std_weight: float = Field(0.2, ge=0)
    values: str = "float32"
    dense_values: str = "float32"
    indices: str = "rice"
    dense_share: float = Field(0.1, ge=0, le=1)
    policy: Literal["update", "weight", "uniform"] = "uniform"
    top_share: float = Field(0.0, ge=0, le=1)
    ratios_every: int = Field(10, ge=1)
    factor_masking: bool = True
    #: where the experiment's momentum acts: before compression, or in the optimizer after it
    momentum: Literal["correction", "optimizer"] = "correction"
    warm_up: float | None = Field(None, ge=0, le=1)  #: the experiment's by default


METHODS: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "dgc": {"neighborhood": "element", "indicator": "l1", "indices": "int32"},
    "random": {"neighborhood": "element", "indicator": "random"},
    "paper-static": {},
    "paper-dynamic": {"policy": "weight"},
    "ours": {
        "neighborhood": "kernel",
        "values": "deadzone",
        "dense_values": "float16",
        "policy": "update",
        "momentum": "optimizer",
        "warm_up": 0.0,
    },
}
"""Settings of each method that differ from those of :class:`GradientMethod`."""


def find_method(text: str) -> GradientMethod | None:
    """Return the method ``name+setting=value+…``; None for dense training.

    Raises
    ------
    SettingError
        The name or a setting is unknown, or a value is out of range.
    """
    name, *words = text.split("+")
    if name not in METHODS:
        raise SettingError(f"method {name!r} is unknown: choose one of {', '.join(METHODS)}")
    changes = dict(word.partition("=")[::2] for word in words)
    if name == "dense":
        if changes:
            raise SettingError(f"method {text!r}: dense training has no settings: leave them out")
        return None
    try:
        return GradientMethod.model_validate({**METHODS[name], **changes})
    except ValidationError as error:
        raise SettingError(f"method {text!r}: {explain_invalid(error)}") from None


def compression(
    method: GradientMethod,
    experiment: Experiment,
    *,
    times: float,
    steps: int,
    dense_bytes: int,
    seed: int = 0,
) -> Compression:
    """Return the hook's settings so that the whole run sends ``times`` fewer bytes than dense.

    A warm-up sends more at first; the steps after it make up for that, so that methods with and
    without one are compared at equal bytes. ``seed`` is that of random scores.
    """
    share = experiment.warm_up if method.warm_up is None else method.warm_up
    corrected = experiment.momentum if method.momentum == "correction" else 0.0
    names = ("neighborhood", "tile_px", "values", "dense_values", "indices")
    weights = {"mean_weight": method.mean_weight, "std_weight": method.std_weight}
    common: dict[str, Any] = {
        "scheme": Scheme(**{name: getattr(method, name) for name in names}),
        "indicator": make_indicator(method.indicator, seed=seed, **weights),
        "policy": method.policy,
        "ratios_every": method.ratios_every,
        "top_share": method.top_share,
        "dense_share": method.dense_share,
        "momentum": corrected,
        "factor_masking": method.factor_masking,
        "clip_norm": experiment.clip_norm,
        "warm_up_steps": round(share * steps),
    }

    def mean_bytes(factor: float) -> float:
        tried = Compression(f"{factor:.6f}x", **common)
        return float(np.mean([budget_of_step(tried, dense_bytes, i) for i in range(steps)]))

    low, high = times, times
    if mean_bytes(times) > dense_bytes / times * (1 + 1e-9):
        while mean_bytes(high) > dense_bytes / times:
            high *= 2
            if high > 1e6:
                raise SettingError(
                    f"a warm-up of {round(share * steps)} of {steps} steps alone takes more than "
                    f"1/{times:g} of the bytes: set a smaller warm_up"
                )
        for _ in range(40):
            middle = (low * high) ** 0.5
            low, high = (
                (middle, high) if mean_bytes(middle) > dense_bytes / times else (low, middle)
            )
    return Compression(f"{high:.6f}x", **common)
