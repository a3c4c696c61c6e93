"""Write the report of a run: its figures, tables and words, put into one page."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import number_format
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.html_page import render_page
from data_prep.pictures.map_colors import hex_color
from data_prep.pictures.plot import Plot
from fl_app.methods import METHODS
from fl_app.models.timm_models import PREFIX as TIMM
from fl_app.report.byte_charts import (
    MAX_LAYERS,
    MAX_SITES,
    compressed_layers,
    ratio_heat_map,
    site_bars,
)
from fl_app.report.confusion import class_scores, confusion_matrix, worst_mistakes
from fl_app.report.confusion import score_table as score_table_of_classes
from fl_app.report.figure_files import write_figures
from fl_app.report.imagery import Imagery, show_imagery
from fl_app.report.intervals import Interval, bootstrap, wilson
from fl_app.report.land_cover_map import RIGHT, WRONG
from fl_app.report.learning_curves import accuracy_by_bytes, accuracy_by_round, loss_by_round
from fl_app.report.ledger_totals import refusals_by_reason, refusals_by_round, site_totals
from fl_app.report.outlying_sites import outlying_figures
from fl_app.report.report_template import TEMPLATE
from fl_app.report.site_scores import (
    accuracy_by_site,
    recall_by_site_and_class,
    score_table,
    site_scores,
)
from fl_app.report.time_split import part_totals, round_times, run_time, time_by_round
from fl_app.runs.provisional import read_provisional_run
from fl_app.runs.records import REPORT_FILE, Run, read_run
from fl_app.setting_values import AUTO
from fl_app.settings import Settings
from rsdgc.durable import replace_text
from rsdgc.errors import RunError

# Settings that the command to repeat the run gives as options, whether default or not.
_OPTIONS = ("method", "budget", "model", "rounds", "seed")
MAX_NAMED_SITES = 6
"""Sites that the title names; of more, it gives the number."""
# Folders, which --data and --out name, and the number of sites, which is that of the data.
_IMPLIED = ("data-dir", "out", "state-dir", "min-sites")


def write_report(
    run_dir: Path,
    data: Path | None = None,
    *,
    baseline: Path | None = None,
    scenes: int | None = None,
    figures: Path | None = None,
) -> Path:
    """Write ``report.html`` into a run folder; an older one is replaced as a whole.

    Parameters
    ----------
    run_dir : Path
        A run folder with ``config.json``, ``history.jsonl``, ``rounds.jsonl`` and
        ``summary.json``; only the pictures need ``model.safetensors``.
    data : Path or None
        Store or partition for the pictures; None for the one that the run was trained on. Where
        it is not on this machine the report says so and is complete otherwise.
    baseline : Path or None
        Another run folder, whose curves and scores stand beside the run's: dense FedAvg, say.
    scenes : int or None
        Scenes that are drawn; None for as many as are predicted within seconds.
    figures : Path or None
        Folder that gets every figure as SVG, PNG and CSV; made if it is missing.

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
    other = None if baseline is None else read_run(baseline)
    return _write_page(run, show_imagery(run, data, scenes), baseline=other, figures=figures)


def write_interim_report(run_dir: Path) -> Path:
    """Write ``report.html`` of a run that is not complete, without pictures and classes.

    Raises as :func:`write_report`; :class:`RunFolderError` if no round has been scored.
    """
    run = read_provisional_run(run_dir)
    absent = "The pictures follow when the run is complete."
    return _write_page(run, Imagery(absent=absent), interim=True)


def _write_page(
    run: Run,
    imagery: Imagery,
    *,
    interim: bool = False,
    baseline: Run | None = None,
    figures: Path | None = None,
) -> Path:
    summary = run.summary
    method = method_title(summary.method)
    missing, totals = refusals_by_round(run), site_totals(run)
    place = _place(run)
    plots, classes = _figures(run, baseline), _class_parts(run)
    scores_by_site = site_scores(run)
    page = render_page(
        TEMPLATE,
        title=f"{method} on {place}: {number_format.percent_text(summary.accuracy)}",
        place=place,
        synthetic=run.synthetic,
        run=run,
        stem=run.folder.resolve().name,
        summary=summary,
        method=method,
        lead=_lead(run, method),
        accuracy_interval=_accuracy_interval(run),
        banded=any(line.num_test for line in run.history),
        baseline=baseline,
        beside=[] if baseline is None else list(_beside(run, baseline)),
        imagery=imagery,
        interim=interim,
        right_color=hex_color(RIGHT),
        wrong_color=hex_color(WRONG),
        sites=totals,
        site_scores=scores_by_site,
        site_table=score_table(scores_by_site),
        time=run_time(run),
        rounds=[(line, missing.get(line.round, [])) for line in run.history],
        rounds_table=_rounds_table(run),
        refusals=refusals_by_reason(run),
        outliers=outlying_figures(run),
        clipped=", ".join(f"{total.site} {total.clipped}×" for total in totals if total.clipped),
        settings=list(_settings(run)),
        command=command_text(run),
        follow_command=shlex.join(["rsdgc", "dashboard", str(run.folder)]),
        report_command=shlex.join(["rsdgc", "report", str(run.folder)]),
        **plots,
        **classes,
    )
    path = run.folder / REPORT_FILE
    try:
        replace_text(path, page)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror}): see that you may write there and that "
            "the disk has room, or report on a copy of the run folder"
        ) from None
    if figures is not None:
        shown = [*plots.values(), classes["confusion"], imagery.overview]
        try:
            write_figures(figures, [plot for plot in shown if isinstance(plot, Plot)], imagery.maps)
        except OSError as error:
            raise RunError(
                f"{error.filename or figures} cannot be written ({error.strerror}): choose another "
                "folder for --figures"
            ) from None
    return path


def method_title(method: str) -> str:
    """Return the name of a method as a title has it; a user's own method has its name alone."""
    # nor is one of another version known here
    return METHODS[method].title if method in METHODS else method


def _accuracy_interval(run: Run) -> Interval | None:
    """Return Wilson's interval of the final accuracy, if the count of test chips is known."""
    summary = run.summary
    count = summary.num_test or sum(map(sum, summary.confusion))
    return None if summary.accuracy is None else wilson(summary.accuracy * count, count)


def _beside(run: Run, baseline: Run) -> Iterator[tuple[str, str, str]]:
    """Yield the name of a figure, and its text for the run and for the baseline."""
    rows: dict[str, tuple[str, Callable[[Any], str]]] = {
        "accuracy": ("accuracy", number_format.percent_text),
        "balanced accuracy": ("balanced_accuracy", number_format.percent_text),
        "kappa": ("kappa", number_format.decimal_text),
        "sent by the sites": ("bytes_up", number_format.bytes_text),
        "sent to the sites": ("bytes_down", number_format.bytes_text),
        "rounds": ("rounds", number_format.count_text),
        "seed": ("seed", str),
        "time": ("seconds", number_format.seconds_text),
    }
    for name, (field, text) in rows.items():
        yield name, text(getattr(run.summary, field)), text(getattr(baseline.summary, field))
    ours, theirs = (
        next((e.loss for e in reversed(each.history) if e.loss is not None), None)
        for each in (run, baseline)
    )
    yield "test loss", number_format.decimal_text(ours), number_format.decimal_text(theirs)


def _rounds_table(run: Run) -> CsvTable:
    columns = (
        *("round", "accuracy", "balanced_accuracy", "kappa", "loss", "num_test"),
        *("bytes_up", "bytes_down", "dense_bytes_up", "dense_bytes_down"),
        *("sites", "asked", "refused", "seconds", "time"),
    )
    return CsvTable(columns, [[getattr(line, name) for name in columns] for line in run.history])


def _place(run: Run) -> str:
    """Say what a run was trained on: the data, or the sites where each has data of its own."""
    sites = run.config.data.sites
    if run.config.data.path or len(sites) < 2:
        return run.summary.dataset
    # In a deployment the data's name is that of the first site's store.
    names = f" ({', '.join(sites)})" if len(sites) <= MAX_NAMED_SITES else ""
    return f"the archives of {len(sites)} sites{names}"


def _lead(run: Run, method: str) -> str:
    """Say in a few sentences what was run on which data."""
    summary, data = run.summary, run.config.data
    plural, times = number_format.plural, number_format.TIMES
    model = run.config.model or summary.model
    if run.num_values:
        frozen = run.config.frozen
        num_frozen = frozen.parameters if frozen else 0
        more = f", {number_format.count_text(num_frozen)} more frozen" if num_frozen else ""
        model += f" ({number_format.count_text(run.num_values)} values{more})"
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
        if down == AUTO:
            # The code of a user's own method need not be on this machine.
            known = summary.method in METHODS
            down = METHODS[summary.method].budget_down if known else "the method's own size"
        download = (
            "the sites received the whole model"
            if down == "1x"
            else f"downloads (patches of the model) to {_budget_text(down)}"
        )
        sentences.append(
            f"Uploads were compressed by {compressor} to {_budget_text(str(budget))}, {download}."
        )
    seconds = number_format.seconds_text(summary.seconds)
    return " ".join([*sentences, f"The run took {seconds} (seed {summary.seed})."])


def _budget_text(budget: str) -> str:
    """Spell out a budget: a factor (``100x``) or a number of bytes."""
    text = budget.strip().lower()
    number = text.removesuffix("x").removesuffix(number_format.TIMES)
    if number != text:
        return f"1/{number} of the dense model"
    is_number = re.fullmatch(r"[0-9]{1,18}(\.[0-9]*)?", number) is not None
    return number_format.bytes_text(float(number)) if is_number else budget


def _figures(run: Run, baseline: Run | None) -> dict[str, Any]:
    """Draw all charts but the confusion matrix, with what their captions need."""
    compressed = len(compressed_layers(run))
    uncompressed = max(0, len(run.config.layers) - compressed)
    caption = "Color: share sent, on a logarithmic scale."
    if compressed > MAX_LAYERS:
        caption += f" Shown: the {MAX_LAYERS} largest of {compressed} compressed layers."
    if uncompressed:
        layers = number_format.plural(uncompressed, "small layer")
        caption += f" Not shown: {layers}, sent whole in every round."
    return {
        "curve_rounds": accuracy_by_round(run, baseline),
        "curve_bytes": accuracy_by_bytes(run, baseline),
        "curve_loss": loss_by_round(run, baseline),
        "time_plot": time_by_round(run),
        "time_parts": part_totals(round_times(run)),
        "site_accuracy": accuracy_by_site(run),
        "site_recall": recall_by_site_and_class(run),
        "ratio_plot": ratio_heat_map(run),
        "ratio_caption": caption,
        "site_plot": site_bars(run),
        "max_sites": MAX_SITES,
    }


def _class_parts(run: Run) -> dict[str, Any]:
    """Return the confusion matrix and what follows from it."""
    confusion = np.array(run.summary.confusion, dtype=np.int64)
    if not confusion.size or not confusion.sum():
        none: dict[str, Any] = {"confusion": None, "confused": [], "scores": [], "num_scored": 0}
        return none | {"class_table": None, "intervals": {}}
    scores = class_scores(confusion, run.classes)
    return {
        "confusion": confusion_matrix(confusion, run.classes),
        "confused": worst_mistakes(confusion, run.classes),
        "scores": scores,
        "class_table": score_table_of_classes(scores),
        "intervals": bootstrap(confusion),
        "num_scored": int(confusion.sum()),
    }


def _settings(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the key and text of each setting, with dotted keys for the facts of the data."""
    data = {f"data.{key}": value for key, value in asdict(run.config.data).items()}
    data["data.modalities"] = [
        f"{m.name} ({number_format.plural(len(m.bands), 'band')} of {m.px} px)"
        for m in run.config.data.modalities
    ]
    data["data.lacking"] = [
        f"{site}: {', '.join(names)}" for site, names in run.config.data.lacking.items()
    ]
    for key, value in {**run.config.settings, "run_id": run.config.run_id, **data}.items():
        if isinstance(value, list):
            yield key, ", ".join(str(part) for part in value)
        else:
            yield key, value if isinstance(value, str) else json.dumps(value)


def command_text(run: Run) -> str:
    """Return the command line that repeats a run, ready for a shell.

    It is ``rsdgc simulate`` with the run's main settings as options and every other setting that
    differs from its default.
    """
    settings, defaults = run.config.settings, Settings().to_mapping()
    words = ["rsdgc", "simulate"]
    if run.config.data.path:
        words += ["--data", run.config.data.path]
    for key in _OPTIONS:
        if key in settings:
            words += [f"--{key}", _setting_text(settings[key])]
    words += ["--out", f"runs/{run.folder.resolve().name}"]
    told = {*_IMPLIED, *_OPTIONS}
    if not any(_names_own_code(value) for value in settings.values()):
        told.add("code-dir")
    words += [
        f"{key}={_setting_text(settings[key])}"
        for key, default in defaults.items()
        if key in settings and key not in told and settings[key] != default
    ]
    return shlex.join(words)


def _names_own_code(value: Any) -> bool:
    """Return whether a setting's value is a path ``package.module:name``."""
    return isinstance(value, str) and ":" in value and not value.startswith(TIMM)


def _setting_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
