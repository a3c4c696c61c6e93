"""Folders ``train``, ``val`` and ``test`` above class folders or scenes, which are a split."""

from __future__ import annotations

from collections.abc import Iterable

#: Split by the name of a folder, in lower case.
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_level(folders: Iterable[tuple[str, ...]]) -> int | None:
    """Return at which level of some paths folders are splits: 0, 1 (below sites) or None.

    They are a split if all folders of that level are, at least two of them, and other folders
    lie in them.
    """
    paths = list(folders)
    for level in (0, 1):
        names = {path[level].lower() if len(path) > level + 1 else "" for path in paths}
        splits = {SPLIT_FOLDERS.get(name, "") for name in names}
        if "" not in splits and len(splits) > 1:
            return level
    return None


def without_split(path: tuple[str, ...], level: int | None) -> tuple[tuple[str, ...], str]:
    """Return a path without the folder at the level of :func:`split_level`, and its split.

    Paths that have no such folder stay as they are.
    """
    if level is None or len(path) <= level or path[level].lower() not in SPLIT_FOLDERS:
        return path, ""
    return path[:level] + path[level + 1 :], SPLIT_FOLDERS[path[level].lower()]
