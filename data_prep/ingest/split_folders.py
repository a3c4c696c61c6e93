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


def mixed_split_note(folders: Iterable[tuple[str, ...]]) -> str:
    """Note folders ``train`` and ``test`` that are no split, because others lie beside them."""
    paths = list(folders)
    if split_level(paths) is not None:
        return ""
    for level in (0, 1):
        names = sorted({path[level] for path in paths if len(path) > level + 1})
        splits = [name for name in names if name.lower() in SPLIT_FOLDERS]
        if len({SPLIT_FOLDERS[name.lower()] for name in splits}) < 2:
            continue
        others = [name for name in names if name not in splits]
        others += ["/".join(path) for path in paths if 0 < len(path) <= level + 1]
        return (
            f"folders {' and '.join(splits)} are not the split, because {others[0]} lies beside "
            "them: to split as they say, move it elsewhere"
        )
    return ""


def without_split(path: tuple[str, ...], level: int | None) -> tuple[tuple[str, ...], str]:
    """Return a path without the folder at the level of :func:`split_level`, and its split.

    Paths that have no such folder stay as they are.
    """
    if level is None or len(path) <= level or path[level].lower() not in SPLIT_FOLDERS:
        return path, ""
    return path[:level] + path[level + 1 :], SPLIT_FOLDERS[path[level].lower()]
