r"""Accuracy with hostile sites: attacks by some of the sites against the server's defenses.

Trains in one process, without Flower, with the aggregation, norm clipping and error feedback of the
product; for ``rs-dgc`` with its channel transform, server momentum and step-ahead. The model is
sent down whole. Every run is a line of the results file; runs that it has are not run again.

    python -m benchmarks.hostile_sites sites/ --out hostile.jsonl
    python -m benchmarks.hostile_sites sites/ --out hostile.jsonl --seeds 1 2 --shares 0.2 \
        --defenses clip --attacks "×10 flip" "scale ×100" absent
    python -m benchmarks.hostile_sites sites/ --out hostile.jsonl --table --plot hostile.svg
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated_training import Federation, Flat
from data_prep.dataset import open_data
from fl_app.methods import METHODS
from fl_app.settings import Settings
from rsdgc import (
    AGGREGATORS,
    Aggregator,
    Compressor,
    NormClip,
    RsdgcError,
    SparseUpdate,
    Stamp,
    make_indicator,
)
from rsdgc.arrays import l2_norm
from rsdgc.channel_transform import ChannelTransform, transformed_part
from rsdgc.clipping import DEFAULT_MULTIPLE
from rsdgc.feedback import compress_with_feedback, step_ahead_share
from strategies.rate_control import RateControl
from strategies.rs_dgc import ServerMomentum, last_step

METHOD_NAMES = ("dense", "rs-dgc")
ABSENT = "absent"
ATTACKS = ("×10 flip", ABSENT, "scale ×100", "sign flip", "noise", "label flip")
"""Absent sites send nothing: the accuracy that is left without their data."""
FACTORS = {"sign flip": -1.0, "×10 flip": -10.0, "scale ×100": 100.0}
NOISE_LENGTH = 10.0
"""Length of a noise update, in lengths of what the site would have sent."""
DEFENSES = {
    "mean": (0.0, "mean"),
    "clip": (DEFAULT_MULTIPLE, "mean"),
    "trimmed": (DEFAULT_MULTIPLE, "trimmed-mean"),
    "filter": (DEFAULT_MULTIPLE, "sign-agreement"),
}
"""Multiple of norm clipping (0: none) and aggregation rule."""
HOSTILE_SHARES = (0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Case:
    """One run: ``share`` of the sites make the ``attack`` against a ``defense``."""

    method: str
    defense: str
    attack: str
    share: float
    seed: int
    model: str
    rounds: int
    budget: float  #: how many times smaller than the model an upload of ``rs-dgc`` is


class Run:
    """A case's server and sites; the hostile ones keep to the protocol in all but the content."""

    def __init__(self, federation: Federation, case: Case) -> None:
        self.case = case
        self._federation = federation
        spec, count = federation.spec, len(federation.names)
        order = np.random.default_rng(case.seed).permutation(count).tolist()
        self.hostile = set(order[: round(case.share * count)])
        self._flipped = {
            index: federation.with_flipped_labels(index)
            for index in (self.hostile if case.attack == "label flip" else ())
        }
        multiple, rule = DEFENSES[case.defense]
        self._clip, self._rule = NormClip(multiple), AGGREGATORS[rule]
        self._compressed = case.method == "rs-dgc"
        method = METHODS["rs-dgc" if self._compressed else "fedavg"]
        self._momentum = ServerMomentum(method.server_momentum, spec.size)
        self._ahead = method.step_ahead
        scheme = Settings.from_mapping({"method": "rs-dgc"}).scheme()
        self._compressor = Compressor(spec, scheme, make_indicator("nsi"))
        budget_bytes = spec.dense_bytes / case.budget
        self._rates = RateControl(spec, scheme, "update", budget_bytes, rounds=case.rounds)
        self._weights = federation.start.copy()
        self._reference = transformed_part(spec, self._weights)
        self._rates.begin(self._weights)
        self._residuals = [np.zeros_like(self._weights) for _ in range(count)]
        self._lengths = [0.0] * count
        #: updates shortened or left out, of hostile and of honest sites
        self.caught = self.wrongly = 0

    def result(self) -> dict[str, Any]:
        """Run all rounds; return the case with its accuracy, and how many updates were caught."""
        start, ended = time.monotonic(), 0
        try:
            for number in range(1, self.case.rounds + 1):
                ended = number
                self._round(number)
            accuracy = self._federation.accuracy(self._weights)
        except RsdgcError:  # no site can train from such weights any more
            accuracy = 0.0
        sent_by_hostile = self.case.rounds * len(self.hostile)
        sent_by_honest = self.case.rounds * len(self._residuals) - sent_by_hostile
        return asdict(self.case) | {
            "accuracy": accuracy,
            "last_round": ended,
            "caught": self.caught / max(1, sent_by_hostile),
            "wrongly": self.wrongly / sent_by_honest,
            "seconds": round(time.monotonic() - start, 1),
        }

    def _round(self, number: int) -> None:
        federation, uploads = self._federation, self._rule(self._federation.spec, threads=1)
        transform = None
        if self._compressed:
            transform = ChannelTransform(federation.spec, self._weights, self._reference)
        away = self.hostile if self.case.attack == ABSENT else set()
        sent = {
            index: self._send(index, number, uploads, transform)
            for index in range(len(federation.names))
            if index not in away
        }
        shares = self._clip.shares(uploads.norms, uploads.weights)
        uploads.clip(shares)
        if self._momentum.momentum and number > 1:
            uploads.compare_with(lambda: last_step(self._momentum, transform))
        combined = uploads.combine()
        self._clip.record(uploads.norms, uploads.accepted_shares)
        for index, name in enumerate(federation.names):
            share = uploads.accepted_shares.get(name, 1.0)
            if share == 1:
                continue
            self.caught += index in self.hostile
            self.wrongly += index not in self.hostile
            if transform is not None and index not in self.hostile:
                transform.add_to(sent[index], self._residuals[index], 1 - share)
        # A run without a defense may end in weights that no site can train from.
        with np.errstate(over="ignore", invalid="ignore"):
            step = combined
            if transform is not None:
                step = combined.copy()
                transform.inverse(step)
            self._weights = self._weights + self._momentum.step(step)
        if self._compressed:
            self._rates.adjust(self._weights, combined, self._rates.budget_bytes)

    def _send(
        self,
        index: int,
        number: int,
        uploads: Aggregator,
        transform: ChannelTransform | None,
    ) -> SparseUpdate:
        """Train a site, and add its update, honest or not; return what it holds to be sent."""
        change = self._change(index, number)
        factor = FACTORS.get(self.case.attack, 1.0) if index in self.hostile else 1.0
        noisy = index in self.hostile and self.case.attack == "noise"
        if self._compressed:
            change += self._residuals[index]
        update = change * np.float32(factor)
        if noisy:
            rng = np.random.default_rng((self.case.seed, number, index))
            update = rng.standard_normal(change.size).astype(np.float32)
            update *= np.float32(NOISE_LENGTH * l2_norm(change) / l2_norm(update))
        if not self._compressed:
            sent = SparseUpdate.from_dense(self._federation.spec, update)
        else:
            stamp = Stamp(1, number, number - 1)
            ratios, target_bytes = self._rates.ratios, self._rates.target_bytes
            sent = compress_with_feedback(
                *(self._compressor, update, ratios, stamp, target_bytes, transform)
            )
            # So that what a hostile site sends next is as long as before.
            self._residuals[index] = np.zeros_like(update) if noisy else update / np.float32(factor)
        uploads.add(self._federation.names[index], sent, self._federation.chips[index])
        return sent

    def _change(self, index: int, number: int) -> Flat:
        """Return what a site learns, from a step ahead of the model if the method has that."""
        start = self._weights
        if self._compressed and self._ahead:
            residual = self._residuals[index]
            part = step_ahead_share(residual, self._lengths[index], self._ahead)
            start = start + np.float32(part) * residual
        change, _ = self._federation.change(index, start, number, self._flipped.get(index))
        self._lengths[index] = l2_norm(change)
        return change


def cases(
    methods: Sequence[str], seeds: Sequence[int], model: str, rounds: int, budget: float
) -> Iterator[Case]:
    """Yield all cases: without hostile sites first, then by share, the smallest one last."""
    settings = (model, rounds, budget)
    for seed, method, defense in product(seeds, methods, DEFENSES):
        yield Case(method, defense, "none", 0.0, seed, *settings)
    for seed, share, attack in product(seeds, (*HOSTILE_SHARES[1:], HOSTILE_SHARES[0]), ATTACKS):
        for method, defense in product(methods, DEFENSES):
            if attack != ABSENT or defense == "mean":
                yield Case(method, defense, attack, share, seed, *settings)


def read_results(path: Path) -> dict[Case, dict[str, Any]]:
    """Return the results of a file by their case."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = Case.__dataclass_fields__
    return {Case(**{name: row[name] for name in names}): row for row in rows}


def table(results: dict[Case, dict[str, Any]]) -> Iterator[str]:
    """Yield the table of accuracies, means over seeds; a dash for what is not there."""
    yield "| method | attack | hostile | " + " | ".join(DEFENSES) + " |"
    yield "|---|---|---|" + "---|" * len(DEFENSES)
    for method in METHOD_NAMES:
        for attack, share in [("none", 0.0), *product(ATTACKS, HOSTILE_SHARES)]:
            means = [mean_accuracy(results, method, attack, share, name) for name in DEFENSES]
            cells = ["–" if mean is None else f"{mean:.3f}" for mean in means]
            yield f"| {method} | {attack} | {share:.0%} | " + " | ".join(cells) + " |"


def mean_accuracy(
    results: dict[Case, dict[str, Any]], method: str, attack: str, share: float, defense: str
) -> float | None:
    """Return the mean accuracy of the cases that differ in nothing but the seed."""
    wanted = (method, defense, attack if share else "none", share)
    accuracies = [
        row["accuracy"]
        for case, row in results.items()
        if (case.method, case.defense, case.attack, case.share) == wanted
    ]
    return float(np.mean(accuracies)) if accuracies else None


def plot(results: dict[Case, dict[str, Any]], path: Path) -> None:
    """Draw accuracy against the share of hostile sites, a panel for each method and attack."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # heavy, and not for every call

    figure = Figure(figsize=(11, 5), layout="constrained")
    attacks = [attack for attack in ATTACKS if attack != ABSENT]
    panels = figure.subplots(len(METHOD_NAMES), len(attacks), sharex=True, sharey=True)
    markers = dict(zip(DEFENSES, "xosv", strict=True))
    for (method, attack), panel in zip(product(METHOD_NAMES, attacks), panels.flat, strict=True):
        lines = [(defense, attack, defense, f"-{markers[defense]}") for defense in DEFENSES]
        for label, kind, defense, style in [("these sites absent", ABSENT, "mean", "k:"), *lines]:
            points = [
                (100 * share, accuracy)
                for share in (0.0, *HOSTILE_SHARES)
                if (accuracy := mean_accuracy(results, method, kind, share, defense)) is not None
            ]
            xs, ys = zip(*points, strict=True) if points else ((), ())
            panel.plot(xs, ys, style, label=label)
        panel.set_title(f"{method}, {attack}", fontsize="medium")
        panel.grid(alpha=0.3)
    panels.flat[0].set_ylim(bottom=0)  # of all: they share the axis
    figure.supxlabel("hostile sites, %")
    figure.supylabel("accuracy")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    figure.savefig(path, dpi=110)


def _chosen(case: Case, args: argparse.Namespace) -> bool:
    """Return whether the options ask for a case; those without an attack are for comparison."""
    if case.attack == "none":
        return case.defense in args.defenses
    known = case.attack == ABSENT or case.defense in args.defenses
    return known and case.attack in args.attacks and case.share in args.shares


def main() -> None:
    """Run what the results file lacks; print the table, and draw the plot if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="partition folder, of ten sites or so")
    parser.add_argument("--out", type=Path, required=True, help="results, a JSON line each")
    parser.add_argument("--methods", nargs="+", choices=METHOD_NAMES, default=METHOD_NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=100.0, help="of rs-dgc, times smaller")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--plot", type=Path, help="image to write, such as hostile.svg")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=ATTACKS)
    parser.add_argument("--defenses", nargs="+", choices=DEFENSES, default=tuple(DEFENSES))
    parser.add_argument("--shares", type=float, nargs="+", default=HOSTILE_SHARES)
    args = parser.parse_args()
    results = read_results(args.out)
    federations: dict[int, Federation] = {}
    settings = (args.model, args.rounds, args.budget)
    for case in () if args.table else cases(args.methods, args.seeds, *settings):
        if case in results or not _chosen(case, args):
            continue
        if case.seed not in federations:
            data = open_data(args.data)
            federations[case.seed] = Federation(data, case.seed, args.model, args.rounds)
        results[case] = Run(federations[case.seed], case).result()
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(results[case]) + "\n")
        print(results[case], flush=True)
    for line in table(results):
        print(line)
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
