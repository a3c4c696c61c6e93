"""No reply of one site may end a run, change its model, or pass for another site's."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType

from rsdgc import RMS, Compressor, Scheme
from rsdgc.statistics_codec import encode_statistics
from strategies import DenseFedAvg, Ledger, RsDgc, SiteManager, messages
from strategies.base import SiteStrategy
from strategies.downlink import PublishedModel
from strategies.model_record import to_record, to_vector
from strategies.running_statistics import RunningStatistics
from strategies.sites import DataInfo, SiteInfo
from strategies.transport import chunk_upload
from tests.loopback import LoopbackGrid
from tests.strategies.fake_sites import (
    CLASSES,
    MODALITY,
    NUM_TEST,
    NUM_TRAIN,
    RUN,
    SPEC,
    FakeSites,
    initial_weights,
    rates,
    round_settings,
)
from tests.strategies.hostile_replies import (
    Case,
    Deflated,
    deflate,
    evaluate_cases,
    hostile,
    inflate,
    set_all,
    through_flower,
    train_cases,
)

NUM_VAL = 4
HONEST = ("ash", "birch", "cedar", "elm", "fir")
HOSTILE = tuple(f"dogwood-{number:02}" for number in range(25))
RUNNING = {"norm.running_mean": np.zeros(4, np.float32), "norm.running_var": np.ones(4, "f4")}
LOCAL = {"norm.scale": np.ones(4, np.float32)}


class HonestSites(FakeSites):
    """Sites that send everything that a site can send.

    What a site replies in the one round is encoded once, and inflated anew for each run.
    """

    _sent: ClassVar[dict[tuple[bool, str, str], Deflated]] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        site, phase = site_of(message), message.metadata.message_type
        # Hostile sites spoil the reply of the first of them.
        site = site if site in HONEST else HOSTILE[0]
        key = (self.dense, site, phase)
        if key not in self._sent:
            self._sent[key] = deflate(self._reply(message, context, phase).content)
        return Message(inflate(self._sent[key]), reply_to=message)

    def _reply(self, message: Message, context: Context, phase: str) -> Message:
        reply = super().__call__(message, context)
        metrics = reply.content.metric_records[messages.METRICS]
        metrics[messages.VAL_LOSS] = 1.5
        for key in messages.VAL_CLASS_COUNTS:
            metrics[key] = [2, 1, 0]
        train = phase == MessageType.TRAIN
        name, reference = (messages.RUNNING, RUNNING) if train else (messages.LOCAL, LOCAL)
        rng = np.random.default_rng([*site_of(message).encode()])
        changed = {key: a + rng.random(4, dtype=np.float32) for key, a in reference.items()}
        reply.content[name] = chunk_upload(encode_statistics(changed, reference))
        return reply


def make_strategy(dense: bool, folder: Path | None = None) -> SiteStrategy:
    manager = SiteManager(DataInfo("made up", True, CLASSES, (MODALITY,)))
    for node, name in enumerate(sorted((*HONEST, *HOSTILE)), start=101):
        modalities = (MODALITY.name,)
        manager.sites[name] = SiteInfo(name, node, NUM_TRAIN, NUM_TEST, modalities, NUM_VAL)
    ledger = Ledger(folder, SPEC.dense_bytes)
    parts: dict[str, Any] = {"running": RunningStatistics(RUNNING), "initial_local": LOCAL}
    if dense:
        return DenseFedAvg(manager, ledger, round_settings(), **parts)
    model = PublishedModel(initial_weights(), rates(4.0), Compressor(SPEC, Scheme(), RMS()), RUN)
    return RsDgc(manager, ledger, round_settings(), rates(2.0), model, rates(1.5), **parts)


def play(
    dense: bool, phase: str, replies: Mapping[str, Case | None], folder: Path | None = None
) -> tuple[SiteStrategy, bytes]:
    """Run a round in which some sites reply as in a case, or in the phase not at all.

    Returns the strategy, and the model that it delivers with all its parts.
    """
    strategy = make_strategy(dense, folder)

    def fault(message: Message, reply: Message) -> Message | None:
        site = site_of(message)
        if site not in replies or message.metadata.message_type != phase:
            return reply
        case = replies[site]
        return None if case is None else through_flower(hostile(message, reply, case))

    nodes: list[dict[str, Any]] = [{} for _ in (*HONEST, *HOSTILE)]
    grid = LoopbackGrid(HonestSites(dense=dense), nodes, {}, RUN, fault)
    arrays = to_record(initial_weights(), SPEC)
    result = strategy.start(
        grid, arrays, num_rounds=1, timeout=0.05 if None in replies.values() else 60
    )
    assert strategy.best.arrays is not None
    parts = [to_vector(result.arrays, SPEC), *strategy.running.current.values()]
    parts += [*strategy.final.local.values(), to_vector(strategy.best.arrays, SPEC)]
    return strategy, b"".join(part.tobytes() for part in parts)


def site_of(message: Message) -> str:
    return str(message.content.config_records[messages.TASK][messages.SITE])


def cases_of(dense: bool, phase: str) -> list[Case]:
    strategy, _ = play(dense, phase, {})
    assert strategy.ledger.refusals == {}
    honest = inflate(HonestSites._sent[dense, HOSTILE[0], phase])
    if phase == MessageType.TRAIN:
        return train_cases(honest, dense=dense, samples=NUM_TEST, val=NUM_VAL)
    return evaluate_cases(honest, val=NUM_VAL)


def strict_lines(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{path.name} has {constant}, which is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("phase", [MessageType.TRAIN, MessageType.EVALUATE])
@pytest.mark.parametrize("dense", [False, True], ids=["rs-dgc", "fedavg"])
def test_a_hostile_reply_costs_its_site_the_round_and_nothing_else(
    dense: bool, phase: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty-five hostile sites at a time, among five honest ones."""
    cases = cases_of(dense, phase)
    assert len(cases) >= 150
    assert [name for name, n in Counter(case.name for case in cases).items() if n > 1] == []
    _, expected = play(dense, phase, dict.fromkeys(HOSTILE))
    caplog.set_level(logging.INFO, "flwr")
    for start in range(0, len(cases), len(HOSTILE)):
        group = dict(zip(HOSTILE, (cases[start:] + cases)[: len(HOSTILE)], strict=True))
        caplog.clear()
        folder = tmp_path / str(start)
        folder.mkdir()
        strategy, model = play(dense, phase, group, folder)
        found = {e["site"]: e["reason"] for e in refused_in(folder, phase)}
        assert [case.name for site, case in group.items() if found.get(site) != case.reason] == []
        assert found.keys() == group.keys()
        assert strategy.ledger.refusals == Counter(found.values())
        assert model == expected, [case.name for case in group.values()]
        check_log(caplog.records, group)
        last = strict_lines(folder / "history.jsonl")[-1]
        assert (last["accuracy"], last["loss"], last["val_loss"]) == (1.0, 1.0, 1.5)


def refused_in(folder: Path, phase: str) -> list[dict[str, Any]]:
    entries = [entry for entry in strict_lines(folder / "rounds.jsonl") if not entry["accepted"]]
    assert {entry["phase"] for entry in entries} == {phase}
    return entries


def check_log(records: Iterable[logging.LogRecord], group: Mapping[str, Case]) -> None:
    """Check that each hostile site has a warning of its own, and that no line is forged."""
    warnings = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert all(line.isprintable() and len(line) < 1200 for line in warnings)
    for line, (site, case) in zip(warnings, sorted(group.items()), strict=True):
        assert line.startswith(f"{site} refused in round 1: {case.reason}"), case.name


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e300])
@pytest.mark.parametrize("dense", [False, True], ids=["rs-dgc", "fedavg"])
def test_a_loss_that_is_not_finite_counts_nowhere(dense: bool, loss: float, tmp_path: Path) -> None:
    """A model that diverges at a site has such losses, so the upload is taken."""
    keys = (messages.TRAIN_LOSS, messages.SCORE_LOSS, messages.VAL_LOSS)
    case = Case("loss", "", set_all(dict.fromkeys(keys, loss)))
    strategy, model = play(dense, MessageType.TRAIN, {HOSTILE[3]: case}, tmp_path)
    assert strategy.ledger.refusals == {}
    assert model == play(dense, MessageType.TRAIN, {})[1]
    first, last = strict_lines(tmp_path / "history.jsonl")
    assert (first["loss"], first["val_loss"], last["loss"]) == (1.0, 1.5, 1.0)
    losses = {e["site"]: e["train_loss"] for e in strict_lines(tmp_path / "rounds.jsonl")[:30]}
    assert losses == {site: None if site == HOSTILE[3] else 1.0 for site in losses}
