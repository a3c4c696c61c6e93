"""Thirty rounds with every fault there is: nothing is lost and nothing is counted twice.

The real server and the real sites over the loopback, with a schedule of faults: sites that are
not drawn or not connected, messages that never arrive or arrive twice, replies that are lost or
late, sites that are killed at a step of their work, restarted, or lose a replica or their disk,
uploads that the server clips.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

import clients.site
import clients.uplink
from clients.state import SiteState, StateFolder, StateTransaction
from clients.uplink import Upload
from fl_app import client_app, server_app
from rsdgc import SparseUpdate, decode
from rsdgc.channel_transform import find_transform
from rsdgc.patches import fingerprint
from strategies import messages
from strategies.downlink import PublishedModel
from strategies.rs_dgc import RsDgc
from tests.federation import grid, serve, settings
from tests.loopback import Killed, LoopbackGrid

ROUNDS = 200 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 30
RUN = 7


class Watch:
    """Causes faults at both ends, and records what should be conserved."""

    def __init__(self, state_dir: Path, seed: int) -> None:
        self.state_dir = state_dir
        self.rng = np.random.default_rng(seed)
        self.published: dict[int, np.ndarray] = {}
        self.changes: dict[str, Any] = defaultdict(float)
        self.accepted: dict[str, Any] = defaultdict(float)
        self.change: dict[str, np.ndarray] = {}
        self.uploads: dict[tuple[str, int], bytes] = {}
        self.counted: set[tuple[str, int]] = set()
        self.held_back: list[tuple[str, Message]] = []
        self.faults: Counter[str] = Counter()
        self.damaged: set[Path] = set()
        self.kill_in = -1
        self.grid: LoopbackGrid
        self.strategy: RsDgc

    def folder(self, site: str) -> StateFolder:
        return StateFolder(self.state_dir, RUN, site, self.strategy.rates.spec)

    def chance(self, share: float, fault: str) -> bool:
        happens = bool(self.rng.random() < share)
        self.faults[fault] += happens
        return happens

    # ---- faults -------------------------------------------------------------------------------

    def times(self, message: Message) -> int:
        """Return how often a message arrives, after faults at its site."""
        task = message.content.config_records[messages.TASK]
        if message.metadata.message_type != "train":
            return 1
        site = str(task[messages.SITE])
        if self.chance(0.2, "restarted"):
            client_app.opened_sites.clear()
        if self.chance(0.05, "replica damaged"):
            before = self.outstanding(site)
            for path in self.folder(site).path.glob("replica-*"):
                content = bytearray(path.read_bytes())
                content[11] ^= 64
                path.write_bytes(content)
                self.damaged.add(path)
            # An upload that was not accepted is lost with the replica that it was made from.
            self.changes[site] = self.changes[site] - before + self.outstanding(site)
        if self.chance(0.06, "disk lost"):
            self.damaged -= set(self.folder(site).path.glob("*"))
            self.changes[site] = self.changes[site] - self.outstanding(site)
            shutil.rmtree(self.folder(site).path, ignore_errors=True)
        self.kill_in = int(self.rng.integers(0, 9)) if self.chance(0.2, "killed") else -1
        if self.chance(0.1, "message lost"):
            return 0
        return 2 if self.kill_in < 0 and self.chance(0.2, "message twice") else 1

    def step(self, inner: Any) -> Any:
        """Make a system call that may be the site's last."""

        def call(*arguments: Any) -> Any:
            paths = [each for each in arguments if isinstance(each, Path)]
            if any(self.state_dir not in path.parents for path in paths):
                return inner(*arguments)  # the server's
            self.kill_in -= 1
            if self.kill_in == 0:
                client_app.opened_sites.clear()
                raise Killed
            return inner(*arguments)

        return call

    def fault(self, message: Message, reply: Message) -> Message | None:
        """Lose a reply, hold it back, or let it through."""
        self.kill_in = -1
        if message.metadata.message_type != "train" or reply.has_error():
            return reply
        if messages.RESYNC in reply.content.metric_records[messages.METRICS]:
            self.faults["resynchronized"] += 1
            return reply
        task = message.content.config_records[messages.TASK]
        payload = reply.content.array_records[messages.UPDATE][messages.PACKED].numpy().tobytes()
        self.uploads[str(task[messages.SITE]), int(task[messages.ROUND])] = payload
        if self.chance(0.1, "reply lost"):
            return None
        if self.chance(0.1, "reply late"):
            self.held_back.append((message.metadata.message_id, reply))
            return None
        return reply

    # ---- invariants ---------------------------------------------------------------------------

    def outstanding(self, site: str) -> np.ndarray | float:
        """Return what a site owes: its residual, with an unsettled upload added back."""
        states = self.folder(site).load().states
        if not states or not states[-1].residual:
            return 0.0
        folder, state = self.folder(site), states[-1]
        owed = folder.residual(state).astype(np.float64)
        sync = self.strategy.sync
        part = 1.0 if state.round > sync.accepted.get(site, 0) else 1 - sync.shares.get(site, 1.0)
        if part and not self.lost(folder, state):
            owed += part * self.meaning(decode(folder.upload(state), self.strategy.rates.spec))
        return owed

    def lost(self, folder: StateFolder, state: SiteState) -> bool:
        """Return whether the replica is damaged without which an upload means nothing."""
        if not state.upload_replica:
            return False
        replica = folder.upload_replica(state)
        return replica is None or fingerprint(replica).hex() != state.upload_base

    def meaning(self, update: SparseUpdate) -> np.ndarray:
        """Return an upload out of the basis of the model that it was made from."""
        dense, reference = update.to_dense(), self.strategy.model.reference
        if reference is not None:
            published = self.published[update.stamp.base]
            find_transform(update.spec, published, reference).inverse(dense)
        return dense

    def clip(self, norms: Mapping[str, float], *_: Any) -> dict[str, float]:
        """Let some updates count by a share only, whatever their length."""
        return {site: float(self.rng.uniform()) for site in norms if self.chance(0.15, "clipped")}

    def round_ended(self, number: int) -> None:
        for site in self.strategy.site_manager.sites:
            states = self.folder(site).load().states
            if states and states[-1].round == number and (site, number) not in self.counted:
                self.counted.add((site, number))
                self.changes[site] = self.changes[site] + self.change[site].astype(np.float64)
            if self.strategy.sync.accepted.get(site) == number:
                update = decode(self.uploads[site, number], self.strategy.rates.spec)
                share = self.strategy.sync.shares.get(site, 1.0)
                self.accepted[site] = self.accepted[site] + share * self.meaning(update)
            total = self.accepted[site] + self.outstanding(site)
            scale = np.abs(self.changes[site]).max()
            np.testing.assert_allclose(total, self.changes[site], rtol=1e-5, atol=1e-5 * scale)
        self.replicas()
        for message_id, reply in self.held_back:
            self.grid.replies[message_id] = reply
        self.held_back.clear()
        nodes = list(self.grid.contexts)
        self.grid.away = {n for n in nodes if self.chance(0.1, "away")}
        if 20 <= number < 32:
            self.grid.away.add(nodes[0])

    def replicas(self) -> None:
        """Every undamaged replica is the published model of its version, bit for bit."""
        for site in self.strategy.site_manager.sites:
            folder = self.folder(site)
            for state in folder.load().states:
                if folder.path / state.replica in self.damaged:
                    continue  # the site has not read it since
                replica = folder.replica(state)
                np.testing.assert_array_equal(
                    replica.view(np.uint32), self.published[state.version].view(np.uint32)
                )


def watched(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    inner_strategy, inner_change = server_app.build_strategy, clients.uplink.local_change
    inner_upload = clients.site.make_upload

    def strategy(*arguments: Any) -> RsDgc:
        watch.strategy = inner_strategy(*arguments)
        watch.published[0] = watch.strategy.model.published.copy()
        watch.strategy.clip.shares = watch.clip
        close = watch.strategy.ledger.close_round

        def close_round(*parts: Any) -> None:
            close(*parts)
            watch.round_ended(len(watch.strategy.ledger.rounds) - 1)

        watch.strategy.ledger.close_round = close_round
        return watch.strategy

    def make_upload(*arguments: Any, **named: Any) -> Upload:
        (transaction,) = (part for part in arguments if isinstance(part, StateTransaction))

        def local_change(*arguments: Any) -> None:
            inner_change(*arguments)
            watch.change[transaction.folder.path.name] = arguments[-1].copy()

        with monkeypatch.context() as patched:
            patched.setattr(clients.uplink, "local_change", local_change)
            return inner_upload(*arguments, **named)

    def recorded(method: str) -> None:
        inner = getattr(PublishedModel, method)

        def publish(self: PublishedModel, *arguments: Any) -> None:
            inner(self, *arguments)
            watch.published[self.version] = self.published.copy()

        monkeypatch.setattr(PublishedModel, method, publish)

    monkeypatch.setattr(server_app, "build_strategy", strategy)
    monkeypatch.setattr(clients.site, "make_upload", make_upload)
    recorded("_publish")
    monkeypatch.setattr(os, "fsync", watch.step(lambda _: None))  # real ones take the disk's time
    monkeypatch.setattr(os, "replace", watch.step(os.replace))
    monkeypatch.setattr(os, "posix_fallocate", watch.step(os.posix_fallocate))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "chosen"),
    [
        (0, {}),
        (1, {"neighborhood": "element", "values": "float32", "budget_down": "20x"}),
        (4, {"quorum": 2, "budget_down": "4x"}),  # a log that holds four patches
        (3, {"budget_down": "1x"}),
    ],
    ids=["default", "elements", "quorum", "dense down"],
)
def test_replicas_are_exact_and_every_change_counts_once(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    chosen: dict[str, Any],
) -> None:
    run = settings(
        data,
        tmp_path / "run",
        **{"rounds": ROUNDS, "local_steps": 1, "fraction": 0.7, "round_timeout_s": 0.15}
        | {"checkpoint_every": 0, "lr_schedule": "constant", "seed": seed}
        | chosen,
    )
    watch = Watch(tmp_path / "run" / "state", seed)
    watched(watch, monkeypatch)
    watch.grid = grid(run, fault=watch.fault)
    watch.grid.times = watch.times
    serve(watch.grid, run)
    assert len(watch.counted) > ROUNDS / 2
    named = ("restarted", "replica damaged", "disk lost", "killed", "message lost", "message twice")
    for fault in (*named, "reply lost", "reply late", "away", "clipped"):
        assert watch.faults[fault] > 0, fault
    model = watch.strategy.model
    # A lossless downlink sends every site the whole model each time: none is out of step.
    dense = model.rates.budget_bytes >= model.spec.dense_bytes
    assert dense or watch.faults["resynchronized"] > 0
    run_dir = tmp_path / "run"
    refused = json.loads((run_dir / "summary.json").read_text())["refused"]
    assert {"no reply", "late reply", "error at the site"} <= refused.keys()
    visits = [json.loads(line) for line in (run_dir / "rounds.jsonl").read_text().splitlines()]
    late = sum(visit["phase"] == "late" for visit in visits)
    assert late >= watch.faults["reply late"]  # a slow machine makes more of them
    assert sum(visit["resynced"] for visit in visits) >= watch.faults["resynchronized"]
    present = {
        site.name for site in watch.strategy.site_manager.connected(watch.grid.get_node_ids())
    }
    for site in present:  # the final evaluation has brought them all to the last version
        assert watch.folder(site).load().states[-1].version == watch.strategy.model.version
    watch.replicas()
