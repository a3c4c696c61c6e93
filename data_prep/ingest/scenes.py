"""Ingestion of scenes: rasters and their labels, to a store of chips or of pixels."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.ingest.finalize import AssembledScenes, finish_chips, finish_pixels
from data_prep.ingest.job_pool import run_jobs
from data_prep.ingest.job_results import JobResult, join_validity, result_file
from data_prep.ingest.losses import Losses
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.pixel_mode import scene_pixels
from data_prep.ingest.plan import Plan, plan_scenes, stop_if_strict
from data_prep.ingest.progress import Callback
from data_prep.ingest.scene_reader import SceneSource
from data_prep.ingest.sources import sources_of
from data_prep.ingest.work_folder import WorkFolder, work_folder
from data_prep.schema import Skipped
from data_prep.shards import join_shards
from data_prep.store import Store
from rsdgc.errors import DataError


def ingest_scenes(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    processes: int | None = None,
    overwrite: bool = False,
    check_space: bool = True,
    progress: Callback | None = None,
    **options: Any,
) -> Store:
    """Make a store from an archive of scenes with labels.

    After a call that was killed, the same call goes on. Where the store is there already and
    neither files nor options have changed, nothing is done.

    Parameters
    ----------
    src
        The archive, which is only read: a folder, a zip file, or a TOML or CSV description.
    out
        The store to make. It appears complete at the end, or not at all.
    processes
        How many jobs run at a time. Default: one a CPU, and a single one for little work. The
        store does not depend on it.
    overwrite
        Replace another store at ``out``.
    check_space
        Begin only if the disk has room for a sample of every window.
    progress
        Called with what is done, how much is done, and of how much.
    **options
        Fields of :class:`data_prep.ingest.options.SceneOptions`.

    Returns
    -------
    Store
        The new store; ``store.meta.skipped`` lists what was left out.

    Raises
    ------
    DataError
        No scene can be used, scenes differ in modalities, or a label is not in the class list.
    SettingError
        An option is out of range.
    RunError
        The disk is full.
    """
    chosen = SceneOptions(**options)
    plan = plan_scenes(src, chosen)
    sources = sources_of([*plan.paths, *_companions(Path(src), plan.options)], chosen)
    if not sources.made(Path(out)):
        needed = plan.most_disk_bytes if check_space else 0
        with work_folder(out, sources, overwrite=overwrite, needed_bytes=needed) as work:
            _ingest(plan, work, processes, progress)
    return Store.open(out)


def _companions(src: Path, options: SceneOptions) -> list[Path]:
    """Files that are read besides imagery and labels: a description, class lists."""
    root = src.parent if src.is_file() else src
    given = [Path(options.classes)] if isinstance(options.classes, (str, Path)) else []
    given += [Path(text) for text in options.remap]
    beside = [root / name for name in ("classes.json", "archive.json")]
    return [file for file in (src, *beside, *given) if file.is_file()]


def _ingest(plan: Plan, work: WorkFolder, processes: int | None, progress: Callback | None) -> None:
    # two threads: more would wait for each other's interpreter
    results = run_jobs(plan.jobs, work.results, processes=processes, threads=2, progress=progress)
    assembled = _assemble(plan, results, work)
    stop_if_strict(plan.options.strict, assembled.skipped)
    if not assembled.scenes:
        refused = next(item for item in assembled.skipped if item.refused)
        raise DataError(f"no scene can be used: {refused.path}: {refused.reason}")
    if not plan.classes.closed:
        plan.notes.update(_doubtful_codes(plan, assembled))
    finish = finish_chips if plan.options.patch_px is None else finish_pixels
    finish(work.store, plan, assembled)


def _assemble(plan: Plan, results: Mapping[str, JobResult], work: WorkFolder) -> AssembledScenes:
    """Put the results of all usable scenes in order, and move their files to the store.

    A scene of which a job failed, that has no sample, or whose pixels are those of another scene,
    is left out as a whole.
    """
    assembled = AssembledScenes(skipped=list(plan.skipped))
    assembled.sums = [[] for _ in plan.modalities]
    kept: list[JobResult] = []
    by_scene: dict[str, list[JobResult]] = defaultdict(list)
    for job in plan.jobs:
        # jobs of a scene that failed before their turn have none
        if job.key in results:
            by_scene[job.scene].append(results[job.key])
    scene_of_digest: dict[str, str] = {}
    losses = Losses()
    for source in plan.sources:
        name = source.scene.name
        of_scene = by_scene[name]
        if not of_scene:
            continue  # too small for any job, as the plan has noted
        for result in of_scene:
            assembled.left_out.update(result.left_out)
            losses.update(result.losses)
        # an archive that holds a scene twice would put the same ground into train and test
        digest = _digest(of_scene)
        fault = _fault(of_scene, plan, source)
        if not fault and digest in scene_of_digest:
            fault = f"the same pixels as scene {scene_of_digest[digest]}"
        if fault:
            assembled.skipped.append(Skipped(path=name, reason=fault))
            continue
        scene_of_digest[digest] = name
        assembled.scenes.append(source.meta)
        assembled.splits[name] = source.scene.split
        filled = [result for result in of_scene if result.rows]
        _add_samples(assembled, plan, source, filled, sum(result.rows for result in kept))
        kept += filled
    plan.notes.update(losses.notes())
    for i, modality in enumerate(plan.modalities):
        # first, since the files of samples are moved
        layer = join_validity(work.store, work.results, modality.name, i, kept)
        assembled.validity.append(layer)
        files = [(result_file(work.results, result.key, i), result.rows) for result in kept]
        assembled.shards.append(join_shards(work.store, modality.name, files))
    return assembled


def _add_samples(
    assembled: AssembledScenes,
    plan: Plan,
    source: SceneSource,
    results: list[JobResult],
    first_row: int,
) -> None:
    """Add a scene's chips, or in pixel mode its pixels, which begin at a row of the arrays."""
    options = plan.options
    if options.patch_px is not None:
        assembled.pixels.append(scene_pixels(source, results, first_row, options.patch_px // 2))
        return
    for result in results:
        columns = result.columns
        places = source.places(columns["row"], columns["col"], options.chip_px)
        kept = {name: columns[name] for name in ("label", "valid", "hash")}
        assembled.columns.append(places | kept)
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
        lost = sum((result.left_out for result in results), Counter[str]())
        return (
            f"no chip of {plan.options.chip_px} px in {grid.height}×{grid.width} px: no window "
            f"has enough valid and labeled pixels ({lost['no_data']} lack data, see --min-valid "
            f"and --nodata; {lost['no_label']} lack labels, see --min-label and --label-nodata)"
        )
    return ""


def _doubtful_codes(plan: Plan, assembled: AssembledScenes) -> Counter[str]:
    """Return notes on codes that often mark pixels without a label, and number of their scenes.

    They are taken as classes where no list says otherwise: negative codes, and the largest one of
    8 or 16 bits.
    """
    codes_of = [(part["scene"][0], np.unique(part["label"])) for part in assembled.columns]
    codes_of += [(s.source.scene.name, np.unique(s.codes[s.usable])) for s in assembled.pixels]
    largest = {
        source.scene.name: {
            int(np.iinfo(raster.source_dtype).max)
            for raster in source.scene.labels.rasters
            if raster.source_dtype in ("uint8", "uint16")
        }
        for source in plan.sources
    }
    scenes = {
        (int(code), scene)
        for scene, codes in codes_of
        for code in codes
        if (code < 0 or int(code) in largest[scene]) and code not in plan.classes.names
    }
    return Counter(
        f"label {code} is taken as a class: if it marks pixels without a label, use "
        f"--label-nodata {code}"
        for code, _ in sorted(scenes)
    )


def _digest(results: list[JobResult]) -> str:
    """Hash the hashes of a scene's samples: equal for scenes of equal pixels."""
    digest = hashlib.blake2b(digest_size=16)
    for result in results:
        if result.rows:
            digest.update("".join(result.columns["hash"]).encode())
    return digest.hexdigest()
