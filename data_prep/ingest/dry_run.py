"""What an ingestion would make, of what, and how large: from headers alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from data_prep.ingest.image_discovery import common_side, plan_images
from data_prep.ingest.options import ImageOptions, SceneOptions
from data_prep.ingest.plan import note_lines, plan_scenes
from data_prep.ingest.scene import ModalityFiles
from data_prep.terminal_table import Column, print_table, terminal

#: Rows of a table that are printed; the dict holds all.
SHOWN = 20


def plan_facts(src: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Describe what :func:`data_prep.ingest.scenes.ingest_scenes` would do, without reading pixels.

    ``classes`` are there as far as a list or names say, and ``most_samples`` and ``most_bytes`` if
    every window has data and labels. Errors are those of the ingestion itself.
    """
    plan = plan_scenes(src, SceneOptions(**options))
    windows: Counter[str] = Counter()
    for job in plan.jobs:
        windows[job.scene] += job.windows
    shown = {"name", "bands", "dtype", "nodata", "resolution", "factor"}
    return {
        "source": str(plan.archive.src),
        "patterns": list(plan.options.patterns),
        "scenes": [
            {
                "name": source.scene.name,
                "folder": source.scene.folder,
                "date": source.scene.date,
                "size": [source.grid.height, source.grid.width],
                "crs": source.grid.crs_text,
                "labels": str(source.scene.labels.path),
                "windows": windows[source.scene.name],
                "files": {m.name: _file_names(m) for m in source.scene.modalities},
            }
            for source in plan.sources
        ],
        "modalities": [modality.model_dump(include=shown) for modality in plan.modalities],
        "classes": {str(code): name for code, name in plan.classes.names.items()},
        "most_samples": plan.most_samples,
        "most_bytes": plan.most_bytes,
        "most_disk_bytes": plan.most_disk_bytes,
        "read_bytes": sum(job.bytes for job in plan.jobs),
        "skipped": [item.model_dump() for item in plan.skipped],
        "notes": note_lines(plan.notes),
    }


def _file_names(modality: ModalityFiles) -> list[str]:
    """Name a modality's files, each with its bands where the modality has several files."""
    bands = iter(modality.bands)
    texts = []
    for file in modality.files:
        own = [next(bands) for _ in file.names]
        names = ", ".join(path.name for path in file.pieces or (file.path,))
        texts.append(f"{names} ({', '.join(own)})" if len(own) == 1 else names)
    return texts


def plan_image_facts(src: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Describe what :func:`data_prep.ingest.class_folders.ingest_class_folders` would do.

    As :func:`plan_facts`, with ``images`` by class and without ``scenes``.
    """
    chosen = ImageOptions(**options)
    listed = plan_images(src, chosen)
    first = listed.images[0].file
    common = common_side(listed.images)
    side = chosen.chip_px or common
    counts = np.bincount([i.label for i in listed.images], minlength=len(listed.classes)).tolist()
    item = np.dtype(first.dtype).itemsize
    return {
        "source": str(listed.archive.src),
        "images": dict(zip(listed.classes, counts, strict=True)),
        "modalities": [
            {
                "name": "image",
                "bands": list(first.names),
                "dtype": first.dtype,
                "nodata": first.nodata,
                "resolution": first.resolution,
                "factor": 1,
            }
        ],
        "classes": dict(zip(map(str, listed.codes), listed.classes, strict=True)),
        "most_samples": len(listed.images),
        "most_bytes": listed.most_bytes(side),
        "most_disk_bytes": listed.most_disk_bytes(side),
        "read_bytes": sum(i.file.height * i.file.width * first.bands for i in listed.images) * item,
        "skipped": [item.model_dump() for item in listed.skipped],
        "notes": [*listed.notes, f"chips of {side} px from images of {common} px"],
    }


def print_plan(facts: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`plan_facts` or :func:`plan_image_facts` returned."""
    console = console or terminal()
    if "scenes" in facts:
        _print_scenes(facts["scenes"], console)
    else:
        rows = [[name, str(count)] for name, count in facts["images"].items()]
        print_table([Column("class"), Column("images", number=True)], rows, console=console)
    rows = []
    for modality in facts["modalities"]:
        nodata = "" if modality["nodata"] is None else f"{modality['nodata']:g}"
        bands = modality["bands"]
        # 13 bands, as Sentinel-2 has, fit a line; hyperspectral sensors have hundreds
        shown = ", ".join(bands[:13]) + (f" … {len(bands)} in all" if len(bands) > 13 else "")
        place = f"1/{modality['factor']}" if modality["factor"] > 1 else "1"
        size = f"{modality['resolution']:.6g}"
        rows.append([modality["name"], shown, modality["dtype"], nodata, size, place])
    columns = [Column(title) for title in ("modality", "bands", "type")]
    columns += [Column(title, number=True) for title in ("nodata", "resolution", "of the grid")]
    print_table(columns, rows, console=console)
    # names of classes and files may contain brackets, which are not markup
    show = partial(console.print, highlight=False, markup=False)
    skipped = [f"{item['path']}: {item['reason']}" for item in facts["skipped"]]
    matched = [
        f"{scene['name']}: {modality} = {', '.join(names)}"
        for scene in (facts["scenes"] if facts.get("patterns") else ())
        for modality, names in scene["files"].items()
    ]
    for title, lines in (("matched", matched), ("note", facts["notes"]), ("skipped", skipped)):
        for line in lines[:SHOWN]:
            show(f"{title}: {line}", soft_wrap=True)
        if len(lines) > SHOWN:
            show(f"{title}: {len(lines) - SHOWN} more")
    disk = f" (while it is made, at most {facts['most_disk_bytes'] / 1e6:.1f} MB)"
    if names := facts["classes"].values():
        show(f"classes: {', '.join(names)}")
    show(
        f"dry run: at most {facts['most_samples']} samples, {facts['most_bytes'] / 1e6:.1f} MB"
        f"{disk}, from {facts['read_bytes'] / 1e6:.1f} MB of pixels; nothing was written"
    )


def _print_scenes(scenes: Sequence[dict[str, Any]], console: Console) -> None:
    rows = []
    for scene in scenes[:SHOWN]:
        height, width = scene["size"]
        label = scene["labels"].rsplit("/", 1)[-1]
        crs = scene["crs"] if len(scene["crs"]) < 20 else "its own"
        size, windows = f"{height}×{width}", str(scene["windows"])
        rows.append([scene["name"], size, crs, scene["date"], label, windows])
    if len(scenes) > SHOWN:
        rows.append(["…", f"{len(scenes) - SHOWN} more", "", "", "", ""])
    numbers = ("size", "date", "windows")
    titles = ("scene", "size", "CRS", "date", "labels", "windows")
    columns = [Column(title, number=title in numbers) for title in titles]
    print_table(columns, rows, console=console)
