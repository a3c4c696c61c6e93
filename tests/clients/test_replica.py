"""The published model at a site: patches, fingerprints, resynchronization, going back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from clients.replica import ReplicaOutOfSync
from clients.state import StateFolder
from clients.task import ReceivedModel
from rsdgc import NSI, Compressor, Scheme, Stamp, decode
from rsdgc.errors import RunError
from rsdgc.patches import fingerprint
from tests.clients.test_site import LAYERS, SPEC, make_site, make_task, origin, start

if TYPE_CHECKING:
    from pathlib import Path

RUN = 7


@dataclass
class Server:
    """Versions of a published model, and the patches between them."""

    seed: int = 0
    versions: list[np.ndarray] = field(default_factory=lambda: [start()])
    patches: list[bytes] = field(default_factory=list)

    def publish(self, count: int = 1) -> Server:
        for _ in range(count):
            version = len(self.versions)
            rng = np.random.default_rng((self.seed, version))
            change = 0.01 * rng.standard_normal(SPEC.size).astype(np.float32)
            compressor = Compressor(SPEC, Scheme(values="int8"), NSI())
            stamp = Stamp(RUN, version, version - 1)
            sent = compressor.compress(change, np.full(LAYERS, 0.5), stamp, 200)
            self.patches.append(sent.payload)
            self.versions.append(self.versions[-1].copy())
            decode(self.patches[-1], SPEC).add_to(self.versions[-1])
        return self

    def send(self, since: int, version: int = -1, **changes: Any) -> ReceivedModel:
        version %= len(self.versions)
        parts = {
            "version": version,
            "fingerprint": fingerprint(self.versions[version]),
            "patches": tuple(self.patches[since:version]),
        }
        return ReceivedModel(**parts | changes)

    def whole(self, version: int = -1) -> ReceivedModel:
        return self.send(0, version, patches=(), whole=self.versions[version])


def replica_of(path: Path) -> tuple[int, np.ndarray]:
    folder = StateFolder(path, RUN, "site-00", SPEC)
    state = folder.load().states[-1]
    return state.version, folder.replica(state)


def assert_at(path: Path, server: Server, version: int) -> None:
    found, replica = replica_of(path)
    assert found == version
    np.testing.assert_array_equal(replica.view(np.uint32), server.versions[version].view(np.uint32))


def test_a_site_makes_version_0_itself_and_follows_by_patches(tmp_path: Path) -> None:
    server, site = Server(), make_site(tmp_path)
    assert site.work(make_task(1), server.send(0)).version == 0
    assert_at(tmp_path, server, 0)
    server.publish(4)
    assert site.work(make_task(2, 1), server.send(0, 1)).version == 1
    assert make_site(tmp_path).work(make_task(7, 2), server.send(1)).version == 4  # was away
    assert_at(tmp_path, server, 4)


def test_patches_that_it_has_already_are_passed_over(tmp_path: Path) -> None:
    server, site = Server().publish(3), make_site(tmp_path)
    site.work(make_task(1), server.send(0, 2))
    site.work(make_task(2, 1), server.send(0))
    assert_at(tmp_path, server, 3)
    site.work(make_task(3, 2), server.send(3))
    assert_at(tmp_path, server, 3)


def test_the_change_is_from_the_replica(tmp_path: Path) -> None:
    server = Server().publish(2)
    by_patches = make_site(tmp_path / "a").work(make_task(), server.send(0))
    by_whole = make_site(tmp_path / "b").work(make_task(), server.whole())
    assert by_patches.payload == by_whole.payload
    assert decode(by_patches.payload, SPEC).stamp == Stamp(RUN, 1, 2)


def corrupt(path: Path) -> None:
    (replica,) = path.rglob("replica-*")
    content = bytearray(replica.read_bytes())
    content[100] ^= 1
    replica.write_bytes(content)


def forget(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()


def remove(path: Path) -> None:
    (replica,) = path.rglob("replica-*")
    replica.unlink()


@pytest.mark.parametrize("damage", [corrupt, forget, remove])
@pytest.mark.parametrize("new", [0, 1])
def test_a_replica_that_is_not_right_asks_for_the_whole_and_nothing_changes(
    tmp_path: Path, damage: Any, new: int
) -> None:
    server, site = Server().publish(2), make_site(tmp_path)
    site.work(make_task(1), server.send(0))
    server.publish(new)
    damage(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("state.json")}
    with pytest.raises(ReplicaOutOfSync):
        site.work(make_task(2, 1), server.send(2))
    assert {p: p.read_bytes() for p in tmp_path.rglob("state.json")} == before
    result = site.work(make_task(2, 1), server.whole())
    assert result.version == 2 + new
    assert_at(tmp_path, server, 2 + new)


@pytest.mark.parametrize(
    "received",
    [
        Server(1).publish(2).send(0),
        Server().publish(3).send(1),
        Server().publish(3).send(0, patches=()),
        Server().publish(2).send(0, fingerprint=b"x" * 16),
        Server().publish(1).send(0, patches=(b"RSDG" * 30,)),
    ],
    ids=["another server", "gap", "too few", "fingerprint", "damaged"],
)
def test_patches_that_lead_elsewhere_ask_for_the_whole(
    tmp_path: Path, received: ReceivedModel
) -> None:
    server, site = Server().publish(1), make_site(tmp_path)
    site.work(make_task(1), server.send(0, 0))
    if received.fingerprint == Server(1).publish(2).send(0).fingerprint:
        received = Server().publish(2).send(0, patches=received.patches)
    with pytest.raises(ReplicaOutOfSync):
        site.work(make_task(2, 1), received)
    assert_at(tmp_path, server, 0)


def test_a_whole_model_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    received = Server().publish(1).whole()
    received.whole[5] += 1
    with pytest.raises(RunError, match="arrived damaged"):
        make_site(tmp_path).work(make_task(1), received)


def test_the_final_evaluation_keeps_the_replica_and_what_is_owed(tmp_path: Path) -> None:
    server, site = Server().publish(2), make_site(tmp_path)
    site.work(make_task(1), server.send(0, 1))
    folder = StateFolder(tmp_path, RUN, "site-00", SPEC)
    before = folder.load().states[-1]
    scores, _ = site.evaluate(origin(), server.send(1))
    score = scores.test
    assert score.samples == 9
    assert_at(tmp_path, server, 2)
    after = folder.load().states[-1]
    assert (after.round, after.residual, after.upload) == (1, before.residual, before.upload)
    site.work(make_task(2, 1), server.send(2))
    fresh = make_site(tmp_path / "fresh")
    again = fresh.evaluate(origin(), server.send(0))[0].test
    np.testing.assert_array_equal(again.confusion, score.confusion)


def test_a_resumed_server_takes_its_sites_back(tmp_path: Path) -> None:
    """A site four rounds on goes back to the checkpoint, and repeats itself to the bit."""
    server, site = Server().publish(5), make_site(tmp_path)
    replies = []
    for number in range(1, 6):
        kept = origin(1, 0, (0, 2)) if number > 2 else origin()
        task = make_task(number, number - 1, origin=kept)
        replies.append(site.work(task, server.send(number - 1, number)).payload)
    again = origin(2, 2, (0, 2))
    late = make_task(5, 2, origin=again)  # it was not drawn in the rounds between
    assert make_site(tmp_path).work(late, server.send(2, 5)).version == 5
    again = origin(3, 2, (0, 2))
    for number in range(3, 6):
        task = make_task(number, number - 1, origin=again)
        found = make_site(tmp_path).work(task, server.send(number - 1, number)).payload
        assert found == replies[number - 1]
    assert_at(tmp_path, server, 5)
    with pytest.raises(RunError, match="attempt 1 of this run is over"):
        site.work(make_task(6, 5), server.send(5))
