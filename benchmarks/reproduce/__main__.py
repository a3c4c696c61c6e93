"""Run what the results file lacks; print the table. See :mod:`benchmarks.reproduce`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reproduce.experiments import EXPERIMENTS, Experiment, describe, experiment
from benchmarks.reproduce.gradient_methods import METHODS, find_method
from benchmarks.reproduce.process_group import Arguments, Case, run_node, start_nodes
from rsdgc.errors import RsdgcError, SettingError


def cases(
    methods: Sequence[str], budgets: Sequence[float], seeds: Sequence[int], chosen: Experiment
) -> Iterator[Case]:
    """Yield all cases, one seed after another; dense training has one budget, its own."""
    for seed in seeds:
        for method in methods:
            for times in [1.0] if find_method(method) is None else budgets:
                yield Case(method, times, seed, chosen)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def has_run(case: Case, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether a case is among the results."""
    wanted = case.values()
    return any({name: row.get(name) for name in wanted} == wanted for row in rows)


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line a method and budget: means over the seeds, and what differs from dense.

    The difference is that of runs with the same seed, in points; its sign in each seed is counted.
    """
    yield "| method | asked | sent, fewer bytes | accuracy | test loss | to dense, points | seeds |"
    yield "|---|---|---|---|---|---|---|"
    names = Experiment.model_fields
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (*(row[name] for name in names), row["method"], row["times"])
        groups.setdefault(key, []).append(row)
    for key, group in groups.items():
        done = [row for row in group if "accuracy" in row]
        method, times = key[-2:]
        if not done:
            yield f"| {method} | {times:g}× | failed: {group[0].get('failed')} | | | | |"
            continue
        accuracies = [row["accuracy"] for row in done]
        dense = {
            row["seed"]: row["accuracy"]
            for other, their in groups.items()
            if other[:-2] == key[:-2] and other[-2] == "dense"
            for row in their
            if "accuracy" in row
        }
        pairs = [100 * (r["accuracy"] - dense[r["seed"]]) for r in done if r["seed"] in dense]
        fewer = np.mean([row["dense_bytes"] / row["bytes_sent"] for row in done])
        spread = f" ± {np.std(accuracies, ddof=1):.3f}" if len(done) > 1 else ""
        to_dense = f"{np.mean(pairs):+.1f}" if pairs and method != "dense" else ""
        yield (
            f"| `{method}` | {times:g}× | {fewer:.1f}× | {np.mean(accuracies):.3f}{spread} "
            f"| {np.mean([row['test_loss'] for row in done]):.3f} | {to_dense} "
            f"| {', '.join(str(row['seed']) for row in done)} |"
        )


def main() -> None:
    """Run what the results file lacks, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce",
        description=__doc__.splitlines()[0] if __doc__ else "",
    )
    parser.add_argument("data", type=Path, help="class folders, a store or a partition")
    parser.add_argument("--out", type=Path, required=True, help="results, a JSON line each")
    parser.add_argument("--experiment", choices=EXPERIMENTS, default="small")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="see --describe")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--budgets", nargs="+", type=float, default=[50.0, 100.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a node")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--describe", action="store_true", help="print the experiment's values")
    args = parser.parse_args()
    if args.describe:
        print("\n".join(describe(args.experiment)))
        return
    try:
        chosen = experiment(args.experiment, dict(word.partition("=")[::2] for word in args.set))
        wanted = list(cases(args.methods, args.budgets, args.seeds, chosen))
    except SettingError as error:
        parser.exit(2, f"error: {error}\n")
    rows = read_results(args.out)
    pending = [case for case in wanted if not has_run(case, rows)]
    group = Arguments(args.data, args.out, args.device, args.threads, chosen, pending)
    if not args.table:
        try:
            # Under torchrun even without a pending case, for other machines wait for what rank 0
            # has to do.
            if "RANK" in os.environ:
                run_node(int(os.environ["RANK"]), group)
            elif pending:
                start_nodes(group)
        except RsdgcError as error:
            parser.exit(2, f"error: {error}\n")
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(table(read_results(args.out))))


if __name__ == "__main__":
    main()
