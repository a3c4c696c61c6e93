"""Modalities alone, stacked and fused, on the Zion scene: what elevation adds to Landsat.

Ingests the scene of ``docs/data.md`` (Landsat, SRTM, NLCD), divides it over four geographic sites,
and simulates a run with each network and seed, and the fusion networks again with two of the four
sites lacking elevation. Prints a table. Runs that are complete are not repeated.

    python -m benchmarks.fusion zion/ work/ --seeds 0 1 2 --rounds 40
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from fl_app.runs.records import SUMMARY_FILE, read_run
from fl_app.settings import Settings
from fl_app.simulation import run_simulation
from strategies.round_log import human_bytes

SITES = 4
LACKING = {"site-02": ["srtm"], "site-03": ["srtm"]}
COLUMNS = ("accuracy", "balanced_accuracy", "kappa")


@dataclass(frozen=True)
class Variant:
    """A network, the modalities that it takes (all, if empty), and the partition it trains on."""

    name: str
    model: str
    modalities: str = ""
    data: str = "all"


VARIANTS = (
    Variant("optical alone", "small-resnet", "landsat"),
    Variant("elevation alone", "small-resnet", "srtm"),
    Variant("stacked", "small-resnet"),
    Variant("fusion-concat", "fusion-concat"),
    Variant("fusion-attention", "fusion-attention"),
    Variant("fusion-concat, elevation at two of four sites", "fusion-concat", data="half"),
    Variant("fusion-attention, elevation at two of four sites", "fusion-attention", data="half"),
)


def prepare(zion: Path, work: Path) -> None:
    """Make the store and both partitions, where they are not there already."""
    ingest_scenes(
        zion,
        work / "store",
        labels="nlcd2011.tif",
        aoi=zion / "zion.gpkg",
        chip_px=16,
        modalities=["landsat=landsat_b*.tif", "srtm=srtm.tif"],
    )
    for name, lacking in (("all", {}), ("half", LACKING)):
        if not (work / name).exists():
            partition(work / "store", work / name, sites=SITES, scheme="block", lacking=lacking)


def run_all(work: Path, variants: Sequence[Variant], seeds: Sequence[int], rounds: int) -> None:
    """Simulate every variant with every seed, seed by seed."""
    for seed in seeds:
        for variant in variants:
            out = folder(work, variant, seed)
            if (out / SUMMARY_FILE).exists():
                continue
            settings = {
                "data-dir": str(work / variant.data),
                "out": str(out),
                "model": variant.model,
                "modalities": variant.modalities,
                "rounds": rounds,
                "seed": seed,
            }
            run_simulation(Settings.from_mapping(settings), cpus_per_site=1, force=True)


def folder(work: Path, variant: Variant, seed: int) -> Path:
    """Return the folder of a run."""
    name = variant.name.replace(",", "").replace(" ", "-")
    return work / "runs" / f"{name}-{seed}"


def table(work: Path, variants: Sequence[Variant], seeds: Sequence[int]) -> Iterator[str]:
    """Yield a row for each variant: means over the seeds, ± their standard deviation."""
    yield "| network | parameters | OA | AA | kappa | test loss | up | down | seconds | seeds |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for variant in variants:
        folders = [folder(work, variant, seed) for seed in seeds]
        runs = [read_run(path) for path in folders if (path / SUMMARY_FILE).exists()]
        if runs:
            cells = [spread([getattr(run.summary, name) for run in runs]) for name in COLUMNS]
            cells.append(spread([run.history[-1].loss or 0.0 for run in runs]))
            cells += [
                human_bytes(statistics.fmean(getattr(run.summary, name) for run in runs))
                for name in ("bytes_up", "bytes_down")
            ]
            seconds = statistics.fmean(run.summary.seconds or 0.0 for run in runs)
            yield (
                f"| {variant.name} | {runs[0].num_values:,} | {' | '.join(cells)} "
                f"| {seconds:.0f} | {len(runs)} |"
            )


def spread(values: Sequence[float]) -> str:
    """Return the mean, and the standard deviation if there are several values."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def main() -> None:
    """Prepare the data, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("zion", type=Path, help="folder of the scene's files")
    parser.add_argument("work", type=Path, help="folder for the store, the partitions and the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    prepare(args.zion, args.work)
    run_all(args.work, VARIANTS, args.seeds, args.rounds)
    for line in table(args.work, VARIANTS, args.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
