"""Run several methods on the same data, seeds and rounds, and compare them.

Every run (:mod:`~fl_app.compare.trials` lists them) is a whole simulation in a folder of its own. A
run that is complete, with the same settings, is not repeated: a comparison that was interrupted
continues where it stopped, and one with more methods, budgets or seeds than before runs only the
new ones. A method that changes the server momentum of those before it is refused with a remedy.
:mod:`~fl_app.compare.results` writes their figures as a CSV file, a table and a plot,
:mod:`~fl_app.compare.compare_page` as a page with curves and paired tests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.dataset import open_data
from fl_app.compare.compare_page import write_page
from fl_app.compare.method_pairs import SharedChips
from fl_app.compare.pace import Pace
from fl_app.compare.results import read_rows, write_results
from fl_app.compare.trials import (
    Trial,
    check_common,
    left_out,
    trials_of,
    with_common,
    with_equal_momentum,
)
from fl_app.interruption import explain_interruption
from fl_app.runs.records import SUMMARY_FILE, RunConfig, RunSummary
from fl_app.runs.replacement import check_replaceable, in_use
from fl_app.runs.resumption import FOLDERS, read_settings
from fl_app.settings import Scalar, Settings
from fl_app.simulation import run_simulation
from rsdgc.durable import probe_folder
from rsdgc.errors import DataError, RunError, SettingError

__all__ = ["Trial", "compare", "trials_of"]


def compare(
    data: Path,
    out: Path,
    trials: Sequence[Trial],
    common: Mapping[str, Any],
    *,
    cpus_per_site: int = 1,
) -> Path:
    """Run all trials on ``data`` and write their figures and a plot into the folder ``out``.

    ``compare.csv``, ``compare.md``, ``compare.svg`` and ``compare.html`` are written again after
    every run, from the runs that are complete; the path of the table in Markdown is returned.
    ``common`` are the settings of all trials, by hyphenated key; those for adapters are left out,
    with a note, of trials without, if others have any. If a run fails, those before it are kept.
    """
    check_common(common)
    chosen = with_common(trials, common)
    for line in left_out(chosen, common):
        print(f"note: {line}", flush=True)
    all_settings = with_equal_momentum(
        {
            trial: Settings.from_mapping(
                {**each, "data-dir": str(data), "out": str(out / trial.folder)}
            ).with_absolute_paths()
            for trial, each in chosen.items()
        }
    )
    # Before the first run: a folder that cannot be replaced must not end a comparison of hours.
    probe_folder(out)
    digest = _digest(data)
    left = [t for t, s in all_settings.items() if not _is_complete(out / t.folder, s, digest)]
    for trial in left:
        if in_use(out / trial.folder):
            check_replaceable(out / trial.folder)
    chips = SharedChips(data)
    with explain_interruption(lambda: _what_stands(out, all_settings)):
        pace = Pace(len(left))
        for number, (trial, settings) in enumerate(all_settings.items(), start=1):
            if trial in left:
                place = f"run {number} of {len(trials)}{pace.left_text()}"
                print(f"{place}: {trial.folder}", flush=True)  # the log of the run follows
                with pace.run():
                    run_simulation(settings, cpus_per_site=cpus_per_site, force=True, title=place)
            _refuse_lost_uploads(out / trial.folder)
            complete = read_rows(out, _complete(out, all_settings))
            write_results(out, complete)
            # Of runs that were complete before, one page is enough.
            if trial in left or number == len(all_settings):
                write_page(out / "compare.html", complete, len(all_settings), chips)
    return out / "compare.md"


def _complete(out: Path, trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if (out / trial.folder / SUMMARY_FILE).exists()]


def _what_stands(out: Path, trials: Collection[Trial]) -> str:
    return (
        f"{len(_complete(out, trials))} of {len(trials)} runs in {out} are complete and stay; the "
        "same command goes on"
    )


def _digest(data: Path) -> str:
    """Return the data's digest; empty if they are not there, as where all runs are complete."""
    try:
        return open_data(data).digest()
    except DataError:
        return ""


def _is_complete(folder: Path, settings: Settings, digest: str) -> bool:
    """Return whether a folder has the run; SettingError if it has another one.

    ``digest`` is that of the comparison's data; empty to compare nothing with it.
    """
    if not (folder / SUMMARY_FILE).exists():
        return False
    old, new = (_with_momentum(each) for each in (read_settings(folder)[0], settings))
    # The simulation sets these for each run, or they change nothing in it.
    own = FOLDERS | {"min-sites", "tracking"}
    differing = [key for key in new.keys() - own if old[key] != new[key]]
    if differing:
        key = min(differing)
        remedy = "choose another --out, or remove that folder"
        if key == "server-momentum":  # the methods beside it decide which one it has
            remedy = f"set {key}={old[key]:g} for all methods, {remedy}"
        raise SettingError(
            f"{folder} holds a run with {key}={old[key]!r} instead of {new[key]!r}; {remedy}"
        )
    recorded = RunConfig.read(folder).data
    if digest and recorded.digest and recorded.digest != digest:
        raise SettingError(
            f"{folder} holds a run on other data than {settings.data_dir} are now: {recorded.name} "
            f"from {recorded.path}; choose another --out, or remove that folder"
        )
    return True


def _with_momentum(settings: Settings) -> dict[str, Scalar]:
    """Return the settings with the server momentum as a number: runs may name it, or leave it."""
    # No budget in bytes is as large as this, so only `1x` allows whole uploads.
    momentum = settings.effective_server_momentum(1 << 62)
    return {**settings.to_mapping(), "server-momentum": momentum}


def _refuse_lost_uploads(folder: Path) -> None:
    """Refuse a run that trained on fewer uploads than it should have."""
    refused = RunSummary.read(folder).refused
    if refused:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in refused.items())
        raise RunError(
            f"{folder} lost {sum(refused.values())} uploads and cannot be compared: {reasons}; "
            "remove that folder and start the comparison again"
        )
