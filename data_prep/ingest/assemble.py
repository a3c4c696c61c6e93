"""What the jobs of all scenes returned, put together in the order of the store."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
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
        Scenes that have samples, what was left out and why, and how many windows were.
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
    left_out: Counter[str] = field(default_factory=lambda: Counter(no_data=0, no_label=0))
    splits: dict[str, str] = field(default_factory=dict)
    pixels: list[PixelScene] = field(default_factory=list)


def assemble(
    plan: Plan, results: Mapping[str, JobResult], folder: Path, store: Path
) -> AssembledScenes:
    """Order the results of all usable scenes, and move their files to the store.

    A scene of which a job failed, that has no sample, or whose pixels are those of another scene,
    is left out as a whole.

    Parameters
    ----------
    plan
        The scenes and their jobs, in the order of the store.
    results
        Results by the jobs' keys; some of a scene that failed may be missing.
    folder, store
        Where the jobs' files lie, and where the store is made.
    """
    assembled = AssembledScenes(skipped=list(plan.skipped))
    assembled.sums = [[] for _ in plan.modalities]
    files: list[list[tuple[Path, int]]] = [[] for _ in plan.modalities]
    keys: dict[str, list[str]] = defaultdict(list)
    for job in plan.jobs:
        keys[job.scene].append(job.key)
    scene_of_digest: dict[str, str] = {}
    for source in plan.sources:
        name = source.scene.name
        if name not in keys:
            continue
        of_scene = [results[key] for key in keys[name] if key in results]
        for result in of_scene:
            assembled.left_out.update(result.left_out)
        # an archive that holds a scene twice would put the same ground into train and test
        digest = _digest(of_scene)
        fault = _fault(of_scene, plan, source)
        if not fault and digest in scene_of_digest:
            fault = f"the same pixels as scene {scene_of_digest[digest]}"
        if fault:
            assembled.skipped.append(Skipped(path=name, reason=fault))
            continue
        scene_of_digest[digest] = name
        assembled.scenes.append(scene_meta(source))
        assembled.splits[name] = source.scene.split
        filled = [result for result in of_scene if result.rows]
        first_row = sum(rows for _, rows in files[0])
        _add_samples(assembled, plan, source, filled, first_row)
        for i, of_modality in enumerate(files):
            of_modality += [(result_file(folder, r.key, i), r.rows) for r in filled]
    assembled.shards = [
        join_shards(store, modality.name, of_modality)
        for modality, of_modality in zip(plan.modalities, files, strict=True)
    ]
    return assembled


def _add_samples(
    assembled: AssembledScenes,
    plan: Plan,
    source: SceneSource,
    results: list[JobResult],
    first_row: int,
) -> None:
    """Add a scene's chips, or in pixel mode its pixels, which begin at a row of the arrays."""
    if plan.options.patch_px is not None:
        radius = plan.options.patch_px // 2
        assembled.pixels.append(scene_pixels(source, results, first_row, radius))
        return
    for result in results:
        columns = result.columns
        places = place_columns(
            source.scene, source.grid, columns["row"], columns["col"], plan.options.chip_px
        )
        assembled.columns.append(
            places | {name: columns[name] for name in ("label", "valid", "hash")}
        )
        for of_modality, sums in zip(assembled.sums, result.sums, strict=True):
            of_modality.append(sums)


def _fault(results: list[JobResult], plan: Plan, source: SceneSource) -> str:
    """Say why a scene cannot be used; empty if it can."""
    errors = [result.error for result in results if result.error]
    if errors:
        return errors[0]
    if plan.options.patch_px is not None:
        if not any(result.columns["usable"].any() for result in results):
            return "no pixel is labeled and valid"
    elif not any(result.rows for result in results):
        grid = source.grid
        return (
            f"no chip of {plan.options.chip_px} px in {grid.height}×{grid.width} px: no window "
            "has enough valid and labeled pixels"
        )
    return ""


def _digest(results: list[JobResult]) -> str:
    """Hash the hashes of a scene's samples: equal for scenes of equal pixels."""
    digest = hashlib.blake2b(digest_size=16)
    for result in results:
        if result.rows:
            digest.update("".join(result.columns["hash"]).encode())
    return digest.hexdigest()
