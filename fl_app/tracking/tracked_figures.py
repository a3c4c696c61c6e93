"""Names and values of what is tracked: the part before the slash groups the charts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields

from fl_app.runs.records import RunConfig, RunSummary
from fl_app.tracking.tracker import Fact
from strategies.ledger import ROLL_CALL, SUSPENDED, TRAIN, RoundEntry, SiteEntry

_SCORES = ("accuracy", "balanced_accuracy", "kappa", "loss")
_PLACE = ("round", "num_examples")
_DIRECTIONS = (("up",), ("down",), ("up", "down"))


def round_figures(entry: RoundEntry) -> dict[str, float]:
    """Return the figures of a line of ``history.jsonl``.

    Scores are in ``score`` and ``validation``, bytes in ``bytes``, dense bytes over them in
    ``compression``, durations in ``time``, the shares of layers that were sent in ``layer_share``,
    and counts in ``round``.
    """
    figures = {_round_name(name): value for name, value in _numbers(entry) if name not in _PLACE}
    for words in _DIRECTIONS:
        sent = sum(getattr(entry, f"bytes_{word}") for word in words)
        dense = sum(getattr(entry, f"dense_bytes_{word}") for word in words)
        if sent and dense:
            figures[f"compression/{'total' if len(words) > 1 else words[0]}"] = dense / sent
    figures |= {f"layer_share/{name}": share for name, share in entry.ratios.items()}
    return figures


def site_figures(entry: SiteEntry) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield rounds and figures of a line of ``rounds.jsonl``; the site's name is after the slash.

    A site scores the model that it receives, so its accuracy belongs to the round before.
    """
    if entry.phase in (ROLL_CALL, SUSPENDED):
        return
    figures = {
        f"site_{name}/{entry.site}": value
        for name, value in _numbers(entry)
        if name not in (*_PLACE, "accuracy")
    }
    # The final evaluation completes the last round, whose upload has these names already.
    if entry.phase == TRAIN:
        yield entry.round, figures
    else:
        what = entry.phase.replace("-", "_")
        names = ("bytes_up", "bytes_down")
        yield (
            entry.round,
            {f"site_{what}_{name}/{entry.site}": float(getattr(entry, name)) for name in names},
        )
    if entry.accuracy is not None:
        scored = entry.round - (entry.phase == TRAIN)
        yield scored, {f"site_accuracy/{entry.site}": entry.accuracy}


def summary_figures(summary: RunSummary) -> dict[str, float]:
    """Return the figures of the whole run."""
    return {f"final/{name}": value for name, value in _numbers(summary) if name != "seed"}


def run_facts(config: RunConfig) -> dict[str, Fact]:
    """Return the settings of a run, and what it was trained on."""
    settings = {key: value for key, value in config.settings.items() if _is_fact(value)}
    return {
        **settings,
        "data": config.data.name,
        "sites": len(config.data.sites),
        "classes": len(config.data.classes),
        "values": sum(layer.size for layer in config.layers),
        "run-id": str(config.run_id),
    }


def _round_name(name: str) -> str:
    if name in _SCORES:
        return f"score/{name}"
    if name.startswith("val_"):
        return f"validation/{name.removeprefix('val_')}"
    if name.startswith(("bytes_", "dense_bytes_")):
        return f"bytes/{name.replace('bytes_', '')}"
    return f"time/{name}" if name.endswith("seconds") else f"round/{name}"


def _numbers(record: RoundEntry | SiteEntry | RunSummary) -> Iterator[tuple[str, float]]:
    """Yield the fields that hold a finite number."""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, int | float) and math.isfinite(value):
            yield field.name, float(value)


def _is_fact(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
