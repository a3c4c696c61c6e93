from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict

from rsdgc.statistics_codec import encode_statistics
from strategies import SiteInfo, SiteManager, messages
from strategies.final_evaluation import FinalEvaluation
from strategies.ledger import SiteEntry
from strategies.sites import DataInfo, ModalityInfo
from strategies.transport import chunk_upload
from tests.strategies.fake_sites import FakeSites, loopback

NAME = "branches.sar.norm.running_mean"
INITIAL = {NAME: np.zeros(2, np.float32)}
ALL = ("optical", "sar")


@pytest.fixture
def manager() -> SiteManager:
    """Two sites of which the second lacks a modality."""
    loopback(FakeSites())  # messages are made within a run
    data = tuple(ModalityInfo(name, ("band",), 8) for name in ALL)
    sites = SiteManager(DataInfo("made up", True, ("a", "b"), data))
    for number, own in enumerate((ALL, ("optical",))):
        name = f"site-{number}"
        sites.sites[name] = SiteInfo(name, 101 + number, 100, 4, own)
    return sites


def reply(confusion: list[int], local: float = 1.0) -> Message:
    scores: dict[str, Any] = {messages.NUM_EXAMPLES: sum(confusion), messages.SCORE_LOSS: 1.0}
    packed = encode_statistics({NAME: np.full(2, local, np.float32)}, INITIAL)
    metrics = MetricRecord(scores | {messages.CONFUSION: confusion})
    content = RecordDict({messages.LOCAL: chunk_upload(packed), messages.METRICS: metrics})
    return Message(content, dst_node_id=1, message_type="evaluate")


def entries(manager: SiteManager) -> dict[str, SiteEntry]:
    return {name: SiteEntry(1, name, phase="evaluate") for name in manager.sites}


def test_local_entries_of_a_branch_are_the_mean_of_the_sites_that_have_it(
    manager: SiteManager,
) -> None:
    final = FinalEvaluation(INITIAL)
    replies = {"site-0": reply([1, 0, 0, 0], 4.0), "site-1": reply([1, 0, 0, 0], 9.0)}
    final.aggregate(replies, entries(manager), manager)
    np.testing.assert_array_equal(final.local[NAME], [4.0, 4.0])


def test_the_confusion_matrix_is_the_sum_of_the_accepted_ones(manager: SiteManager) -> None:
    final, asked = FinalEvaluation(INITIAL), entries(manager)
    replies = {"site-0": reply([2, 1, 0, 1]), "site-1": reply([1, 9, 9, 9])}  # has 4 chips
    final.aggregate(replies, asked, manager)
    assert final.confusion is not None
    assert final.confusion.tolist() == [[2, 1], [0, 1]]
    assert final.scores is not None
    assert final.scores.accuracy == 0.75
    assert asked["site-0"].accepted
    assert asked["site-1"].reason
    assert list(final.by_modalities) == [ALL]


def test_without_a_reply_nothing_is_scored(manager: SiteManager) -> None:
    final, asked = FinalEvaluation(INITIAL), entries(manager)
    final.aggregate({}, asked, manager)
    assert final.scores is final.confusion is None
    assert {entry.reason for entry in asked.values()} == {"no reply"}
    np.testing.assert_array_equal(final.local[NAME], INITIAL[NAME])
