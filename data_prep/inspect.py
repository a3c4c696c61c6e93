"""What a store or a partition holds: as a dict, and as tables on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.dataset import Dataset, open_data
from data_prep.schema import SPLITS, StoreMeta

#: Skipped files and notes that are printed, so that the tables stay on the screen; the dict holds
#: all of them.
SHOWN = 20


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a store or a partition.

    Returns
    -------
    dict
        ``name``, ``kind``, ``synthetic``, ``samples``, ``chip_px``, ``classes``, ``bytes``,
        ``sites`` (site → split → samples per class), ``bands`` (one record each), ``splits`` (the
        split report), ``skipped``, ``left_out``, ``notes``; for a partition also ``partition``.

    Raises
    ------
    DataError
        The path is neither, or is broken.
    """
    data = open_data(path)
    meta = data.store.meta
    facts: dict[str, Any] = {
        "path": str(path),
        "name": meta.name,
        "source": meta.source,
        "kind": meta.kind,
        "synthetic": meta.synthetic,
        "samples": len(data.store),
        "chip_px": meta.chip_px,
        "stride_px": meta.stride_px,
        "classes": list(meta.classes),
        "bytes": sum(f.stat().st_size for f in data.store.path.iterdir() if f.is_file()),
        "sites": {name: _site_counts(data, name) for name in data.sites},
        "bands": _band_facts(meta),
        "splits": meta.splits.model_dump(),
        "skipped": [item.model_dump() for item in meta.skipped],
        "left_out": dict(meta.left_out),
        "notes": list(meta.notes),
    }
    if data.partition is not None:
        facts["partition"] = data.partition.model_dump()
    return facts


def _site_counts(data: Dataset, name: str) -> dict[str, list[int]]:
    """Count the samples per split and class of a site."""
    site = data.site(name)
    width = len(data.store.classes)
    return {s: np.bincount(site.split(s)[1], minlength=width).tolist() for s in SPLITS}


def _band_facts(meta: StoreMeta) -> list[dict[str, Any]]:
    facts = []
    for modality in meta.modalities:
        shared = {key: getattr(modality, key) for key in ("dtype", "nodata", "resolution")}
        for i, band in enumerate(modality.bands):
            own = {key: getattr(modality, key)[i] for key in ("mean", "std", "min", "max", "count")}
            facts.append({"modality": modality.name, "band": band} | shared | own)
    return facts


def print_description(facts: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`describe` returned, by default to stdout."""
    if console is None:
        # Where stdout is a file, tables need not fit a screen.
        console = Console() if Console().is_terminal else Console(width=200)
    kind = " (synthetic)" if facts["synthetic"] else ""
    console.print(f"[bold]{facts['name']}[/]{kind}: {facts['source']}", highlight=False)
    size = f"{facts['chip_px']} px, {facts['bytes'] / 1e6:.1f} MB"
    console.print(f"{facts['samples']} {facts['kind']} of {size}", highlight=False)
    if "partition" in facts:
        console.print(_partition_line(facts["partition"]), highlight=False)
    console.print(_class_table(facts))
    console.print(_band_table(facts))
    for line in _split_lines(facts):
        console.print(line, highlight=False)
    _print_list(console, "note", facts["notes"])
    _print_list(console, "skipped", [f"{i['path']}: {i['reason']}" for i in facts["skipped"]])


def _partition_line(partition: dict[str, Any]) -> str:
    alpha = "" if partition["alpha"] is None else f", alpha {partition['alpha']}"
    dropped = f", {partition['dropped']} samples at no site" if partition["dropped"] else ""
    return (
        f"{len(partition['sites'])} sites by {partition['scheme']}{alpha}, seed "
        f"{partition['seed']}, of the store {partition['store']}{dropped}"
    )


def _class_table(facts: dict[str, Any]) -> Table:
    """Tabulate the samples of classes by site, as train / test or as train / val / test."""
    sites: dict[str, dict[str, list[int]]] = facts["sites"]
    shown = ["train", "val", "test"]
    if not any(sum(counts["val"]) for counts in sites.values()):
        shown.remove("val")
    table = Table(title=f"samples ({' / '.join(shown)})")
    table.add_column("class", no_wrap=True)
    for name in sites:
        table.add_column(name, justify="right")
    if len(sites) > 1:
        table.add_column("all", justify="right")

    def cells(per_site: Sequence[Sequence[int]]) -> list[str]:
        rows = list(per_site)
        if len(rows) > 1:
            rows.append([sum(values) for values in zip(*rows, strict=True)])
        return [" / ".join(map(str, row)) for row in rows]

    for i, name in enumerate(facts["classes"]):
        table.add_row(name, *cells([[c[s][i] for s in shown] for c in sites.values()]))
    table.add_section()
    table.add_row("all", *cells([[sum(c[s]) for s in shown] for c in sites.values()]))
    if any(sum(counts["buffer"]) for counts in sites.values()):
        table.add_row("buffer", *cells([[sum(c["buffer"])] for c in sites.values()]))
    return table


def _band_table(facts: dict[str, Any]) -> Table:
    table = Table(title="bands (valid pixels of the train split)")
    for name in ("modality", "band", "type"):
        table.add_column(name)
    for name in ("nodata", "mean", "std", "min", "max", "pixels"):
        table.add_column(name, justify="right")
    bands = facts["bands"]
    for i, band in enumerate(bands):
        # Of a spectrometer's hundreds of bands, the first and last show what there is.
        if 6 <= i < len(bands) - 3 and len(bands) > 24:
            if i == 6:
                table.add_row("…", f"{len(bands) - 9} more")
            continue
        nodata = "" if band["nodata"] is None else f"{band['nodata']:g}"
        numbers = [f"{band[key]:.5g}" for key in ("mean", "std", "min", "max")]
        table.add_row(
            band["modality"], band["band"], band["dtype"], nodata, *numbers, str(band["count"])
        )
    return table


def _split_lines(facts: dict[str, Any]) -> list[str]:
    report = facts["splits"]
    counts = ", ".join(f"{name} {n}" for name, n in report["counts"].items() if n)
    lines = [f"split by {report['method']}, seed {report['seed']}: {counts}"]
    if report["method"] != "stratified":
        gap = report["least_distance_px"]
        ground = report["least_distance"]
        unit = f" ({ground:.6g} CRS units)" if ground is not None else ""
        least = "none found" if gap is None else f"{gap:g} px{unit}"
        side = f" of {report['block_px']} px" if report["block_px"] else ""
        lines.append(
            f"{report['blocks']} {report['method']}{side}, buffer {report['buffer_px']} px; "
            f"least distance between train and test: {least}"
        )
    left_out = {name.replace("_", " "): n for name, n in facts["left_out"].items() if n}
    if left_out:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        lines.append(f"windows left out: {reasons}")
    return lines + list(report["notes"])


def _print_list(console: Console, title: str, lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        console.print(f"{title}: {line}", highlight=False, markup=False)
    if len(lines) > SHOWN:
        console.print(f"{title}: {len(lines) - SHOWN} more in meta.json", highlight=False)
