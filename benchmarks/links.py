"""Seconds per round over slow links: dense FedAvg compared with rs-dgc.

Starts a real SuperLink and three real SuperNodes. Each site has a network namespace with a shaped
link to the server (:mod:`benchmarks.netns`), which needs root. Local training is a few steps on a
few small chips, so that the figures measure the link and the app's own work. The rate ``none`` is
a link without a limit.

    python -m benchmarks.links --models resnet18 vgg19 --rates none 10 1 0.256 --rounds 3
    python -m benchmarks.links --models small-resnet --rates 1 --rounds 30 --data data/ --steps 0

A run is skipped if a round would take longer than ``--patience-s``. Its time is then computed from
the fastest link measured and the bytes on the wire, and marked as computed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.archives import write_images
from benchmarks.netns import Network, check_able, inside, network
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.partition import partition
from fl_app.flower.command import FlowerCli
from fl_app.flower.processes import managed_process
from fl_app.flower.superlink import superlink, tool
from fl_app.settings import Scalar, Settings, parse_overrides
from rsdgc.errors import RsdgcError, RunError

CLASSES = 10
PER_CLASS = 15
CHIP_PX = 32
ROUND_TIMEOUT_S = 4 * 3600.0
"""The app's own default, an hour, is less than a dense round of VGG-19 takes at 1 Mbit/s."""

_ROUND = re.compile(r"^round +(\d+)/\d+ .* \| (\d+\.\d) s \|")


@dataclass
class Outcome:
    """Measurements of one run, or what is computed instead of them.

    Attributes
    ----------
    seconds : list of float
        Of each round, from the first message to the new model.
    bytes_down, bytes_up : float
        Content of a site's messages in a round after the first.
    wire : float
        Bytes that the sites' links carried, divided by the content of the messages.
    whole_s : float
        Seconds from the first round's start to the report; 0 if the run was ended before it.
    problem : str
        Why the run failed; empty if it did not.
    """

    model: str
    method: str
    rate_mbit: float | None
    seconds: list[float] = field(default_factory=list)
    bytes_down: float = 0.0
    bytes_up: float = 0.0
    wire: float = 1.0
    whole_s: float = 0.0
    accuracy: list[float | None] = field(default_factory=list)
    problem: str = ""
    computed: bool = False

    @property
    def round_s(self) -> float:
        """Median over the rounds after the first; rs-dgc sends a model in none of them."""
        return statistics.median(self.seconds[1:] or self.seconds or [float("nan")])


def computed(fastest: Outcome, rate_mbit: float) -> Outcome:
    """Return how long a round would take over a slower link: only its bytes take longer."""
    s_per_mbit = 1 / rate_mbit - (1 / fastest.rate_mbit if fastest.rate_mbit else 0.0)
    wire_bits = 8 * fastest.wire * (fastest.bytes_down + fastest.bytes_up)
    seconds = fastest.round_s + wire_bits / 1e6 * s_per_mbit
    return replace(fastest, rate_mbit=rate_mbit, seconds=[seconds], computed=True, whole_s=0.0)


def measure(
    model: str, method: str, rate_mbit: float | None, data: Path, args: argparse.Namespace
) -> Outcome:
    """Measure one run over new links."""
    outcome = Outcome(model, method, rate_mbit)
    with (
        tempfile.TemporaryDirectory(prefix="rsdgc-links-", dir=args.work) as folder,
        network([rate_mbit] * args.sites) as net,
        ExitStack() as processes,
    ):
        work = Path(folder)
        home = work / "flower"
        home.mkdir()
        one_thread = {"OMP_NUM_THREADS": "1"}
        with inside(net.server):
            server = superlink(home, simulation=False, variables=one_thread, host="0.0.0.0")
            environment, port = processes.enter_context(server)
        for number, link in enumerate(net.links):
            name = f"site-{number:02}"
            node = f'site-name="{name}" data-dir="{data}" state-dir="{work / "state" / name}"'
            command = [tool("flower-supernode"), "--insecure", "--superlink"]
            command += [f"{link.server}:{port}", "--node-config", node]
            with inside(link.namespace):
                processes.enter_context(managed_process(command, environment, work / f"{name}.log"))
        with inside(net.server):
            flower = FlowerCli(environment)
            _follow(outcome, flower, flower.submit(_settings(outcome, work, args)), args)
        _read_results(outcome, net, work / "run")
        if args.logs:
            args.logs.mkdir(parents=True, exist_ok=True)
            for path in (*work.glob("*.log"), home / "superlink.log"):
                label = f"{model}-{method}-{rate_mbit}-{path.name}"
                (args.logs / label).write_bytes(path.read_bytes())
    return outcome


def _settings(outcome: Outcome, work: Path, args: argparse.Namespace) -> Settings:
    values: dict[str, Scalar] = {
        "model": outcome.model,
        "method": outcome.method,
        "rounds": args.rounds,
        "local-steps": args.steps,
        "batch-size": args.batch,
        "seed": args.seed,
        "out": str(work / "run"),
        "min-sites": args.sites,
        "quorum": args.sites,
        "round-timeout-s": ROUND_TIMEOUT_S,
        "join-timeout-s": 900.0,
        "checkpoint-every": 0,
        "device": "cpu",
        "threads": 1,
    }
    return Settings.from_mapping({**values, **parse_overrides(args.set)})


class _LastRoundError(Exception):
    """The last round to measure is over."""


def _follow(outcome: Outcome, flower: FlowerCli, run_id: str, args: argparse.Namespace) -> None:
    """Read the log until the run ends, or with ``--rounds-only`` until its last round ends."""

    def show(line: str) -> None:
        print(f"    {line}", file=sys.stderr, flush=True)
        if match := _ROUND.match(line):
            outcome.seconds.append(float(match[2]))
        if args.rounds_only and len(outcome.seconds) == args.rounds:
            raise _LastRoundError

    with suppress(_LastRoundError):
        view = flower.follow(run_id, show=show)
        outcome.problem = view.error or ("" if view.headline else "the run ended without a report")


def _read_results(outcome: Outcome, net: Network, run: Path) -> None:
    """Read bytes, accuracy and the run's time from the run folder and the links."""
    if not (run / "rounds.jsonl").exists():
        return
    entries = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    reasons = sorted({entry["reason"] for entry in entries if entry["reason"]})
    outcome.problem = outcome.problem or ", ".join(reasons)
    trained = [entry for entry in entries if entry["phase"] == "train"]
    steady = [e for e in trained if e["round"] > 1] or trained
    outcome.bytes_down = float(np.mean([entry["bytes_down"] for entry in steady]))
    outcome.bytes_up = float(np.mean([entry["bytes_up"] for entry in steady]))
    content = sum(entry["bytes_down"] + entry["bytes_up"] for entry in entries)
    outcome.wire = sum(map(sum, (link.wire_bytes() for link in net.links))) / content
    history = (run / "history.jsonl").read_text().splitlines()
    outcome.accuracy = [json.loads(line)["accuracy"] for line in history]
    if (run / "summary.json").exists():
        outcome.whole_s = json.loads((run / "summary.json").read_text())["seconds"]


def make_data(folder: Path, sites: int) -> Path:
    """Write a few chips of noise as class folders, ingest them, and partition them."""
    rng = np.random.default_rng(0)
    for code in range(CLASSES):
        images = folder / "images" / f"class-{code}"
        write_images(images, PER_CLASS, CHIP_PX, 200 + 5 * code, rng)
    ingest_class_folders(folder / "images", folder / "store")
    partition(folder / "store", folder / "data", sites=sites, scheme="iid")
    return folder / "data"


def outcomes(model: str, data: Path, args: argparse.Namespace) -> Iterator[Outcome]:
    """Yield the outcomes of a model, fastest link first, all methods at one rate in turn."""
    fastest: dict[str, Outcome] = {}
    for rate in sorted(args.rates, key=lambda rate: -(rate or float("inf"))):
        for method in args.methods:
            known = fastest.get(method)
            expected = computed(known, rate) if known and rate else None
            if expected is not None and expected.round_s > args.patience_s:
                yield expected
                continue
            outcome = measure(model, method, rate, data, args)
            if not outcome.problem:
                fastest.setdefault(method, outcome)
            yield outcome


def table(results: Sequence[Outcome]) -> Iterator[str]:
    """Yield the table."""
    yield (
        "| model | link, Mbit/s | method | down, MB | up, MB | s per round | whole run, s "
        "| times faster than dense |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for outcome in results:
        key = (outcome.model, outcome.rate_mbit)
        dense = next(other for other in results if (other.model, other.rate_mbit) == key)
        mark = " (computed)" if outcome.computed else ""
        faster = f"{dense.round_s / outcome.round_s:.1f}" if dense.method == "fedavg" else "–"
        rate = "no limit" if outcome.rate_mbit is None else f"{outcome.rate_mbit:g}"
        measured = f"{outcome.round_s:.1f}{mark}"
        seconds = f"failed: {outcome.problem}" if outcome.problem else measured
        whole = f"{outcome.whole_s:.0f}" if outcome.whole_s else "–"
        yield (
            f"| {outcome.model} | {rate} | `{outcome.method}` | {outcome.bytes_down / 1e6:.2f} "
            f"| {outcome.bytes_up / 1e6:.2f} | {seconds} | {whole} | {faster} |"
        )


def _rate(text: str) -> float | None:
    return None if text == "none" else float(text)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", default=["resnet18", "vgg19"])
    parser.add_argument("--methods", nargs="+", default=["fedavg", "rs-dgc"])
    parser.add_argument("--rates", nargs="+", type=_rate, default=[None, 10.0, 1.0, 0.256])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rounds-only", action="store_true", help="end after the last round")
    parser.add_argument("--steps", type=int, default=2, help="of local training; 0: one epoch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--patience-s", type=float, default=1200.0, help="longest round to measure")
    parser.add_argument("--data", type=Path, help="partition; default: a few chips of noise")
    parser.add_argument("--work", type=Path, help="folder for the run's files; default: /tmp")
    parser.add_argument("--logs", type=Path, help="folder to keep the logs in")
    parser.add_argument("--out", type=Path, help="file to add a line of JSON a run to")
    args = parser.parse_args()
    try:
        check_able()
        for line in table(_measure_all(args)):
            print(line)
    except RsdgcError as error:
        sys.exit(f"error: {error}")


def _measure_all(args: argparse.Namespace) -> list[Outcome]:
    results: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="rsdgc-links-") as folder:
        data = args.data.absolute() if args.data else make_data(Path(folder), args.sites)
        for model in args.models:
            for outcome in outcomes(model, data, args):
                results.append(outcome)
                print(f"  {asdict(outcome)}", file=sys.stderr, flush=True)
                if args.out:
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(outcome)) + "\n")
    if not results:
        raise RunError("nothing was measured: name models and rates")
    return results


if __name__ == "__main__":
    main()
