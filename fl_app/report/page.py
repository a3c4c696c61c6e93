"""Write the report of a run: its figures, tables and words, put into one page."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.pictures import number_format
from data_prep.pictures.html_page import render_page
from data_prep.pictures.map_colors import hex_color
from fl_app.methods import METHODS
from fl_app.report.accuracy_curves import accuracy_by_bytes, accuracy_by_round
from fl_app.report.byte_charts import (
    MAX_LAYERS,
    MAX_SITES,
    compressed_layers,
    ratio_heat_map,
    site_bars,
)
from fl_app.report.confusion import class_scores, confusion_matrix, worst_mistakes
from fl_app.report.imagery import show_imagery
from fl_app.report.land_cover_map import RIGHT, WRONG
from fl_app.report.ledger_totals import refusals_by_reason, refusals_by_round, site_totals
from fl_app.report.report_template import TEMPLATE
from fl_app.report.rerun_command import command_text
from fl_app.runs.records import read_run
from rsdgc.durable import replace_text
from rsdgc.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fl_app.report.imagery import Imagery
    from fl_app.runs.records import Run

FILE_NAME = "report.html"


def write_report(run_dir: Path, data: Path | None = None) -> Path:
    """Write ``report.html`` into a run folder; an older one is replaced as a whole.

    Parameters
    ----------
    run_dir : Path
        A run folder with ``config.json``, ``history.jsonl``, ``rounds.jsonl`` and
        ``summary.json``; only the pictures need ``model.safetensors``.
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
    context = {
        **_headline(run),
        **_figures(run),
        **_class_parts(run),
        **_tables(run),
        **_imagery_parts(show_imagery(run, data)),
    }
    path = run_dir / FILE_NAME
    try:
        replace_text(path, render_page(TEMPLATE, **context))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from None
    return path


def _headline(run: Run) -> dict[str, Any]:
    """Return title, lead sentences and headline numbers."""
    summary = run.summary
    known = summary.method in METHODS  # not a user's own, nor one of another version
    method = METHODS[summary.method].title if known else summary.method
    dense_total = summary.dense_bytes_up + summary.dense_bytes_down
    return {
        "title": f"{method} on {summary.dataset}: {number_format.percent_text(summary.accuracy)}",
        "method": method,
        "summary": summary,
        "synthetic": run.synthetic,
        "lead": _lead(run, method),
        "dense_total": dense_total,
        "times_sign": number_format.TIMES,
        "times": {
            "up": summary.compression_up or _ratio(summary.dense_bytes_up, summary.bytes_up),
            "down": summary.compression_down
            or _ratio(summary.dense_bytes_down, summary.bytes_down),
            "total": summary.compression_total
            or _ratio(dense_total, summary.bytes_up + summary.bytes_down),
        },
    }


def _lead(run: Run, method: str) -> str:
    """Say in a few sentences what was run on which data."""
    summary, data = run.summary, run.config.data
    plural, times = number_format.plural, number_format.TIMES
    model = run.config.model or summary.model
    if run.num_values:
        model += f" ({number_format.count_text(run.num_values)} values)"
    imagery = "synthetic imagery" if run.synthetic else "imagery"
    if data.num_bands:
        imagery += f" with {plural(data.num_bands, 'band')}"
    if data.chip_px:
        imagery = f"{data.chip_px} {times} {data.chip_px} px chips of {imagery}"
    sentences = [
        f"{plural(summary.num_sites, 'site')} trained {model} together for "
        f"{plural(summary.rounds, 'round')} on {imagery}, to distinguish "
        f"{plural(len(run.classes), 'class', 'classes')}."
    ]
    budget = run.config.settings.get("budget")
    if summary.method == "fedavg":
        sentences.append("The whole float32 model was sent both ways.")
    elif budget is not None:
        compressor = "element top-k" if summary.method == "topk" else method
        down = str(run.config.settings.get("budget-down", "1x"))
        download = (
            "the sites received the whole model"
            if down == "1x"
            else f"downloads (patches of the model) to {_budget_text(down)}"
        )
        sentences.append(
            f"Uploads were compressed by {compressor} to {_budget_text(str(budget))}, {download}."
        )
    seconds = number_format.seconds_text(summary.seconds)
    sentences.append(f"The run took {seconds} (seed {summary.seed}).")
    return " ".join(sentences)


def _budget_text(budget: str) -> str:
    """Spell out a budget: a factor (``100x``) or a number of bytes."""
    number = budget.strip().lower().removesuffix("x").removesuffix(number_format.TIMES)
    if number != budget.strip().lower():
        return f"1/{number} of the dense model"
    return (
        number_format.bytes_text(float(number)) if number.replace(".", "", 1).isdigit() else budget
    )


def _figures(run: Run) -> dict[str, Any]:
    """Draw all charts but the confusion matrix, as inline SVG."""
    compressed = len(compressed_layers(run))
    uncompressed = max(0, len(run.config.layers) - compressed)
    caption = "Color: share sent, on a logarithmic scale."
    if compressed > MAX_LAYERS:
        caption += f" Shown: the {MAX_LAYERS} largest of {compressed} compressed layers."
    if uncompressed:
        layers = number_format.plural(uncompressed, "small layer")
        caption += f" Not shown: {layers}, sent whole in every round."
    return {
        "curve_rounds": accuracy_by_round(run),
        "curve_bytes": accuracy_by_bytes(run),
        "ratio_plot": ratio_heat_map(run),
        "ratio_caption": caption,
        "site_plot": site_bars(run),
        "max_sites": MAX_SITES,
    }


def _class_parts(run: Run) -> dict[str, Any]:
    """Return the confusion matrix and what follows from it."""
    confusion = np.array(run.summary.confusion, dtype=np.int64)
    if not confusion.size or not confusion.sum():
        return {"confusion": None, "confused": [], "scores": [], "num_scored": 0}
    return {
        "confusion": confusion_matrix(confusion, run.classes),
        "confused": worst_mistakes(confusion, run.classes),
        "scores": class_scores(confusion, run.classes),
        "num_scored": int(confusion.sum()),
    }


def _tables(run: Run) -> dict[str, Any]:
    """Return what the tables hold: sites, rounds, refusals, settings, layers, versions."""
    missing = refusals_by_round(run)
    config = run.config
    settings = {**config.settings, "run_id": config.run_id, "data": asdict(config.data)}
    return {
        "sites": site_totals(run),
        "rounds": [(line, missing.get(line.round, [])) for line in run.history],
        "refusals": refusals_by_reason(run),
        "settings": list(_flat(settings)),
        "layers": run.config.layers,
        "num_values": run.num_values,
        "versions": run.config.versions,
        "command": command_text(run),
        "folder": run.folder.resolve().name,
    }


def _imagery_parts(imagery: Imagery) -> dict[str, Any]:
    """Return the imagery and the words that depend on it."""
    return {
        "imagery": imagery,
        "imagery_title": "Test chips" if imagery.gallery else "Land-cover map",
        "unit": "pixels" if imagery.pixels else "chips",
        "right_color": hex_color(RIGHT),
        "wrong_color": hex_color(WRONG),
    }


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key and text of each setting, with dotted keys for those of nested tables."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, ", ".join(str(part) for part in value)
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def _ratio(dense: int, sent: int) -> float | None:
    return dense / sent if sent and dense else None
