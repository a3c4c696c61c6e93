r"""Methods, rivals and variants over a whole run, both directions, in one process without Flower.

Each variant trains a federation in which both directions are compressed. Accuracy and test loss are
those of the published model after the last patch; the bytes are those of uploads and patches. Every
run is a line of the results file, if there is one; runs that it has are not run again.

    python -m benchmarks.both_directions data32/ --rounds 20
    python -m benchmarks.both_directions data32/ --rounds 20 --variants up=400,down=400,transform=0
    python -m benchmarks.both_directions data32/ --rounds 60 --seed 1 --out results.jsonl \
        --variants up=1,down=1 up=200,down=200,final=40 \
        method=sparseloco,up=200,down=200,final=40 method=powersgd,up=100,download=own
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.federated_training import MODEL, Federation, Flat
from benchmarks.rivals import RIVALS, Rival
from data_prep.dataset import open_data
from fl_app.methods import METHODS
from fl_app.settings import Settings
from rsdgc import Compressor, Indicator, Scheme, Stamp, make_indicator
from rsdgc.arrays import l2_norm
from rsdgc.channel_transform import ChannelTransform, transformed_part
from rsdgc.feedback import compress_with_feedback, step_ahead_share
from strategies.rate_control import Policy, RateControl
from strategies.rs_dgc import ServerMomentum

DENSE = 1.0
OWN_METHOD = "rs-dgc"
METHOD_NAMES = (OWN_METHOD, "topk", "topk-naive", "random-k", "stc", *RIVALS)
"""The app's methods that have error feedback over rounds of whole epochs, and the rivals."""
DOWNLOADS = ("patch", "own")
COURSE_POINTS = 20
"""How often a run is scored on its way, for the results file."""


@dataclass(frozen=True)
class Variant:
    """A variant of a method.

    Parameters
    ----------
    method : str
        A method of the app with error feedback, or a rival (:mod:`benchmarks.rivals`).
    download : {"patch", "own"}
        Patches of ``rs-dgc``, or the way of the method itself: patches in its own coding for
        methods of the app; what the paper has for rivals (``down`` and ``final`` then mean
        nothing).
    up, down : float
        How many times smaller than the model uploads and patches are; 1 sends them whole.
    final : float
        The same of the last patch.
    transform : float, optional
        Whether uploads are in the channel transform's basis, and patches of ``rs-dgc`` (0 or 1). By
        default as the method has it, and patches of ``rs-dgc`` are.
    step_ahead : float, optional
        Longest step ahead, in lengths of a site's last change. By default the method's.
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

    method: str = OWN_METHOD
    download: str = "patch"
    up: float = 200.0
    down: float = 67.0
    final: float = 10.0
    transform: float | None = None
    step_ahead: float | None = None
    server_momentum: float = 0.0
    kept: float = 1.0
    in_flight: float = 0.0
    look_ahead: float = 0.0
    epochs: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Return the variant that ``name=value,…`` describes."""
        known = {item.name: item.type for item in fields(cls)}
        values = dict(pair.split("=") for pair in text.split(",") if pair)
        if not values.keys() <= known.keys():
            raise argparse.ArgumentTypeError(f"{text!r}: choose among {', '.join(sorted(known))}")
        words: dict[str, Any] = {
            name: word if known[name] == "str" else float(word) for name, word in values.items()
        }
        for name, allowed in (("method", METHOD_NAMES), ("download", DOWNLOADS)):
            if words.get(name, allowed[0]) not in allowed:
                msg = f"{name}={words[name]}: choose among {', '.join(allowed)}"
                raise argparse.ArgumentTypeError(msg)
        return cls(**words)


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


@dataclass(frozen=True)
class Coding:
    """How one direction is compressed."""

    scheme: Scheme
    indicator: Indicator
    policy: Policy

    @classmethod
    def of_method(cls, name: str, transform: float | None, indicator: str = "") -> Coding:
        """Return the coding of a method of the app, or of ``rs-dgc`` for a rival."""
        words: dict[str, Any] = {"method": name if name in METHODS else OWN_METHOD}
        if transform is not None:
            words["transform"] = "channels" if transform else "none"
        settings = Settings.from_mapping(words)
        chosen = make_indicator(indicator or settings.resolved("indicator"))
        return cls(settings.scheme(), chosen, settings.resolved("ratio_policy"))


@dataclass
class Traffic:
    """Bytes of a site in all rounds."""

    up: float = 0.0
    down: float = 0.0
    #: of the rounds that were scored: round, bytes so far, accuracy, test loss
    course: list[tuple[int, int, float, float]] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Bytes of both directions."""
        return self.up + self.down


class Run:
    """A variant at all sites and at the server."""

    def __init__(self, federation: Federation, variant: Variant) -> None:
        self._federation, self._variant = federation, variant
        self._spec = spec = federation.spec
        method, transform = variant.method, variant.transform
        self._upload_coding = Coding.of_method(method, transform)
        if variant.download == "own" and method in METHODS:
            self._patch_coding = self._upload_coding
        else:
            self._patch_coding = Coding.of_method(OWN_METHOD, transform, indicator="rms")
        self._rival: Rival | None = None
        if method in RIVALS:
            budget_bytes = spec.dense_bytes / variant.up
            self._rival = RIVALS[method](spec, federation.shares, budget_bytes)
        ahead = METHODS[method].step_ahead if method in METHODS else 0.0
        self._step_ahead = ahead if variant.step_ahead is None else variant.step_ahead
        self._reference = transformed_part(spec, federation.start)
        self._weights, self._published = federation.start.copy(), federation.start.copy()
        self._momentum = ServerMomentum(variant.server_momentum, spec.size)
        self._up = self._rates(self._upload_coding, variant.up)
        self._down, self._final = (
            self._rates(self._patch_coding, times) for times in (variant.down, variant.final)
        )
        zeros = np.zeros_like(federation.start)
        count = len(federation.shares)
        self._residuals = [zeros.copy() for _ in range(count)]
        self._in_flight = [zeros.copy() for _ in range(count)]
        self._norms = [0.0] * count
        self.traffic = Traffic()

    def train(self, rounds: int, *, course: bool = False) -> tuple[float, float]:
        """Run all rounds; return accuracy and loss of the published model after the last patch.

        ``course`` also scores the model on the way.
        """
        every = max(1, rounds // COURSE_POINTS)
        own = self._rival is not None and self._variant.download == "own"
        for number in range(1, rounds + 1):
            rival = self._rival
            step = self._uploads(number) if rival is None else self._rival_step(rival, number)
            self._weights += self._momentum.step(step)
            if own:
                self._published[:] = self._weights
            else:
                self._publish(self._down, self._variant.down, number, step)
            if course and number % every == 0 and number < rounds:
                score = self._federation.score(self._published)
                self.traffic.course.append((number, round(self.traffic.total), *score))
        if not own and self._variant.down > DENSE:  # a whole model leaves nothing for a last patch
            self._publish(self._final, self._variant.final, rounds + 1, np.zeros_like(step))
        score = self._federation.score(self._published)
        if course:
            self.traffic.course.append((rounds, round(self.traffic.total), *score))
        return score

    def _rates(self, coding: Coding, times: float) -> RateControl:
        budget_bytes = self._spec.dense_bytes / times
        rates = RateControl(self._spec, coding.scheme, coding.policy, budget_bytes)
        rates.begin(self._federation.start)
        return rates

    def _transform(self, coding: Coding) -> ChannelTransform | None:
        if coding.scheme.transform == "none":
            return None
        return ChannelTransform(self._spec, self._published, self._reference)

    def _rival_step(self, rival: Rival, number: int) -> Flat:
        """Train at all sites from the published model; return the rival's step."""
        changes, _ = self._federation.changes(self._published, number)
        step = rival.step(changes, number)
        self.traffic.up += rival.bytes_up
        if self._variant.download == "own":
            self.traffic.down += rival.bytes_down
        return step

    def _uploads(self, number: int) -> Flat:
        """Train and compress at all sites; return the mean of what arrives."""
        coding, count = self._upload_coding, len(self._federation.shares)
        transform, step = self._transform(coding), np.zeros_like(self._weights)
        compressor = Compressor(self._spec, coding.scheme, coding.indicator)
        sizes = []
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
                upload = total - rest
                self._residuals[index] = rest
                num_bytes = len(update.payload)
            self._in_flight[index] += upload
            step += upload * np.float32(share)
            self.traffic.up += num_bytes / count
            sizes.append(num_bytes)
        if self._variant.up > DENSE:
            seen = step.copy()
            if transform is not None:
                transform.forward(seen)
            self._adjust(self._up, coding, seen, float(np.mean(sizes)))
        return step

    def _adjust(self, rates: RateControl, coding: Coding, seen: Flat, num_bytes: float) -> None:
        """Set the next ratios; dead-zone levels fit their budget without a correction."""
        joint = coding.scheme.values == "deadzone"
        rates.adjust(self._weights, seen, rates.budget_bytes if joint else num_bytes)

    def _shift(self, index: int) -> Flat:
        """Return how far ahead of the published model a site starts."""
        parts = (
            (self._residuals[index], self._step_ahead),
            (self._in_flight[index], self._variant.in_flight),
        )
        shift = np.zeros_like(self._weights)
        for vector, bound in parts:
            shift += np.float32(step_ahead_share(vector, self._norms[index], bound)) * vector
        return shift

    def _publish(self, rates: RateControl, times: float, number: int, step: Flat) -> None:
        """Publish a patch of the present weights."""
        if times <= DENSE:
            self._published[:] = self._weights
            self.traffic.down += self._spec.dense_bytes
            return
        coding = self._patch_coding
        difference = self._weights - self._published
        difference += np.float32(self._variant.look_ahead) * step
        transform = self._transform(coding)
        if transform is not None:
            transform.forward(difference)
        if coding.scheme.values == "deadzone":
            rates.adjust(self._weights, difference, rates.budget_bytes)
        compressor = Compressor(self._spec, coding.scheme, coding.indicator)
        stamp = Stamp(1, number, number - 1)
        patch = compressor.compress(difference, rates.ratios, stamp, rates.target_bytes)
        if coding.scheme.values != "deadzone":
            rates.adjust(self._weights, difference, len(patch.payload))
        before = self._published.copy()
        if transform is None:
            patch.add_to(self._published)
        else:
            transform.add_to(patch, self._published)
        self.traffic.down += len(patch.payload)
        not_covered = np.float32(self._variant.kept) * (self._published == before)
        self._in_flight = [not_covered * vector for vector in self._in_flight]
        rest = self._weights - self._published
        self._weights = self._published + np.float32(self._variant.kept) * rest


@dataclass(frozen=True)
class Case:
    """One run: a variant on an archive."""

    data: str
    rounds: int
    seed: int
    variant: str
    model: str = MODEL

    def result(self, path: Path, *, course: bool) -> dict[str, Any]:
        """Run it; return the case with accuracy, loss, and bytes of a site in all rounds."""
        start, variant = time.monotonic(), Variant.parse(self.variant)
        epochs = int(variant.epochs)
        federation = Federation(open_data(path), self.seed, self.model, self.rounds, epochs)
        run = Run(federation, variant)
        accuracy, loss = run.train(self.rounds, course=course)
        return vars(self) | {
            "accuracy": accuracy,
            "loss": loss,
            "bytes_up": round(run.traffic.up),
            "bytes_down": round(run.traffic.down),
            "dense_bytes": 2 * self.rounds * federation.spec.dense_bytes,
            "course": run.traffic.course,
            "seconds": round(time.monotonic() - start, 1),
        }


def read_results(path: Path) -> dict[Case, dict[str, Any]]:
    """Return the results of a file by their case."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = [item.name for item in fields(Case)]
    return {Case(**{name: row[name] for name in names if name in row}): row for row in rows}


def _checked(text: str) -> str:
    """Return the text of a variant; argparse reports one that does not exist."""
    Variant.parse(text)
    return text


def main() -> None:
    """Run what the results file lacks; print a row for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path, help="partition folder")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--variants", type=_checked, nargs="+", default=list(VARIANTS), metavar="NAME=VALUE,…"
    )
    parser.add_argument("--model", default=MODEL, help="see rsdgc models")
    parser.add_argument("--out", type=Path, help="results, a JSON line each")
    parser.add_argument(
        "--name", help="of the archive in the results, for partitions by seed; default: the folder"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = read_results(args.out) if args.out else {}
    print("| variant | accuracy | test loss | fewer bytes in total |")
    print("|---|---|---|---|", flush=True)
    for text in args.variants:
        case = Case(args.name or args.data.name, args.rounds, args.seed, text, args.model)
        if case not in results:
            results[case] = case.result(args.data, course=args.out is not None)
            if args.out:
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(results[case]) + "\n")
        row = results[case]
        fewer = row["dense_bytes"] / (row["bytes_up"] + row["bytes_down"])
        print(f"| {text} | {row['accuracy']:.3f} | {row['loss']:.3f} | {fewer:.0f}× |", flush=True)


if __name__ == "__main__":
    main()
