"""What the jobs of all scenes have given, put together in the order of the store."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data_prep.ingest.job_results import JobResult, result_file
from data_prep.ingest.pixel_mode import PixelScene, scene_pixels
from data_prep.ingest.plan import scene_meta
from data_prep.ingest.scene import place_columns
from data_prep.schema import SceneMeta, ShardMeta, Skipped
from data_prep.shards import join_shards
from data_prep.statistics import ChipSums

if TYPE_CHECKING:
    from pathlib import Path

    from data_prep.ingest.plan import Plan
    from data_prep.ingest.scene_reader import SceneSource
    from data_prep.manifest import Columns


@dataclass
class AssembledScenes:
    """Samples of the scenes that can be used, and what is known of the others.

    Attributes
    ----------
    columns
        Parts of the manifest, in order: all columns but chip, split and block; ``label`` is the
        code.
    sums, shards
        By modality: the chips' sums, part by part, and the files.
    scenes, skipped, left_out
        Scenes that gave samples, what was left out and why, and windows that were.
    splits
        Split that a scene was given, by its name.
    pixels
        Labels of the scenes in pixel mode, which has no columns and no sums yet.
    """

    columns: list[Columns] = field(default_factory=list)
    sums: list[list[ChipSums]] = field(default_factory=list)
    shards: list[list[ShardMeta]] = field(default_factory=list)
    scenes: list[SceneMeta] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=lambda: {"no_data": 0, "no_label": 0})
    splits: dict[str, str] = field(default_factory=dict)
    pixels: list[PixelScene] = field(default_factory=list)


def assemble(
    plan: Plan, made: Mapping[str, JobResult], parts: Path, store: Path
) -> AssembledScenes:
    """Put the parts of all usable scenes in order, and their files to the store.

    A scene of which a part failed, that has no sample, or whose pixels are those of another scene,
    is left out as a whole.
    """
    harvest = AssembledScenes(skipped=list(plan.skipped))
    harvest.sums = [[] for _ in plan.modalities]
    files: list[list[tuple[Path, int]]] = [[] for _ in plan.modalities]
    keys: dict[str, list[str]] = defaultdict(list)
    for job in plan.jobs:
        keys[job.scene].append(job.key)
    seen: dict[str, str] = {}
    for source in plan.sources:
        name = source.scene.name
        if name not in keys:
            continue
        of_scene = [made[key] for key in keys[name] if key in made]
        for part in of_scene:
            for reason, count in part.left_out.items():
                harvest.left_out[reason] = harvest.left_out.get(reason, 0) + count
        fault = _fault(of_scene, seen, plan, source)
        if fault:
            harvest.skipped.append(Skipped(path=name, reason=fault))
            continue
        seen[_digest(of_scene)] = name
        harvest.scenes.append(scene_meta(source))
        harvest.splits[name] = source.scene.split
        used = [part for part in of_scene if part.rows]
        _take(harvest, plan, source, used, sum(rows for _, rows in files[0]))
        for i, some in enumerate(files):
            some += [(result_file(parts, part.key, i), part.rows) for part in used]
    harvest.shards = [
        join_shards(store, modality.name, some)
        for modality, some in zip(plan.modalities, files, strict=True)
    ]
    return harvest


def _take(
    harvest: AssembledScenes, plan: Plan, source: SceneSource, used: list[JobResult], start: int
) -> None:
    """Take a scene's samples in; in pixel mode its pixels, which begin at row ``start``."""
    if plan.options.patch_px is not None:
        harvest.pixels.append(scene_pixels(source, used, start, plan.options.patch_px // 2))
        return
    for part in used:
        harvest.columns.append(_with_places(source, part, plan.options.chip_px))
        for i, sums in enumerate(part.sums):
            harvest.sums[i].append(sums)


def _fault(
    of_scene: list[JobResult], seen: Mapping[str, str], plan: Plan, source: SceneSource
) -> str:
    """Say why a scene cannot be used; empty if it can."""
    errors = [part.error for part in of_scene if part.error]
    if errors:
        return errors[0]
    if plan.options.patch_px is not None:
        if not any(part.columns["usable"].any() for part in of_scene):
            return "no pixel is labelled and valid"
    elif not any(part.rows for part in of_scene):
        grid = source.grid
        return (
            f"no chip of {plan.options.chip_px} px in {grid.height}×{grid.width} px: no window "
            "has enough valid and labelled pixels"
        )
    twin = seen.get(_digest(of_scene))
    return f"the same pixels as scene {twin}" if twin else ""


def _digest(of_scene: list[JobResult]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in of_scene:
        if part.rows:
            digest.update("".join(part.columns["hash"]).encode())
    return digest.hexdigest()


def _with_places(source: SceneSource, part: JobResult, side: int) -> Columns:
    columns = part.columns
    places = place_columns(source.scene, source.grid, columns["row"], columns["col"], side)
    return places | {name: columns[name] for name in ("label", "valid", "hash")}
