"""Write the report of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fl_app.report.imagery import show_imagery
from fl_app.report.page import render
from fl_app.runs.records import read_run
from rsdgc.durable import replace_text
from rsdgc.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "report.html"


def write_report(run_dir: Path, data: Path | None = None) -> Path:
    """Write ``report.html`` into a run folder, replacing an older one at once.

    Parameters
    ----------
    run_dir : Path
        A run folder with ``config.json``, ``history.jsonl``, ``rounds.jsonl`` and
        ``summary.json``; ``model.safetensors`` is needed for pictures only.
    data : Path or None
        Store or partition for the pictures; None for the one that the run was trained on. Where
        it is not on this machine the report says so and is complete otherwise.

    Returns
    -------
    Path
        The report: one file, which fetches nothing.

    Raises
    ------
    RunError
        A file is missing or damaged, or the report cannot be written.
    """
    run = read_run(run_dir)
    text = render(run, show_imagery(run, data))
    path = run_dir / FILE_NAME
    try:
        replace_text(path, text)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from None
    return path
