"""Names to choose from in preparing data, for the functions that take them and the command line.

Only the standard library is imported here, so that ``rsdgc --help`` is quick.
"""

from __future__ import annotations

from enum import StrEnum


class Layout(StrEnum):
    """How imagery lies in a folder."""

    CLASS_FOLDERS = "class-folders"
    SCENES = "scenes"


class PartitionScheme(StrEnum):
    """How the samples of a store are divided over sites."""

    IID = "iid"
    DIRICHLET = "dirichlet"
    CLASSES = "classes"
    SCENE = "scene"
    BLOCK = "block"
    FOLDER = "folder"


class Edge(StrEnum):
    """What happens to ground at the right and lower edge that no whole window covers."""

    DROP = "drop"
    PAD = "pad"
    SHIFT = "shift"


class SplitBy(StrEnum):
    """What goes into one split as a whole."""

    BLOCKS = "blocks"
    SCENE = "scene"
    DATE = "date"
    GIVEN = "given"


class Unknown(StrEnum):
    """What happens to a label outside a given class list."""

    ERROR = "error"
    IGNORE = "ignore"
