"""Ingestion: folders of imagery to stores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.ingest.class_folders import ingest_class_folders
    from data_prep.ingest.scene_options import SceneOptions
    from data_prep.ingest.scenes import ingest_scenes

__all__ = ["SceneOptions", "ingest_class_folders", "ingest_scenes"]

_HOMES = {
    "SceneOptions": "scene_options",
    "ingest_class_folders": "class_folders",
    "ingest_scenes": "scenes",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a process that does one job needs a part of this package only."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
