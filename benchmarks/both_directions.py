"""Variants of compressed uploads and downloads over a whole run, in one process without Flower.

Each variant trains a federation in which both directions are compressed, and prints accuracy and
test loss of the published model after the last patch, with the bytes of both directions together.

    python -m benchmarks.both_directions data32/ --rounds 20
    python -m benchmarks.both_directions data32/ --rounds 20 --variants up=400,down=400,transform=0
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from benchmarks.federated_training import Federation, Flat
from data_prep.dataset import open_data
from rsdgc import NSI, RMS, Compressor, Scheme, Stamp
from rsdgc.arrays import l2_norm
from rsdgc.channel_transform import ChannelTransform, transformed_part
from rsdgc.feedback import compress_with_feedback, step_ahead_share
from strategies.rate_control import RateControl
from strategies.rs_dgc import ServerMomentum

DENSE = 1.0


@dataclass(frozen=True)
class Variant:
    """A variant of the method.

    Parameters
    ----------
    up, down : float
        How many times smaller than the model uploads and patches are; 1 sends them whole.
    final : float
        The same of the last patch.
    transform : float
        Whether updates and patches are in the channel transform's basis (0 or 1).
    step_ahead : float
        Longest step ahead, in lengths of a site's last change.
    server_momentum : float
        See :mod:`strategies.rs_dgc`.
    kept : float
        Part of true minus published weights that the server keeps after each patch.
    in_flight : float
        Part of its accepted uploads that a site starts ahead by, too, where no patch has published
        anything since.
    look_ahead : float
        Part of the last global step that each patch adds in advance.
    epochs : float
        Local epochs a round.
    """

    up: float = 200.0
    down: float = 67.0
    final: float = 10.0
    transform: float = 1.0
    step_ahead: float = 1.0
    server_momentum: float = 0.0
    kept: float = 1.0
    in_flight: float = 0.0
    look_ahead: float = 0.0
    epochs: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Return the variant that ``name=value,…`` describes."""
        names = {field.name for field in fields(cls)}
        values = dict(pair.split("=") for pair in text.split(",") if pair)
        if not values.keys() <= names:
            raise argparse.ArgumentTypeError(f"{text!r}: choose among {', '.join(sorted(names))}")
        return cls(**{name: float(value) for name, value in values.items()})


VARIANTS = (
    "up=1,down=1",
    "up=400,down=400,final=40",
    "up=400,down=400,final=40,transform=0",
    "up=400,down=400,transform=0",
    "up=800,down=267,transform=0",
    "up=1600,down=229,transform=0",
    "up=200,down=200,transform=0",
    "up=200,down=200,transform=0,kept=0.7",
    "up=200,down=200,transform=0,in_flight=1",
    "up=800,down=267,transform=0,look_ahead=1",
)


class Run:
    """A variant at all sites and at the server."""

    def __init__(self, federation: Federation, variant: Variant) -> None:
        self._federation, self._variant = federation, variant
        self._spec = federation.spec
        self._scheme = Scheme(transform="channels" if variant.transform else "none")
        self._reference = transformed_part(self._spec, federation.start)
        self._weights, self._published = federation.start.copy(), federation.start.copy()
        self._momentum = ServerMomentum(variant.server_momentum, self._spec.size)
        self._up, self._down, self._final = (
            self._rates(times) for times in (variant.up, variant.down, variant.final)
        )
        zeros = np.zeros_like(federation.start)
        count = len(federation.shares)
        self._residuals = [zeros.copy() for _ in range(count)]
        self._in_flight = [zeros.copy() for _ in range(count)]
        self._norms = [0.0] * count
        #: bytes of a site in both directions
        self.num_bytes = 0.0

    def train(self, rounds: int) -> tuple[float, float]:
        """Run all rounds; return accuracy and loss of the published model after the last patch."""
        for number in range(1, rounds + 1):
            step = self._uploads(number)
            self._weights += self._momentum.step(step)
            self._publish(self._down, self._variant.down, number, step)
        self._publish(self._final, self._variant.final, rounds + 1, np.zeros_like(step))
        return self._federation.score(self._published)

    def _rates(self, times: float) -> RateControl:
        rates = RateControl(self._spec, self._scheme, "update", self._spec.dense_bytes / times)
        rates.begin(self._federation.start)
        return rates

    def _transform(self) -> ChannelTransform | None:
        if not self._variant.transform:
            return None
        return ChannelTransform(self._spec, self._published, self._reference)

    def _uploads(self, number: int) -> Flat:
        """Train and compress at all sites; return the mean of what arrives."""
        transform, step = self._transform(), np.zeros_like(self._weights)
        compressor = Compressor(self._spec, self._scheme, NSI())
        for index, share in enumerate(self._federation.shares):
            shift = self._shift(index)
            change, _ = self._federation.change(index, self._published + shift, number)
            self._norms[index] = l2_norm(change)
            if self._variant.up <= DENSE:
                upload, num_bytes = change, self._spec.dense_bytes
            else:
                total = change + self._residuals[index]
                rest, stamp = total.copy(), Stamp(1, number, number - 1)
                update = compress_with_feedback(
                    *(compressor, rest, self._up.ratios, stamp, self._up.target_bytes, transform)
                )
                self._residuals[index], upload = rest, total - rest
                num_bytes = len(update.payload)
            self._in_flight[index] += upload
            step += upload * np.float32(share)
            self.num_bytes += num_bytes / len(self._federation.shares)
        if self._variant.up > DENSE:
            seen = step.copy()
            if transform is not None:
                transform.forward(seen)
            self._up.adjust(self._weights, seen, self._up.budget_bytes)
        return step

    def _shift(self, index: int) -> Flat:
        """Return how far ahead of the published model a site starts."""
        parts = [(self._residuals[index], self._variant.step_ahead)]
        parts.append((self._in_flight[index], self._variant.in_flight))
        shift = np.zeros_like(self._weights)
        for vector, bound in parts:
            shift += np.float32(step_ahead_share(vector, self._norms[index], bound)) * vector
        return shift

    def _publish(self, rates: RateControl, times: float, number: int, step: Flat) -> None:
        """Publish a patch of the present weights."""
        if times <= DENSE:
            self._published[:] = self._weights
            self.num_bytes += self._spec.dense_bytes
            return
        difference = self._weights - self._published
        difference += np.float32(self._variant.look_ahead) * step
        transform = self._transform()
        if transform is not None:
            transform.forward(difference)
        rates.adjust(self._weights, difference, rates.budget_bytes)
        compressor = Compressor(self._spec, self._scheme, RMS())
        stamp = Stamp(1, number, number - 1)
        patch = compressor.compress(difference, rates.ratios, stamp, rates.target_bytes)
        before = self._published.copy()
        if transform is None:
            patch.add_to(self._published)
        else:
            transform.add_to(patch, self._published)
        self.num_bytes += len(patch.payload)
        not_covered = np.float32(self._variant.kept) * (self._published == before)
        self._in_flight = [not_covered * vector for vector in self._in_flight]
        rest = self._weights - self._published
        self._weights = self._published + np.float32(self._variant.kept) * rest


def table(path: Path, seed: int, rounds: int, variants: list[str]) -> Iterator[str]:
    """Yield a row for each variant."""
    yield "| variant | accuracy | test loss | fewer bytes in total |"
    yield "|---|---|---|---|"
    for text in variants:
        variant = Variant.parse(text)
        federation = Federation(open_data(path), seed, rounds=rounds, epochs=int(variant.epochs))
        run = Run(federation, variant)
        accuracy, loss = run.train(rounds)
        fewer = 2 * rounds * federation.spec.dense_bytes / run.num_bytes
        yield f"| {text} | {accuracy:.3f} | {loss:.3f} | {fewer:.0f}× |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="partition folder")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME=VALUE,…")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for line in table(args.data, args.seed, args.rounds, args.variants):
        print(line, flush=True)


if __name__ == "__main__":
    main()
