"""Run a comparison, or what is left of it, and write its table, figures and plot.

Every run is a whole simulation in a folder of its own. One that is complete, with the same
settings, is not run again; so a comparison that was interrupted goes on where it stopped, and
one that is asked for more runs only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl_app.compare.table import write_csv, write_markdown
from fl_app.compare.trials import Trial
from fl_app.settings import Settings
from fl_app.simulation import run_simulation
from rsdgc.errors import RunError, SettingError


def compare(
    data: Path,
    out: Path,
    trials: Sequence[Trial],
    common: Mapping[str, Any],
    *,
    cpus_per_site: int = 1,
) -> Path:
    """Run all trials and write ``compare.csv``, ``compare.md`` and ``compare.svg``.

    They are written anew after every run, of the runs that are complete.

    Parameters
    ----------
    data : Path
        Store or partition that all trials train on.
    out : Path
        Folder of the comparison.
    trials : sequence of Trial
        What to run, in this order.
    common : mapping
        Settings of all trials.
    cpus_per_site : int
        CPUs of one site's work.

    Returns
    -------
    Path
        The table in Markdown.

    Raises
    ------
    SettingError
        If a setting is wrong, or a folder holds a run with other settings.
    RunError
        If a run fails, or lost uploads of its sites; the runs before it stand.
    """
    chosen = {trial: _settings(trial, data, out, common) for trial in trials}
    for trial, settings in chosen.items():
        if not _is_done(out / trial.folder, settings):
            print(f"{trial.folder}:", flush=True)  # the log of a run follows
            run_simulation([], settings.to_mapping(), cpus_per_site=cpus_per_site, force=True)
        _check_whole(out / trial.folder)
        _write(out, [done for done in chosen if (out / done.folder / "summary.json").exists()])
    return out / "compare.md"


def _settings(trial: Trial, data: Path, out: Path, common: Mapping[str, Any]) -> Settings:
    places = {"data-dir": str(data), "out": str(out / trial.folder)}
    return Settings.from_mapping({**common, **trial.settings, **places})


def _is_done(folder: Path, settings: Settings) -> bool:
    if not (folder / "summary.json").exists():
        return False
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = settings.to_mapping()
    elsewhere = {"data-dir", "out", "state-dir", "min-sites"}  # set for each run
    other = [key for key in wanted.keys() - elsewhere if found.get(key) != wanted[key]]
    if other:
        key = min(other)
        raise SettingError(
            f"{folder} holds a run with {key}={found.get(key)!r} instead of {wanted[key]!r}; "
            "choose another --out, or remove that folder"
        )
    return True


def _check_whole(folder: Path) -> None:
    """Refuse a run that was trained on less than it should have been."""
    refused: dict[str, int] = _summary(folder)["refused"]
    if refused:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in refused.items())
        raise RunError(
            f"{folder} lost {sum(refused.values())} uploads and cannot be compared: {reasons}; "
            "remove that folder and start the comparison again"
        )


def _write(out: Path, trials: Sequence[Trial]) -> None:
    from fl_app.compare.plot import write_plot  # noqa: PLC0415  # matplotlib takes a second

    rows = [(trial, _summary(out / trial.folder)) for trial in trials]
    write_csv(out / "compare.csv", rows)
    write_markdown(out / "compare.md", rows)
    write_plot(out / "compare.svg", rows)


def _summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    found["history"] = [json.loads(line)["accuracy"] for line in lines]
    return found
