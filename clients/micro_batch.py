"""The answer to a GPU that runs out of memory: fewer chips at once, and gradients that add up."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from clients.loader import Chips
from rsdgc.errors import RunError

Result = TypeVar("Result")
Part = tuple[Chips, Tensor]
"""Chips and labels of a part of a batch."""

_log = logging.getLogger(__name__)


class MicroBatch:
    """How many chips go through a model at once: as many as the device's memory has let pass.

    Parameters
    ----------
    chips : int, optional
        Most chips at once, to begin with; None for whole batches.
    more_memory : str
        What gives this process more memory, such as "raise gpu-share, ", for the error.
    """

    def __init__(self, chips: int | None = None, more_memory: str = "") -> None:
        self.chips = chips
        self._more_memory = more_memory

    def run(self, work: Callable[[list[Part]], Result], chips: Chips, y: Tensor) -> Result:
        """Call ``work`` with the parts of a batch, again with smaller ones while memory runs out.

        Raises
        ------
        RunError
            Memory runs out with one chip at once.
        """
        while True:
            at_once = min(len(y), self.chips or len(y))
            try:
                return work(_split(chips, y, math.ceil(len(y) / at_once)))
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            # Only here: the error's traceback held the tensors of the failed try.
            if y.device.type == "cuda":
                torch.cuda.empty_cache()
            if at_once == 1:
                raise RunError(
                    f"{y.device} has no memory for one chip at once: {self._more_memory}choose a "
                    "smaller model or smaller chips, or set device to 'cpu'"
                )
            self.chips = at_once // 2
            _log.warning(
                "%s has no memory for %d chips at once: going on with %d at once",
                y.device,
                at_once,
                self.chips,
            )

    @contextmanager
    def explaining(self, device: torch.device) -> Iterator[None]:
        """Turn a lack of memory that smaller parts of a batch cannot help into :class:`RunError`.

        Such as for the state of the optimizer, which it makes in its first step, and for the chips
        of a whole batch before they are divided.
        """
        try:
            yield
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise RunError(
                f"{device} has no memory for a batch of chips and the state of the optimizer: "
                f"{self._more_memory}lower batch-size, choose a smaller model, or set device to "
                "'cpu'"
            ) from error


@dataclass(frozen=True)
class MicroBatches:
    """What a process has learned of its device's memory, for a model and its chips."""

    train: MicroBatch = field(default_factory=MicroBatch)
    score: MicroBatch = field(default_factory=MicroBatch)


def _split(chips: Chips, y: Tensor, count: int) -> list[Part]:
    """Divide a batch into parts of nearly the same number of chips."""
    if count == 1:
        return [(chips, y)]
    inputs = [[None] * count if x is None else x.tensor_split(count) for x in chips]
    return [
        ([parts[index] for parts in inputs], labels)
        for index, labels in enumerate(y.tensor_split(count))
    ]


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out; libraries such as cuDNN report it in words of their own."""
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)
