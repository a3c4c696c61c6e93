"""The runs of a comparison, and running those that are not complete yet.

A method may carry settings of its own after plus signs, so that variants of one method can be
compared: ``rs-dgc+ratio-policy=weight``. A budget of its own replaces the common ones:
``rs-dgc+budget=300x``.

Every run is a whole simulation in a folder of its own. A run that is complete, with the same
settings, is not repeated: a comparison that was interrupted continues where it stopped, and one
with more methods, budgets or seeds than before runs only the new ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl_app.methods import find_method
from fl_app.runs.folder import read_settings
from fl_app.runs.records import SUMMARY_FILE, RunSummary
from fl_app.settings import Scalar, Settings, parse_overrides
from fl_app.simulation import run_simulation
from rsdgc.errors import RunError, SettingError


@dataclass(frozen=True, eq=False)
class Trial:
    """One run of a comparison.

    Attributes
    ----------
    label : str
        The method with its own settings, except the budget.
    budget : str
        Of its uploads; empty for a method that ignores budgets.
    seed : int
        Of everything random.
    settings : dict of str to scalar
        The settings in which it differs from other runs of the comparison.
    """

    label: str
    budget: str
    seed: int
    settings: dict[str, Scalar] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        words = [self.label.replace("=", "-"), self.budget, f"seed{self.seed}"]
        return "_".join(word for word in words if word)


def trials_of(methods: Sequence[str], budgets: Sequence[str], seeds: Sequence[int]) -> list[Trial]:
    """Return every method at every budget with every seed, one seed after another.

    A method that ignores budgets (FedAvg, one that sends everything) is run once a seed.

    Raises
    ------
    SettingError
        A method is unknown, a setting after it is wrong, or a trial is listed twice.
    """
    trials = []
    for seed in seeds:
        for text in methods:
            method, *words = text.split("+")
            own = parse_overrides(words)
            label = "+".join([method, *(word for word in words if not word.startswith("budget="))])
            for budget in _budgets(method, own.pop("budget", ""), budgets):
                settings: dict[str, Scalar] = {"method": method, "seed": seed, **own}
                if budget:
                    settings["budget"] = budget
                trials.append(Trial(label, budget, seed, settings))
    counts = Counter(trial.folder for trial in trials)
    repeated = sorted(folder for folder, count in counts.items() if count > 1)
    if repeated:
        raise SettingError(f"listed twice: {', '.join(repeated)}")
    return trials


def _budgets(method: str, own: Scalar, common: Sequence[str]) -> Sequence[str]:
    if method == "fedavg" or find_method(method).ratio_policy == "whole":
        return [""]
    return [str(own)] if own else common


def compare(
    data: Path,
    out: Path,
    trials: Sequence[Trial],
    common: Mapping[str, Any],
    *,
    cpus_per_site: int = 1,
) -> Path:
    """Run all trials and write ``compare.csv``, ``compare.md`` and ``compare.svg``.

    The three files are written again after every run, from the runs that are complete.

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
        A setting is wrong, or a folder holds a run with other settings.
    RunError
        A run fails, or lost uploads of its sites; the runs before it are kept.
    """
    from fl_app.compare.results import write_results  # noqa: PLC0415  # matplotlib takes a second

    all_settings = {
        trial: Settings.from_mapping(
            {
                **common,
                **trial.settings,
                "data-dir": str(data),
                "out": str(out / trial.folder),
            }
        )
        for trial in trials
    }
    for trial, settings in all_settings.items():
        folder = out / trial.folder
        if not _is_complete(folder, settings):
            print(f"{trial.folder}:", flush=True)  # the log of the run follows
            run_simulation([], settings.to_mapping(), cpus_per_site=cpus_per_site, force=True)
        _refuse_lost_uploads(folder)
        complete = [t for t in all_settings if (out / t.folder / SUMMARY_FILE).exists()]
        write_results(out, complete)
    return out / "compare.md"


def _is_complete(folder: Path, settings: Settings) -> bool:
    if not (folder / SUMMARY_FILE).exists():
        return False
    old, new = read_settings(folder)[0].to_mapping(), settings.to_mapping()
    chosen_per_run = {"data-dir", "out", "state-dir", "min-sites"}
    differing = [key for key in new.keys() - chosen_per_run if old[key] != new[key]]
    if differing:
        key = min(differing)
        raise SettingError(
            f"{folder} holds a run with {key}={old[key]!r} instead of {new[key]!r}; "
            "choose another --out, or remove that folder"
        )
    return True


def _refuse_lost_uploads(folder: Path) -> None:
    """Refuse a run that trained on fewer uploads than it should have."""
    refused = RunSummary.read(folder).refused
    if refused:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in refused.items())
        raise RunError(
            f"{folder} lost {sum(refused.values())} uploads and cannot be compared: {reasons}; "
            "remove that folder and start the comparison again"
        )
