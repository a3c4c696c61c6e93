"""Seconds per round over thin links: dense FedAvg against rs-dgc, sites in their own networks.

A real SuperLink and three real SuperNodes, each in a network namespace of its own with a shaped
link to the server (:mod:`benchmarks.netns`); root is needed. Local training is a few steps on a
few small chips, so that the link and the app's own work are what is measured. ``none`` is a link
without a limit.

    python -m benchmarks.links --models resnet18 vgg19 --rates none 10 1 0.256 --rounds 3
    python -m benchmarks.links --models small-resnet --rates 1 --rounds 30 --data data/ --steps 0

A run whose round would take longer than ``--patience-s`` is not made: its time is computed from
the fastest link measured and the bytes on the wire, and marked so.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.netns import Network, check_able, inside, network
from benchmarks.noise import write_images
from data_prep.ingest import ingest_class_folders
from data_prep.partition import partition
from fl_app.flower.command import FlowerCli
from fl_app.flower.log_filter import LogFilter
from fl_app.flower.processes import managed_process
from fl_app.flower.superlink import CONNECTION, superlink, tool
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
    """One run, or what is computed instead of it.

    Attributes
    ----------
    seconds : list of float
        Of each round, from the first message to the new model.
    bytes_down, bytes_up : float
        Content of the messages of a site in a round after the first.
    wire : float
        All bytes that the sites' links carried over the content of the messages.
    whole_s : float
        From the first round's start to the report; 0 where the run was ended before.
    problem : str
        Why it did not end well; empty if it did.
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
        """Median over the rounds after the first, in which rs-dgc sends no model."""
        return statistics.median(self.seconds[1:] or self.seconds or [float("nan")])


def computed(fastest: Outcome, rate_mbit: float) -> Outcome:
    """Return what a round would take over a slower link: the fast one's time and the bytes'."""
    added = 0.0 if fastest.rate_mbit is None else -1 / fastest.rate_mbit
    wire_bits = 8 * fastest.wire * (fastest.bytes_down + fastest.bytes_up)
    seconds = fastest.round_s + wire_bits / 1e6 * (1 / rate_mbit + added)
    found = Outcome(**{**asdict(fastest), "rate_mbit": rate_mbit, "seconds": [seconds]})
    found.computed, found.whole_s = True, 0.0
    return found


def measure(
    model: str, method: str, rate_mbit: float | None, data: Path, words: argparse.Namespace
) -> Outcome:
    """Make one run over new links."""
    found = Outcome(model, method, rate_mbit)
    with (
        tempfile.TemporaryDirectory(prefix="rsdgc-links-", dir=words.work) as work,
        ExitStack() as s,
    ):
        net = s.enter_context(network([rate_mbit] * words.sites))
        _run(found, net, data, Path(work), words, s)
    return found


def _run(
    found: Outcome,
    net: Network,
    data: Path,
    work: Path,
    words: argparse.Namespace,
    stack: ExitStack,
) -> None:
    home = work / "flower"
    home.mkdir()
    with inside(net.server):
        link = superlink(home, simulation=False, variables={"OMP_NUM_THREADS": "1"}, host="0.0.0.0")
        environment, port = stack.enter_context(link)
    for number, link_of in enumerate(net.links):
        name = f"site-{number:02}"
        node = f'site-name="{name}" data-dir="{data}" state-dir="{work / "state" / name}"'
        command = [tool("flower-supernode"), "--insecure", "--superlink"]
        command += [f"{link_of.server}:{port}", "--node-config", node]
        with inside(link_of.namespace):
            stack.enter_context(managed_process(command, environment, work / f"{name}.log"))
    with inside(net.server):
        run_id = FlowerCli(environment, CONNECTION).submit(_settings(found, work, words))
        command = [tool("flwr"), "log", run_id, CONNECTION, "--stream"]
        log = work / "flwr.log"
        running = stack.enter_context(managed_process(command, environment, log))
        _follow(found, running, log, words)
    _account(found, net, work / "run")
    if words.logs:
        words.logs.mkdir(parents=True, exist_ok=True)
        for path in (*work.glob("*.log"), home / "superlink.log"):
            label = f"{found.model}-{found.method}-{found.rate_mbit}-{path.name}"
            (words.logs / label).write_bytes(path.read_bytes())


def _settings(found: Outcome, work: Path, words: argparse.Namespace) -> Settings:
    values: dict[str, Scalar] = {
        "model": found.model,
        "method": found.method,
        "rounds": words.rounds,
        "local-steps": words.steps,
        "batch-size": words.batch,
        "seed": words.seed,
        "out": str(work / "run"),
        "min-sites": words.sites,
        "quorum": words.sites,
        "round-timeout-s": ROUND_TIMEOUT_S,
        "join-timeout-s": 900.0,
        "checkpoint-every": 0,
        "device": "cpu",
        "threads": 1,
    }
    return Settings.from_mapping({**values, **parse_overrides(words.set)})


def _follow(
    found: Outcome, running: subprocess.Popen[bytes], log: Path, words: argparse.Namespace
) -> None:
    """Read the log until the run is over, or until its rounds are and no more is wanted."""
    view = LogFilter()
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            line = lines.readline()
            if not line:
                if running.poll() is not None:
                    break
                time.sleep(0.2)
                continue
            shown = view.show(line)
            if shown is None:
                continue
            print(f"    {shown}", file=sys.stderr, flush=True)
            if match := _ROUND.match(shown):
                found.seconds.append(float(match[2]))
            if words.rounds_only and len(found.seconds) == words.rounds:
                return
    found.problem = view.error or ("" if view.headline else "the run ended without a report")


def _account(found: Outcome, net: Network, run: Path) -> None:
    """Take bytes, accuracy and the whole run's time from the run folder and the links."""
    if not (run / "rounds.jsonl").exists():
        return
    entries = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    reasons = sorted({entry["reason"] for entry in entries if entry["reason"]})
    found.problem = found.problem or ", ".join(reasons)
    trained = [entry for entry in entries if entry["phase"] == "train"]
    steady = [e for e in trained if e["round"] > 1] or trained
    found.bytes_down = float(np.mean([entry["bytes_down"] for entry in steady]))
    found.bytes_up = float(np.mean([entry["bytes_up"] for entry in steady]))
    content = sum(entry["bytes_down"] + entry["bytes_up"] for entry in entries)
    found.wire = sum(map(sum, (link.wire_bytes() for link in net.links))) / content
    history = (run / "history.jsonl").read_text().splitlines()
    found.accuracy = [json.loads(line)["accuracy"] for line in history]
    if (run / "summary.json").exists():
        found.whole_s = json.loads((run / "summary.json").read_text())["seconds"]


def make_data(folder: Path, sites: int) -> Path:
    """Write a few chips of noise as class folders, ingest them, and share them out."""
    rng = np.random.default_rng(0)
    for code in range(CLASSES):
        images = folder / "images" / f"class-{code}"
        write_images(images, PER_CLASS, CHIP_PX, 200 + 5 * code, rng)
    ingest_class_folders(folder / "images", folder / "store")
    partition(folder / "store", folder / "data", sites=sites, scheme="iid")
    return folder / "data"


def outcomes(model: str, data: Path, words: argparse.Namespace) -> Iterator[Outcome]:
    """Yield the runs of a model, fastest link first, all methods at one rate one after another."""
    fastest: dict[str, Outcome] = {}
    for rate in sorted(words.rates, key=lambda rate: -(rate or float("inf"))):
        for method in words.methods:
            known = fastest.get(method)
            expected = computed(known, rate) if known and rate else None
            if expected is not None and expected.round_s > words.patience_s:
                yield expected
                continue
            found = measure(model, method, rate, data, words)
            if not found.problem:
                fastest.setdefault(method, found)
            yield found


def rows(found: Sequence[Outcome]) -> Iterator[str]:
    """Yield the table."""
    yield (
        "| model | link, Mbit/s | method | down, MB | up, MB | s per round | whole run, s "
        "| times quicker than dense |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for one in found:
        dense = next(
            (o for o in found if (o.model, o.rate_mbit) == (one.model, one.rate_mbit)), one
        )
        mark = " (computed)" if one.computed else ""
        quicker = f"{dense.round_s / one.round_s:.1f}" if dense.method == "fedavg" else "–"
        rate = "no limit" if one.rate_mbit is None else f"{one.rate_mbit:g}"
        seconds = f"{one.round_s:.1f}{mark}" if not one.problem else f"failed: {one.problem}"
        whole = f"{one.whole_s:.0f}" if one.whole_s else "–"
        yield (
            f"| {one.model} | {rate} | `{one.method}` | {one.bytes_down / 1e6:.2f} "
            f"| {one.bytes_up / 1e6:.2f} | {seconds} | {whole} | {quicker} |"
        )


def _rate(text: str) -> float | None:
    return None if text == "none" else float(text)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", default=["resnet18", "vgg19"])
    parser.add_argument("--methods", nargs="+", default=["fedavg", "rs-dgc"])
    parser.add_argument("--rates", nargs="+", type=_rate, default=[None, 10.0, 1.0, 0.256])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rounds-only", action="store_true", help="no last patch, no evaluation")
    parser.add_argument("--steps", type=int, default=2, help="of local training; 0: one epoch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--patience-s", type=float, default=1200.0, help="longest round to measure")
    parser.add_argument("--data", type=Path, help="partition; default: a few chips of noise")
    parser.add_argument("--work", type=Path, help="folder for the run's files; default: /tmp")
    parser.add_argument("--logs", type=Path, help="folder to keep the logs in")
    parser.add_argument("--out", type=Path, help="file to add a line of JSON a run to")
    words = parser.parse_args()
    try:
        check_able()
        _measure_all(words)
    except RsdgcError as error:
        sys.exit(f"error: {error}")


def _measure_all(words: argparse.Namespace) -> None:
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="rsdgc-links-") as folder:
        data = words.data.absolute() if words.data else make_data(Path(folder), words.sites)
        for model in words.models:
            for one in outcomes(model, data, words):
                found.append(one)
                print(f"  {asdict(one)}", file=sys.stderr, flush=True)
                if words.out:
                    with words.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(one)) + "\n")
    if not found:
        raise RunError("nothing was measured: name models and rates")
    for line in rows(found):
        print(line)


if __name__ == "__main__":
    main()
