"""The contract of a label format: what ingestion asks of a file of labels, whatever its kind.

To read labels of another kind, write a class with three methods and name it by its place, or
register it in :data:`data_prep.ingest.labels.LABEL_FORMATS`::

    @dataclass(frozen=True)
    class PointLabels(LabelFormat):                      # in my_package/points.py
        @classmethod
        def recognizes(cls, path): ...                   # by the file's name
        @classmethod
        def from_file(cls, path, options): ...           # read the header, or refuse the file
        def open(self, stack, grid, cols, rules): ...    # codes on the grid, in bands of rows

    rsdgc ingest SRC --label-format my_package.points:PointLabels

Discovery asks the formats which of them recognizes a file, planning asks for the class list and
the checks, and the scene reader asks for codes. Jobs carry the object to worker processes by
pickling, so the class must be importable there; it holds what the header says, and no open file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from data_prep.ingest.aligned import RowSource
from data_prep.ingest.class_list import ClassList
from data_prep.ingest.grid import Grid
from data_prep.ingest.options import SceneOptions
from data_prep.rasters import RasterFile

#: Rows of labels that are made at once where the file has no blocks of its own. More rows repeat
#: less work at the seams of two reads; at 512 the codes (int32) of 10,000 columns take 20 MB.
LABEL_ROWS = 512


@dataclass(frozen=True)
class LabelRules:
    """What labels mean in a store."""

    classes: ClassList
    priority: tuple[int, ...] = ()  #: codes by falling priority, for labels that can overlap
    #: Shapes take every pixel that they touch, not only those whose center they hold.
    all_touched: bool = False


@dataclass(frozen=True)
class LabelFormat(ABC):
    """A file of labels of one scene, or of several."""

    path: Path

    #: Whether there is a file to look for; a format without one takes the name that it would have.
    in_file: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def recognizes(cls, path: Path) -> bool:
        """Tell by its name whether a file may hold labels of this format."""

    @classmethod
    def suits(cls, options: SceneOptions) -> bool:  # noqa: ARG003 - for subclasses
        """Tell whether this format comes first where labels are there in several formats."""
        return False

    @classmethod
    @abstractmethod
    def from_file(cls, path: Path, options: SceneOptions) -> Self:
        """Read the header of a file.

        Raises
        ------
        DataError
            The file does not hold labels of this format, or an option that it needs is missing.
            The scene is then left out, with this reason.
        """

    @classmethod
    def implied_classes(
        cls,
        files: Sequence[Self],  # noqa: ARG003 - for subclasses
        *,
        pixels: bool,
    ) -> ClassList:
        """Return the class list that files imply where none is given.

        Parameters
        ----------
        files
            The labels of all scenes; a file may occur more than once.
        pixels
            Pixel mode, where code 0 means unlabeled unless a name says otherwise.

        Returns
        -------
        ClassList
            By default without names: the classes are the codes that occur.
        """
        return ClassList({}, closed=False, zero_is_unlabeled=pixels)

    @property
    def rasters(self) -> tuple[RasterFile, ...]:
        """Rasters that hold the labels: they are checked against the grid like all others."""
        return ()

    def check(self, grid: Grid, rules: LabelRules) -> list[str]:
        """Check the labels against a scene's grid before pixels are read.

        Returns
        -------
        list of str
            Notes for ``meta.json``, such as on overlaps.

        Raises
        ------
        UnknownLabelError
            A class is not in the class list; the ingestion ends.
        DataError
            The labels do not fit the scene, which is left out with this reason.
        """
        return []

    def resampling(self, grid: Grid) -> str:
        """Say how labels in a raster are brought to a grid: ``nearest`` or ``mode``."""
        return "nearest"

    @classmethod
    def outside_notes(
        cls,
        placed: Sequence[tuple[Self, Grid]],  # noqa: ARG003 - for subclasses
    ) -> list[str]:
        """Note what of the labels lies in no scene, given those of each scene and its grid."""
        return []

    def row_step(self, width: int, unit: int) -> int:
        """Rows of ``width`` pixels to read at once, where a call asks for ``unit`` of them."""
        return LABEL_ROWS

    @abstractmethod
    def open(
        self, stack: ExitStack, grid: Grid, cols: tuple[int, int], rules: LabelRules
    ) -> RowSource:
        """Open the labels on a scene's grid.

        Parameters
        ----------
        stack
            Keeps files open for as long as they are read.
        grid
            Pixels of the scene.
        cols
            First column and the one after the last.
        rules
            What labels mean.

        Returns
        -------
        RowSource
            ``read(start, stop)`` returns codes [1, stop − start, columns] in whole numbers (also
            as floats) and a mask bool of that shape of the pixels that have a code, or None where
            all have. Calls come from top to bottom.
        """
