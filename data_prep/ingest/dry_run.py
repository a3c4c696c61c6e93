"""What an ingestion would make, of what, and how large: from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.ingest.image_discovery import common_side, plan_images
from data_prep.ingest.options import ImageOptions, SceneOptions
from data_prep.ingest.plan import note_lines, plan_scenes

if TYPE_CHECKING:
    import os

    from data_prep.schema import Skipped

#: Rows of a table that are printed; the dict holds all.
SHOWN = 20


def plan_facts(src: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Describe what :func:`data_prep.ingest.scenes.ingest_scenes` would do, without reading pixels.

    Returns
    -------
    dict
        ``source``, ``scenes``, ``modalities``, ``classes`` (as far as a list or names say),
        ``most_samples`` and ``most_bytes`` (if every window has data and labels), ``read_bytes``,
        ``skipped``, ``notes``.

    Raises
    ------
    DataError, SettingError
        As the ingestion itself.
    """
    plan = plan_scenes(src, SceneOptions(**options))
    windows = {source.scene.name: 0 for source in plan.sources}
    for job in plan.jobs:
        windows[job.scene] += job.windows
    return {
        "source": str(plan.archive.src),
        "scenes": [
            {
                "name": source.scene.name,
                "folder": source.scene.folder,
                "date": source.scene.date,
                "size": [source.grid.height, source.grid.width],
                "crs": source.grid.crs_text,
                "labels": str(source.scene.labels.path),
                "windows": windows[source.scene.name],
            }
            for source in plan.sources
        ],
        "modalities": [
            {
                "name": m.name,
                "bands": m.bands,
                "dtype": m.dtype,
                "nodata": m.nodata,
                "resolution": m.resolution,
                "factor": m.factor,
            }
            for m in plan.modalities
        ],
        "classes": {str(code): name for code, name in plan.classes.names.items()},
        "most_samples": plan.most_samples,
        "most_bytes": plan.most_bytes,
        "read_bytes": sum(job.bytes for job in plan.jobs),
        "skipped": _skipped(plan.skipped),
        "notes": note_lines(plan.notes),
    }


def plan_image_facts(src: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Describe what :func:`data_prep.ingest.class_folders.ingest_class_folders` would do.

    Returns
    -------
    dict
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
        "most_bytes": len(listed.images) * first.bands * side**2 * item,
        "read_bytes": sum(i.file.height * i.file.width * first.bands for i in listed.images) * item,
        "skipped": _skipped(listed.skipped),
        "notes": [f"chips of {side} px from images of {common} px"],
    }


def _skipped(skipped: Sequence[Skipped]) -> list[dict[str, Any]]:
    return [item.model_dump() for item in skipped]


def print_plan(facts: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`plan_facts` or :func:`plan_image_facts` returned."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=200)
    if "scenes" in facts:
        console.print(_scene_table(facts["scenes"]))
    else:
        table = Table("class", "images")
        for name, count in facts["images"].items():
            table.add_row(name, str(count))
        console.print(table)
    table = Table("modality", "bands", "type", "nodata", "resolution", "of the grid")
    for modality in facts["modalities"]:
        nodata = "" if modality["nodata"] is None else f"{modality['nodata']:g}"
        bands = modality["bands"]
        shown = ", ".join(bands[:13]) + (f" … {len(bands)} in all" if len(bands) > 13 else "")
        place = f"1/{modality['factor']}" if modality["factor"] > 1 else "1"
        table.add_row(
            modality["name"],
            shown,
            modality["dtype"],
            nodata,
            f"{modality['resolution']:.6g}",
            place,
        )
    console.print(table)
    for title, lines in (
        ("note", facts["notes"]),
        ("skipped", [f"{item['path']}: {item['reason']}" for item in facts["skipped"]]),
    ):
        for line in lines[:SHOWN]:
            console.print(f"{title}: {line}", highlight=False, markup=False, soft_wrap=True)
        if len(lines) > SHOWN:
            console.print(f"{title}: {len(lines) - SHOWN} more", highlight=False)
    names = list(facts["classes"].values())
    if names:
        console.print(f"classes: {', '.join(names)}", highlight=False, markup=False)
    console.print(
        f"dry run: at most {facts['most_samples']} samples, {facts['most_bytes'] / 1e6:.1f} MB, "
        f"from {facts['read_bytes'] / 1e6:.1f} MB of pixels; nothing was written",
        highlight=False,
    )


def _scene_table(scenes: Sequence[dict[str, Any]]) -> Table:
    table = Table("scene", "size", "CRS", "date", "labels", "windows")
    for scene in scenes[:SHOWN]:
        height, width = scene["size"]
        label = scene["labels"].rsplit("/", 1)[-1]
        crs = scene["crs"] if len(scene["crs"]) < 20 else "its own"
        table.add_row(
            scene["name"], f"{height}×{width}", crs, scene["date"], label, str(scene["windows"])
        )
    if len(scenes) > SHOWN:
        table.add_row("…", f"{len(scenes) - SHOWN} more")
    return table
