"""Error feedback over a whole run: what the residuals hold, and variants that might shrink them.

Runs variants of the default method in one process, without Flower and with an uncompressed
download. Prints for each how far its training lags behind dense FedAvg.

    python -m benchmarks.feedback_variants data/ --budgets 100 200
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.federated_training import ROUNDS, Federation, Flat
from data_prep.dataset import open_data
from rsdgc import NSI, Compressor, Scheme, Stamp
from rsdgc.feedback import compress_with_feedback
from strategies.rate_control import RateControl
from strategies.rs_dgc import ServerMomentum

WINDOW = 5
MOMENTUM = 0.4
MEASURED_ROUNDS = (15, 30, 45)
"""Rounds in which residuals are measured."""


@dataclass(frozen=True)
class Variant:
    """One variant of the method.

    Parameters
    ----------
    first, last : float
        Budget of the first and of the last round, relative to the mean; linear between them.
    scaled : bool
        Whether residuals shrink with the learning rate, as if they were kept as gradients.
    predicted : float
        Fraction of the last global step that sites subtract before they compress, and that the
        server adds.
    drift : float
        Rate at which a site learns its persistent deviation from the global step. It subtracts
        the deviation before it compresses; over all sites the deviations cancel.
    server_momentum : float
        See :mod:`strategies.rs_dgc`.
    """

    name: str
    first: float = 1.0
    last: float = 1.0
    scaled: bool = False
    predicted: float = 0.0
    drift: float = 0.0
    server_momentum: float = 0.0


VARIANTS = (
    Variant("unchanged"),
    Variant("budget rising from 0.4 to 1.6", first=0.4, last=1.6),
    Variant("budget falling from 1.6 to 0.4", first=1.6, last=0.4),
    Variant("residual scaled with the learning rate", scaled=True),
    Variant("half the last global step predicted", predicted=0.5),
    Variant("without the sites' persistent drift", drift=0.3),
    Variant(f"server momentum {MOMENTUM}", server_momentum=MOMENTUM),
)


@dataclass
class Trace:
    """Measurements of a run.

    Attributes
    ----------
    residuals : list of tuple of float
        In the measured rounds: ‖residual‖ / ‖change‖, the cosines of a change with the site's
        last change and with the last global step, and the share of the energy of change plus
        residual that the upload captures; means over the sites.
    accuracy, with_residuals : float
        Of the final model, and of the same model plus all residuals.
    """

    losses: list[float] = field(default_factory=list)
    residuals: list[tuple[float, ...]] = field(default_factory=list)
    accuracy: float = 0.0
    with_residuals: float = 0.0


def dense(federation: Federation, server_momentum: float = 0.0) -> Trace:
    """Run FedAvg, or FedAvgM."""
    trace, weights = Trace(), federation.start
    momentum = ServerMomentum(server_momentum, weights.size)
    for number in range(1, ROUNDS + 1):
        changes, loss = federation.changes(weights, number)
        trace.losses.append(loss)
        weights = weights + momentum.step(federation.mean(changes))
    trace.accuracy = federation.accuracy(weights)
    return trace


class Run:
    """A variant at all sites and at the server; uploads are ``times`` smaller, in the mean."""

    def __init__(self, federation: Federation, variant: Variant, times: float) -> None:
        self._federation = federation
        self._variant = variant
        self._spec = federation.spec
        self._mean_bytes = self._spec.dense_bytes / times
        self._compressor = Compressor(self._spec, Scheme(), NSI())
        self._rates = RateControl(self._spec, Scheme(), "update", self._budget(1))
        self._weights = federation.start
        self._rates.begin(self._weights)
        self._step = np.zeros_like(self._weights)
        count = len(federation.shares)
        self._residuals, self._drifts = (
            [np.zeros_like(self._weights) for _ in range(count)] for _ in range(2)
        )
        self._momentum = ServerMomentum(variant.server_momentum, self._spec.size)

    def trace(self) -> Trace:
        """Run all rounds."""
        trace, last = Trace(), self._residuals
        for number in range(1, ROUNDS + 1):
            changes, loss = self._federation.changes(self._weights, number)
            trace.losses.append(loss)
            by_site = [
                (norm(residual) / norm(change), cosine(change, before), cosine(change, self._step))
                for change, residual, before in zip(changes, self._residuals, last, strict=True)
            ]
            captured = self._round(changes, number)
            if number in MEASURED_ROUNDS:
                trace.residuals.append((*np.mean(by_site, axis=0).tolist(), captured))
            last = changes
        trace.accuracy = self._federation.accuracy(self._weights)
        final = self._weights + self._federation.mean(self._residuals)
        trace.with_residuals = self._federation.accuracy(final)
        return trace

    def _round(self, changes: list[Flat], number: int) -> float:
        """Compress, aggregate, step; return the mean share of energy that the uploads captured."""
        variant, federation, rates = self._variant, self._federation, self._rates
        decrease = federation.rate(number) / federation.rate(number - 1) if number > 1 else 1.0
        decay = np.float32(decrease if variant.scaled else 1.0)
        prediction = np.float32(variant.predicted) * self._step
        uploads, captured = [], []
        for index, change in enumerate(changes):
            target = change + decay * self._residuals[index] - self._drifts[index] - prediction
            stamp, residual = Stamp(1, number, 0), target.copy()
            compress_with_feedback(
                self._compressor, residual, rates.ratios, stamp, rates.target_bytes
            )
            captured.append(1.0 - (norm(residual) / norm(target)) ** 2)
            uploads.append(target - residual)
            self._residuals[index] = residual
        self._step = federation.mean(uploads) + prediction
        if variant.drift:
            for index, upload in enumerate(uploads):
                deviation = upload + prediction - self._step
                self._drifts[index] += np.float32(variant.drift) * deviation
        self._weights = self._weights + self._momentum.step(self._step)
        rates.budget_bytes = self._budget(number + 1)
        rates.adjust(self._weights, self._step, rates.budget_bytes)
        return float(np.mean(captured))

    def _budget(self, number: int) -> float:
        """Return the budget of this round's uploads, in bytes."""
        first, last = self._variant.first, self._variant.last
        return self._mean_bytes * (first + (last - first) * (number - 0.5) / ROUNDS)


def norm(vector: Flat) -> float:
    """Return the L2 norm."""
    return float(np.linalg.norm(vector))


def cosine(a: Flat, b: Flat) -> float:
    """Return the cosine of the angle between two vectors; 0 if one of them is 0."""
    lengths = norm(a) * norm(b)
    return float(a @ b) / lengths if lengths else 0.0


def lag(losses: list[float], reference: list[float]) -> float:
    """Return by how many rounds the loss trails the reference's, in the mean over the run.

    Both are smoothed. Only rounds up to the reference's lowest loss count: after it, a loss has
    no round of the reference to be compared with.
    """
    kernel = np.ones(WINDOW) / WINDOW
    own, base = (np.convolve(values, kernel, "valid") for values in (losses, reference))
    lowest = int(base.argmin())
    behind = [
        number - float(np.interp(-own[number], -base[: lowest + 1], np.arange(lowest + 1.0)))
        for number in range(WINDOW, lowest)
        if own[number] >= base[lowest]
    ]
    return float(np.mean(behind)) if behind else math.nan


def table(federation: Federation, budgets: list[float]) -> Iterator[str]:
    """Yield a row for each budget, and for each variant at the last of them."""
    reference, with_momentum = dense(federation), dense(federation, MOMENTUM)
    yield "| budget | variant | accuracy | with residuals added | loss, last rounds | lag, rounds |"
    yield "|---|---|---|---|---|---|"
    for name, trace in (("FedAvg", reference), (f"FedAvgM, {MOMENTUM}", with_momentum)):
        final = np.mean(trace.losses[-WINDOW:])
        yield f"| 1× | dense {name} | {trace.accuracy:.3f} | | {final:.3f} | |"
    traces = {}
    for times in budgets:
        for variant in VARIANTS if times == budgets[-1] else VARIANTS[:1]:
            trace = Run(federation, variant, times).trace()
            traces[times, variant.name] = trace
            behind = lag(trace.losses, reference.losses)
            final = np.mean(trace.losses[-WINDOW:])
            ends = f"{trace.accuracy:.3f} | {trace.with_residuals:.3f} | {final:.3f}"
            yield f"| {times:g}× | {variant.name} | {ends} | {behind:.1f} |"
    yield ""
    yield "| budget | round | residual/change | cosine: last change | last step | captured |"
    yield "|---|---|---|---|---|---|"
    for times in budgets:
        residuals = traces[times, VARIANTS[0].name].residuals
        for number, figures in zip(MEASURED_ROUNDS, residuals, strict=True):
            yield f"| {times:g}× | {number} | " + " | ".join(f"{v:.2f}" for v in figures) + " |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="partition folder")
    parser.add_argument("--budgets", type=float, nargs="+", default=[100.0, 200.0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for line in table(Federation(open_data(args.data), args.seed), args.budgets):
        print(line, flush=True)


if __name__ == "__main__":
    main()
