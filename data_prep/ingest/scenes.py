"""Ingestion of scenes: rasters and their labels, to a store of chips or of pixels.

See :func:`ingest_scenes`. What makes a scene is in :mod:`data_prep.ingest.discovery`, what is done
with it in :mod:`data_prep.ingest.plan`, how modalities are brought on one grid in
:mod:`data_prep.ingest.grid` and :mod:`data_prep.ingest.aligned`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.ingest.assemble import AssembledScenes, assemble
from data_prep.ingest.finalize import finish_chips, finish_pixels
from data_prep.ingest.job_pool import run_jobs
from data_prep.ingest.plan import Plan, note_lines, plan_scenes, stop_if_strict
from data_prep.ingest.scene_options import SceneOptions
from data_prep.ingest.sources import sources_of
from data_prep.ingest.work_folder import work_folder
from data_prep.progress import Callback, reporting
from data_prep.staging import check_free
from data_prep.store import Store
from rsdgc.errors import DataError

if TYPE_CHECKING:
    import os


def ingest_scenes(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    processes: int | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> Store:
    """Make a store from an archive of scenes with labels.

    Where a killed call has left off, the same call goes on; where it has been made already, and
    nothing has changed, nothing is done.

    Parameters
    ----------
    src, out
        The archive (a folder, a zip file, or a TOML or CSV description), which is only read, and
        the store to make. The store appears whole at the end, or not at all.
    processes
        Default: one a CPU, and a single one for little work. The store does not depend on it.
    overwrite
        Replace another store at ``out``.
    progress
        Called with what is done, how much is done, and of how much.
    **options
        Fields of :class:`data_prep.ingest.scene_options.SceneOptions`.

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
    """
    chosen = SceneOptions(**options)
    plan = plan_scenes(src, chosen)
    sources = sources_of([*plan.paths, *_described_by(src, chosen)], chosen)
    if sources.made(Path(out)):
        return Store.open(out)
    check_free(Path(out).absolute(), overwrite=overwrite)
    with work_folder(out, sources.key, overwrite=overwrite) as work, sources.hashing() as hashed:
        _ingest(plan, work.parts, work.store, processes, progress)
        hashed.result().write(work.store)
    return Store.open(out)


def _described_by(src: str | os.PathLike[str], options: SceneOptions) -> list[Path]:
    """Files that are read besides imagery and labels: a description, class lists."""
    path = Path(src)
    home = path.parent if path.is_file() else path
    given = [Path(options.classes)] if isinstance(options.classes, (str, Path)) else []
    beside = [home / name for name in ("classes.json", "archive.json")]
    return [file for file in (path, *beside, *given) if file.is_file()]


def _ingest(
    plan: Plan, parts: Path, store: Path, processes: int | None, progress: Callback | None
) -> None:
    with reporting(progress, unit="bytes") as report:
        made = run_jobs(plan.jobs, parts, processes=processes, threads=2, report=report)
    harvest = assemble(plan, made, parts, store)
    stop_if_strict(plan.options.strict, harvest.skipped)
    if not harvest.scenes:
        reasons = [item for item in harvest.skipped if item.refused]
        raise DataError(f"no scene can be used: {reasons[0].path}: {reasons[0].reason}")
    facts = about(plan, harvest)
    finish = finish_chips if plan.options.patch_px is None else finish_pixels
    finish(store, harvest, plan.classes, plan.options, facts, plan.modalities)


def about(plan: Plan, harvest: AssembledScenes) -> dict[str, Any]:
    """Fields of ``meta.json`` that say where a store comes from."""
    options = plan.options
    synthetic = options.synthetic
    return {
        "name": options.name or plan.archive.name,
        "source": f"{len(plan.sources)} scene(s) of {plan.archive.name}",
        "synthetic": plan.archive.is_synthetic() if synthetic is None else synthetic,
        "scenes": harvest.scenes,
        "skipped": harvest.skipped,
        "notes": note_lines(plan.notes),
        "left_out": harvest.left_out,
    }
