"""Ingestion of scenes: rasters and their labels, to a store of chips or of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.ingest.assemble import assemble
from data_prep.ingest.finalize import finish_chips, finish_pixels
from data_prep.ingest.job_pool import run_jobs
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.plan import Plan, plan_scenes, stop_if_strict
from data_prep.ingest.progress import Callback, reporting
from data_prep.ingest.sources import sources_of
from data_prep.ingest.work_folder import WorkFolder, work_folder
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
    """
    chosen = SceneOptions(**options)
    plan = plan_scenes(src, chosen)
    sources = sources_of([*plan.paths, *_companions(Path(src), chosen)], chosen)
    if not sources.made(Path(out)):
        with work_folder(out, sources, overwrite=overwrite) as work:
            _ingest(plan, work, processes, progress)
    return Store.open(out)


def _companions(src: Path, options: SceneOptions) -> list[Path]:
    """Files that are read besides imagery and labels: a description, class lists."""
    root = src.parent if src.is_file() else src
    given = [Path(options.classes)] if isinstance(options.classes, (str, Path)) else []
    beside = [root / name for name in ("classes.json", "archive.json")]
    return [file for file in (src, *beside, *given) if file.is_file()]


def _ingest(plan: Plan, work: WorkFolder, processes: int | None, progress: Callback | None) -> None:
    with reporting(progress) as report:
        results = run_jobs(plan.jobs, work.results, processes=processes, threads=2, report=report)
    assembled = assemble(plan, results, work.results, work.store)
    stop_if_strict(plan.options.strict, assembled.skipped)
    if not assembled.scenes:
        refused = next(item for item in assembled.skipped if item.refused)
        raise DataError(f"no scene can be used: {refused.path}: {refused.reason}")
    finish = finish_chips if plan.options.patch_px is None else finish_pixels
    finish(work.store, plan, assembled)
