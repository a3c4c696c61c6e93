"""What a store or a partition holds: as a dict, and as tables on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from data_prep.dataset import open_data
from data_prep.schema import SPLITS, ModalityMeta
from data_prep.terminal_table import Column, print_table, terminal

#: Skipped files and notes that are printed, so that the tables stay on the screen; the dict holds
#: all of them.
SHOWN = 20
# What the dict has from the store's record as it is.
_META_FIELDS = {"name", "source", "kind", "synthetic", "chip_px", "stride_px", "classes", "splits"}
_META_FIELDS |= {"skipped", "left_out", "notes"}


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a store or a partition.

    Returns
    -------
    dict
        ``path``, ``name``, ``source``, ``kind``, ``synthetic``, ``samples``, ``chip_px``,
        ``stride_px``, ``classes``, ``bytes``, ``sites`` (site → split → samples per class),
        ``bands`` (one record each), ``splits`` (the split report), ``skipped``, ``left_out``,
        ``notes``; for a partition also ``partition``.

    Raises
    ------
    DataError
        The path is neither, or is broken.
    """
    data = open_data(path)
    store, width = data.store, len(data.store.classes)
    facts: dict[str, Any] = store.meta.model_dump(include=_META_FIELDS) | {
        "path": str(path),
        "samples": len(store),
        "bytes": sum(f.stat().st_size for f in store.path.iterdir() if f.is_file()),
        "sites": {
            name: {s: np.bincount(site.split(s)[1], minlength=width).tolist() for s in SPLITS}
            for name, site in ((name, data.site(name)) for name in data.sites)
        },
        "bands": [
            _band_facts(meta, i) for meta in store.meta.modalities for i in range(len(meta.bands))
        ],
    }
    if data.partition is not None:
        facts["partition"] = data.partition.model_dump()
    return facts


def _band_facts(meta: ModalityMeta, i: int) -> dict[str, Any]:
    shared = meta.model_dump(include={"dtype", "nodata", "resolution"})
    own = {name: getattr(meta, name)[i] for name in ("mean", "std", "min", "max", "count")}
    layer = {"validity_layer": bool(meta.validity), "unit": meta.units[i] if meta.units else ""}
    return {"modality": meta.name, "band": meta.bands[i]} | shared | layer | own


def nodata_text(band: dict[str, Any]) -> str:
    """Say what marks a band's invalid pixels, of a record that :func:`describe` returned."""
    if band["validity_layer"]:
        return "validity layer"
    return "" if band["nodata"] is None else f"{band['nodata']:g}"


def print_description(facts: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`describe` returned; default: to stdout."""
    console = console or terminal()
    # Names of classes, bands and files may contain brackets, which are not markup.
    show = partial(console.print, markup=False, highlight=False)
    kind = " (synthetic)" if facts["synthetic"] else ""
    show(Text.assemble((facts["name"], "bold"), f"{kind}: {facts['source']}"))
    size = f"{facts['bytes'] / 1e6:.1f} MB"
    show(f"{facts['samples']} {facts['kind']} of {facts['chip_px']} px, {size}")
    if "partition" in facts:
        show(_partition_line(facts["partition"]))
    _print_classes(facts, console)
    _print_bands(facts["bands"], console)
    for line in _split_lines(facts):
        show(line)
    skipped = [f"{item['path']}: {item['reason']}" for item in facts["skipped"]]
    for title, lines in (("note", facts["notes"]), ("skipped", skipped)):
        for line in lines[:SHOWN]:
            show(f"{title}: {line}")
        if len(lines) > SHOWN:
            show(f"{title}: {len(lines) - SHOWN} more in meta.json")


def _partition_line(partition: dict[str, Any]) -> str:
    alpha = "" if partition["alpha"] is None else f", alpha {partition['alpha']}"
    dropped = f", {partition['dropped']} samples at no site" if partition["dropped"] else ""
    lacking = "".join(
        f"; {site} without {', '.join(names)}" for site, names in partition["lacking"].items()
    )
    return (
        f"{len(partition['sites'])} sites by {partition['scheme']}{alpha}, seed "
        f"{partition['seed']}, of the store {partition['store']}{dropped}{lacking}"
    )


def _print_classes(facts: dict[str, Any], console: Console) -> None:
    """Tabulate the samples of classes by site, as train / test or as train / val / test."""
    sites: dict[str, dict[str, list[int]]] = facts["sites"]
    shown = ["train", "val", "test"]
    if not any(sum(counts["val"]) for counts in sites.values()):
        shown.remove("val")

    def cells(per_site: Sequence[Sequence[int]]) -> list[str]:
        rows = list(per_site)
        if len(rows) > 1:
            rows.append([sum(values) for values in zip(*rows, strict=True)])
        return [" / ".join(map(str, row)) for row in rows]

    rows = [
        [name, *cells([[c[s][i] for s in shown] for c in sites.values()])]
        for i, name in enumerate(facts["classes"])
    ]
    rows.append(["all", *cells([[sum(c[s]) for s in shown] for c in sites.values()])])
    if any(sum(counts["buffer"]) for counts in sites.values()):
        rows.append(["buffer", *cells([[sum(c["buffer"])] for c in sites.values()])])
    # A store is not divided: its only site would be taken for a folder of that name.
    names = [*sites, "all"] if len(sites) > 1 else list(sites) if "partition" in facts else ["all"]
    print_table(
        [Column("class"), *(Column(name, number=True) for name in names)],
        rows,
        title=f"samples ({' / '.join(shown)})",
        console=console,
        lines_before={len(facts["classes"])},
    )


def _print_bands(bands: list[dict[str, Any]], console: Console) -> None:
    texts = ["band", "modality", "type"]
    if any(band["unit"] for band in bands):
        texts.insert(2, "unit")
    columns = [Column(name) for name in texts]
    columns += [
        Column(name, number=True) for name in ("nodata", "mean", "std", "min", "max", "pixels")
    ]
    rows = []
    for i, band in enumerate(bands):
        # Of a spectrometer's hundreds of bands, the first and last show what there is.
        if 6 <= i < len(bands) - 3 and len(bands) > 24:
            if i == 6:
                rows.append(["…", f"{len(bands) - 9} more", *[""] * (len(columns) - 2)])
            continue
        nodata = "" if band["nodata"] is None else f"{band['nodata']:g}"
        numbers = [f"{band[key]:.5g}" for key in ("mean", "std", "min", "max")]
        names = [band["dtype" if name == "type" else name] for name in texts]
        rows.append([*names, nodata, *numbers, str(band["count"])])
    print_table(columns, rows, title="bands (valid pixels of the train split)", console=console)


def _split_lines(facts: dict[str, Any]) -> list[str]:
    report = facts["splits"]
    counts = ", ".join(f"{name} {n}" for name, n in report["counts"].items() if n)
    lines = [f"split by {report['method']}, seed {report['seed']}: {counts}"]
    if report["method"] != "stratified":
        gap, ground = report["least_distance_px"], report["least_distance"]
        unit = f" ({ground:.6g} CRS units)" if ground is not None else ""
        least = "none found" if gap is None else f"{gap:g} px{unit}"
        side = f" of {report['block_px']} px" if report["block_px"] else ""
        lines.append(
            f"{report['blocks']} {report['method']}{side}, buffer {report['buffer_px']} px; "
            f"least distance between train and test: {least}"
        )
    left_out = [f"{n} {name.replace('_', ' ')}" for name, n in facts["left_out"].items() if n]
    if left_out:
        lines.append("windows left out: " + ", ".join(left_out))
    return lines + list(report["notes"])
