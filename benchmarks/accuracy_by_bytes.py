r"""Accuracy against bytes of all methods, from the results of :mod:`benchmarks.both_directions`.

Prints a table, and draws a plot if asked to: means over the seeds, with the standard deviation as
error bars. The bytes are those of a site in both directions and all rounds.

    python -m benchmarks.accuracy_by_bytes results.jsonl
    python -m benchmarks.accuracy_by_bytes results.jsonl --name ucmerced32 --rounds 60 \
        --plot accuracy.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.both_directions import DENSE, Variant, read_results

MARKERS = "osD^vP*Xdh<>"
LABELED = ("rs-dgc", "dense FedAvg")
"""Methods of which the plot says how many times fewer bytes a point has."""
NEAR_DENSE = 0.95
"""Part of dense FedAvg's final accuracy that the table gives rounds and bytes to."""


@dataclass(frozen=True)
class Point:
    """A variant over its seeds; ``rows`` are those of the results file."""

    variant: str
    rows: list[dict[str, Any]]

    @property
    def method(self) -> str:
        """Name in the legend: all budgets of a method share it."""
        variant = Variant.parse(self.variant)
        if variant.up <= DENSE and variant.down <= DENSE:
            return "dense FedAvg"
        words = [variant.method]
        own = {"own": "own download", "patch": "rs-dgc down" if variant.method != "rs-dgc" else ""}
        words.append("model down" if variant.down <= DENSE else own[variant.download])
        others = ("up", "down", "final", "method", "download")
        changed = [pair for pair in self.variant.split(",") if pair.split("=")[0] not in others]
        return ", ".join(word for word in (*words, *changed) if word)

    def column(self, name: str) -> list[float]:
        """Return a value of every seed."""
        return [row[name] for row in self.rows]

    @property
    def deviation(self) -> float:
        """Standard deviation of the accuracy between seeds (of the sample); 0 with one seed."""
        accuracies = self.column("accuracy")
        return float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0

    @property
    def megabytes(self) -> float:
        """Mean bytes of a site in both directions, in MB."""
        return float(np.mean([row["bytes_up"] + row["bytes_down"] for row in self.rows])) / 1e6

    @property
    def times_fewer(self) -> float:
        """How many times fewer bytes than dense FedAvg."""
        return float(np.mean(self.column("dense_bytes"))) / 1e6 / self.megabytes

    def until(self, accuracies: dict[int, float]) -> tuple[float, float] | None:
        """Return mean round and MB at which runs first had an accuracy, given by seed."""
        reached = []
        for row in self.rows:
            target = accuracies.get(row["seed"], np.inf)
            reached.append(next((mark for mark in row["course"] if mark[2] >= target), None))
        if None in reached:
            return None
        numbers = np.array([mark[:2] for mark in reached if mark], dtype=np.float64)
        rounds, num_bytes = numbers.mean(axis=0)
        return float(rounds), float(num_bytes) / 1e6


def points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Return a point for each variant, in the order of the file."""
    by_variant: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_variant[row["variant"]].append(row)
    return [Point(variant, part) for variant, part in by_variant.items()]


def table(all_points: Sequence[Point]) -> Iterator[str]:
    """Yield a row for each variant."""
    dense = [point for point in all_points if point.method == "dense FedAvg"]
    targets = {row["seed"]: NEAR_DENSE * row["accuracy"] for p in dense for row in p.rows}
    yield (
        "| variant | accuracy | test loss | MB a site | fewer bytes | seeds "
        f"| round with {NEAR_DENSE:.0%} of dense | MB until then |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for point in all_points:
        accuracies = point.column("accuracy")
        mean, deviation = np.mean(accuracies), point.deviation
        seeds = ", ".join(str(seed) for seed in sorted(point.column("seed")))
        near = point.until(targets)
        ends = f"{near[0]:.0f} | {near[1]:.1f}" if near else "– | –"
        yield (
            f"| `{point.variant}` | {mean:.3f} ± {deviation:.3f} | "
            f"{np.mean(point.column('loss')):.3f} | {point.megabytes:.1f} | "
            f"{point.times_fewer:.0f}× | {seeds} | {ends} |"
        )


def plot(all_points: Sequence[Point], path: Path) -> None:
    """Draw accuracy against bytes, a line for each method."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # heavy, and not for every call

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    by_method: dict[str, list[Point]] = defaultdict(list)
    for point in sorted(all_points, key=lambda point: point.megabytes):
        by_method[point.method].append(point)
    # Methods in the order of their best accuracy: as in the plot, from the top.
    order = sorted(
        by_method, key=lambda name: -max(np.mean(p.column("accuracy")) for p in by_method[name])
    )
    for number, name in enumerate(order):
        line = by_method[name]
        axes.errorbar(
            [point.megabytes for point in line],
            [np.mean(point.column("accuracy")) for point in line],
            [point.deviation for point in line],
            marker=MARKERS[number % len(MARKERS)],
            capsize=3,
            label=name,
            linewidth=2.5 if name == "rs-dgc" else 1.2,
        )
        for point in line if name in LABELED else []:
            axes.annotate(
                f"{point.times_fewer:.0f}×",
                (point.megabytes, float(np.mean(point.column("accuracy")))),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize="x-small",
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("MB a site, both directions, all rounds")
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table, and draw the plot if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("results", type=Path, help="file of benchmarks.both_directions --out")
    parser.add_argument("--name", help="archive, if the file has several")
    parser.add_argument("--rounds", type=int, help="rounds, if the file has several")
    parser.add_argument("--model", help="model, if the file has several")
    parser.add_argument("--plot", type=Path, help="image to write, such as accuracy.png")
    args = parser.parse_args()
    chosen_rows = {
        case: row
        for case, row in read_results(args.results).items()
        if args.name in (None, case.data)
        and args.rounds in (None, case.rounds)
        and args.model in (None, case.model)
    }
    runs = sorted({(case.data, case.rounds, case.model) for case in chosen_rows})
    if len(runs) != 1:
        words = ", ".join(f"{model} on {name}, {rounds} rounds" for name, rounds, model in runs)
        parser.error(
            f"{args.results} has these runs: {words or 'none'}; choose with --name, --rounds and "
            "--model"
        )
    chosen = points(list(chosen_rows.values()))
    for line in table(chosen):
        print(line)
    if args.plot:
        plot(chosen, args.plot)


if __name__ == "__main__":
    main()
