"""Ingestion: folders of imagery to stores."""

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.scenes import ingest_scenes

__all__ = ["SceneOptions", "ingest_class_folders", "ingest_scenes"]
