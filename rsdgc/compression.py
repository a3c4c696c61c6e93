"""What a :class:`rsdgc.BudgetCompressor` shall do: one object with all its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from rsdgc.arguments import check_number, check_whole
from rsdgc.budget import parse_budget
from rsdgc.errors import SettingError
from rsdgc.indicators import NSI, Indicator
from rsdgc.scheme import Scheme

RatioPolicy = Literal["update", "weight", "uniform"]


@dataclass(frozen=True)
class Compression:
    """How much of a gradient, or of a model's change, is sent, and in which form.

    ::

        Compression("100x")                                            # this project's method
        Compression("50x", policy="weight", scheme=Scheme("tile", values="float32"))  # the paper's
        Compression("50x", momentum=0.9, clip_norm=5.0, warm_up_steps=400)  # as DGC trains

    Parameters
    ----------
    budget : str
        Bytes of a step: ``"100x"`` is a hundredth of the float32 model, ``"50000"`` that many
        bytes; headers, indices and whole layers count.
    scheme : Scheme
        How layers are cut and coded.
    indicator : Indicator
        What ranks neighborhoods.
    policy : {"update", "weight", "uniform"}
        What divides the budget over the layers: the values to be sent themselves, all neighborhoods
        ranked together (:func:`rsdgc.update_shares`); the mean weight magnitude of neurons, all
        ranked together, as in the paper (:func:`rsdgc.weight_shares`); or nothing.
    ratios : mapping of str to float, optional
        Each layer's ratio by its name, 0 to 1, instead of a policy. Then the budget only decides
        the size of dead-zone levels.
    ratios_every : int
        Compressed steps from one computation of the ratios to the next.
    top_share : float
        Global top in which shares are counted, 0 to 1. 0: half of all neurons for ``"weight"``, the
        density that the budget allows for ``"update"``.
    dense_share : float
        Part of the budget for small layers that are sent whole, 0 to 1 (:func:`rsdgc.fit_ratios`).
    momentum : float
        Momentum correction, 0 to below 1 (DGC, section 3.2); 0 for none. The optimizer's own
        momentum must then be 0. Meant for ``float32`` and other values that are sent almost
        exactly. With the default's dead-zone levels it does badly: a coarse level counts as sent,
        and masking then stops the momentum of most of the update. Leave the momentum to the
        optimizer there (accuracy .438 against .305, docs/results.md).
    factor_masking : bool
        Whether the velocity is set to zero where it is sent (DGC, section 3.3).
    clip_norm : float
        Longest gradient of all workers together. Each of N workers clips its own to
        ``clip_norm / √N`` before it is added up (DGC, section 3.2); 0 for none.
    dense_steps : int
        Steps at the start that send everything.
    warm_up_steps : int
        Steps after those in which the compression grows to its final value in
        :data:`WARM_UP_STAGES` stages, each by the same factor (DGC, section 3.3).

    Raises
    ------
    SettingError
        A setting is out of range.
    """

    budget: str = "100x"
    scheme: Scheme = field(default_factory=Scheme)
    indicator: Indicator = field(default_factory=NSI)
    policy: RatioPolicy = "update"
    ratios: Mapping[str, float] | None = None
    ratios_every: int = 10
    top_share: float = 0.0
    dense_share: float = 0.1
    momentum: float = 0.0
    factor_masking: bool = True
    clip_norm: float = 0.0
    dense_steps: int = 0
    warm_up_steps: int = 0

    def __post_init__(self) -> None:
        try:
            parse_budget(self.budget, dense_bytes=1 << 20)  # it is the text that is checked
        except (ValueError, AttributeError):
            raise SettingError(
                f"budget is {self.budget!r}: write a ratio from '1x' on, such as '100x', or a "
                "number of bytes such as '50000'"
            ) from None
        if self.policy not in get_args(RatioPolicy):
            choices = ", ".join(get_args(RatioPolicy))
            raise SettingError(f"policy is {self.policy!r}: choose one of {choices}")
        for name, ratio in (self.ratios or {}).items():
            check_number(f"the ratio of layer {name!r}", ratio, 0, 1)
        for name, largest in _LARGEST.items():
            check_number(name, getattr(self, name), 0, largest)
        for name, least in (("ratios_every", 1), ("dense_steps", 0), ("warm_up_steps", 0)):
            check_whole(name, getattr(self, name), least)
        if not isinstance(self.factor_masking, bool):
            raise SettingError(f"factor_masking is {self.factor_masking!r}: choose True or False")

    @classmethod
    def checked(cls, compression: object) -> Compression:
        """Return a compression as a caller passed it, or the default for None.

        Raises
        ------
        SettingError
            It is something else, such as a budget alone.
        """
        if compression is None:
            return cls()
        if not isinstance(compression, cls):
            raise SettingError(
                f"compression is {compression!r}: pass an object of rsdgc.Compression, such as "
                'Compression("100x")'
            )
        return compression


_LARGEST = {"top_share": 1.0, "dense_share": 1.0, "momentum": 0.999999, "clip_norm": math.inf}
"""Of settings that are numbers from 0."""


WARM_UP_STAGES = 4
"""Stages before the final compression. At 1000× they are 4×, 16×, 63× and 251×: DGC's."""


def budget_of_step(compression: Compression, dense_bytes: int, step: int) -> float:
    """Return the bytes that a step may take; ``dense_bytes`` or more if it sends everything.

    Parameters
    ----------
    compression : Compression
        Budget, dense steps and warm-up.
    dense_bytes : int
        The model in float32.
    step : int
        From 0.
    """
    if step < compression.dense_steps:
        return dense_bytes
    budget = parse_budget(compression.budget, dense_bytes)
    return float(dense_bytes * (budget / dense_bytes) ** warm_up_exponent(compression, step))


def warm_up_exponent(compression: Compression, step: int) -> float:
    """Return the power of the final compression that a step has: 1 after the warm-up."""
    stage = WARM_UP_STAGES
    since = step - compression.dense_steps
    if since < compression.warm_up_steps:
        stage = since * WARM_UP_STAGES // compression.warm_up_steps
    return (stage + 1) / (WARM_UP_STAGES + 1)
