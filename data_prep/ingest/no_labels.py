"""Scenes that are read without labels, as ``rsdgc predict`` does."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from data_prep.ingest.aligned import Band, RowSource
from data_prep.ingest.grid import Grid
from data_prep.ingest.label_format import LabelFormat, LabelRules
from data_prep.ingest.options import SceneOptions


@dataclass(frozen=True)
class NoLabels(LabelFormat):
    """No label anywhere; files that are called as labels would be are no modality."""

    in_file: ClassVar[bool] = False

    @classmethod
    def recognizes(cls, path: Path) -> bool:  # noqa: ARG003 - nothing
        """Recognize nothing."""
        return False

    @classmethod
    def from_file(cls, path: Path, options: SceneOptions) -> Self:  # noqa: ARG003 - needs none
        """Read nothing."""
        return cls(path)

    def open(
        self, stack: ExitStack, grid: Grid, cols: tuple[int, int], rules: LabelRules
    ) -> RowSource:
        """Return rows without a label."""
        return _Unlabeled(cols[1] - cols[0])


@dataclass(frozen=True)
class _Unlabeled:
    width: int

    def read(self, start: int, stop: int) -> Band:
        shape = (1, stop - start, self.width)
        return np.zeros(shape, np.uint8), np.zeros(shape, np.bool_)
