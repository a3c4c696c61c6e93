"""Where windows lie along a side of a scene, and what each says of the pixels.

A chip has one label for all its pixels. Where windows overlap, a pixel's probabilities are the mean
of its windows', weighted by how near it is to their centers: the weight falls linearly from the
center of a window to its edge, in either direction. A patch has the label of its central pixel; it
says nothing of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.ingest.chips import window_starts
from data_prep.ingest.options import ChipRules
from rsdgc.errors import SettingError


@dataclass(frozen=True, eq=False)
class WindowAxis:
    """Windows along one side of a scene of ``length`` pixels."""

    length: int
    side: int
    """Of a window."""
    starts: NDArray[np.int64]
    """First pixels of the windows, rising; those of patches may lie outside of the scene."""
    spans: NDArray[np.int64]
    """First pixel that a window says something of, and the one after the last: [n, 2]."""
    centered: bool

    @classmethod
    def of_chips(cls, length: int, chip_px: int, stride_px: int, step: int) -> WindowAxis:
        """Return chips at a stride; the last one moves back to the edge, to a multiple of a step.

        If the scene is smaller than a chip, there is one, which reaches beyond the edge.

        Raises
        ------
        SettingError
            Pixels would be cut, or would lie between the windows.
        """
        if stride_px > chip_px:
            raise SettingError(
                f"--stride is {stride_px}, and the model's windows are {chip_px} px wide: choose "
                f"{chip_px} or less, so that no pixel lies between them"
            )
        if stride_px % step:
            raise SettingError(
                f"--stride is {stride_px}: choose a multiple of {step}, so that no pixel of the "
                "coarsest modality is cut"
            )
        rules = ChipRules(chip_px, stride_px, 0.0, 0.0, "shift")
        starts = np.array(window_starts(length, rules, step) or [0], np.int64)
        spans = np.stack([starts, np.minimum(starts + chip_px, length)], axis=1)
        spans[-1, 1] = length  # a rest that is smaller than a coarse pixel goes with its neighbors
        return cls(length, chip_px, starts, spans, centered=False)

    @classmethod
    def of_patches(cls, length: int, patch_px: int, stride_px: int) -> WindowAxis:
        """Return patches around every ``stride_px``-th pixel; each stands for those around it."""
        firsts = np.arange(0, length, stride_px)
        lasts = np.minimum(firsts + stride_px, length)
        centers = np.minimum(firsts + stride_px // 2, length - 1)
        spans = np.stack([firsts, lasts], axis=1)
        return cls(length, patch_px, centers - patch_px // 2, spans, centered=True)

    def __len__(self) -> int:
        return len(self.starts)

    def weights(self, number: int) -> NDArray[np.float32]:
        """Return a window's weight at each pixel of its span, in (0, 1]."""
        first, stop = self.spans[number]
        if self.centered:
            return np.ones(stop - first, np.float32)
        return self._tent[np.minimum(np.arange(stop - first), self.side - 1)]

    @property
    def _tent(self) -> NDArray[np.float32]:
        places = (np.arange(self.side) + 0.5) / self.side
        return (1 - np.abs(2 * places - 1) * (1 - 1 / self.side)).astype(np.float32)

    def covering(self, first: int, stop: int) -> range:
        """Return the windows that say something of the pixels from ``first`` up to ``stop``."""
        begin = int(np.searchsorted(self.spans[:, 1], first, side="right"))
        end = int(np.searchsorted(self.spans[:, 0], stop, side="left"))
        return range(begin, end)

    def spread(self, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Blend what windows say, [n, K], along the axis: [K + 1, length].

        The last row has the sum of the weights. Windows that are not valid count nothing.
        """
        rows = np.concatenate([np.where(valid[:, None], values, 0), valid[:, None]], axis=1)
        rows = np.ascontiguousarray(rows.T, np.float32)
        if self.centered:
            return np.repeat(rows, self.spans[:, 1] - self.spans[:, 0], axis=1)
        result = np.zeros((len(rows), self.length), np.float32)
        # Every so-many-th window overlaps with none of the others, so that all of them are added
        # at once. The last one, which was moved, is added alone.
        regular = len(self) - 1
        stride = int(self.starts[1] - self.starts[0]) if regular > 1 else self.side
        groups = -(-self.side // stride)
        tent = self._tent
        for group in range(min(groups, regular)):
            members = np.arange(group, regular, groups)
            pixels = self.starts[members, None] + np.arange(self.side)
            result[:, pixels.ravel()] += (rows[:, members, None] * tent).reshape(len(rows), -1)
        first, stop = self.spans[-1]
        result[:, first:stop] += rows[:, -1:] * self.weights(len(self) - 1)
        return result
