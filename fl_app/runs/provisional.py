"""The records of a run that is not complete: its summary is what the ledger adds up to so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fl_app.runs.growing_records import growing_ledger
from fl_app.runs.records import Run, RunConfig, RunSummary
from rsdgc.errors import RunFolderError
from strategies.ledger import Ledger, RoundEntry


def provisional_summary(config: RunConfig, history: Sequence[RoundEntry]) -> RunSummary:
    """Return the summary of the rounds so far, with the scores of the last model that has some."""
    settings, data = config.settings, config.data
    ledger = Ledger(None, 0)
    ledger.rounds = list(history)
    scored = [entry for entry in history if entry.accuracy is not None]
    last = scored[-1] if scored else RoundEntry(0)
    return RunSummary(
        method=str(settings.get("method", "")),
        dataset=data.name,
        synthetic=data.synthetic,
        model=config.model,
        num_sites=len(data.sites),
        rounds=max((entry.round for entry in history), default=0),
        seed=int(settings.get("seed", 0)),
        accuracy=last.accuracy,
        balanced_accuracy=last.balanced_accuracy,
        kappa=last.kappa,
        num_test=last.num_test,
        seconds=round(sum(entry.seconds for entry in history), 1),
        classes=data.classes,
        **ledger.totals(),
    )


def read_provisional_run(folder: Path) -> Run:
    """Read a run folder that has no ``summary.json`` yet.

    Raises :class:`RunFolderError` if no round is in the ledger, or a file is missing or damaged.
    """
    config = RunConfig.read(folder)
    # A line that is being written is left for the next time.
    rounds, messages = growing_ledger(folder)
    history, entries = rounds.read_new(), messages.read_new()
    if not history:
        raise RunFolderError(f"{folder} has no round yet: wait for the first one")
    history.sort(key=lambda entry: entry.round)
    entries.sort(key=lambda entry: (entry.round, entry.site))
    return Run(folder, config, provisional_summary(config, history), history, entries)
