from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clients.scores import Score, SiteScores
from clients.task import ReceivedModel, RoundResult, RunOrigin
from rsdgc.errors import SettingError
from tests.clients.test_site import make_task


@pytest.mark.parametrize("wrong", [{"accepted_round": 1}, {"round": 0}])
def test_tasks_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="cannot follow"):
        replace(make_task(), **wrong)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_zero_to_one(share: float) -> None:
    with pytest.raises(SettingError, match="accepted-share"):
        replace(make_task(), accepted_share=share)


@pytest.mark.parametrize(
    "change",
    [
        {"round": 2},
        {"origin": RunOrigin(8, 1)},
        {"ratios": np.full(2000, 0.3) - 1e-9 * (np.arange(2000) == 1000)},
        {"budget_bytes": 1.0},
    ],
)
def test_another_task_has_another_digest(change: dict[str, Any]) -> None:
    task = make_task(ratios=np.full(2000, 0.3))
    received = ReceivedModel(0, b"print")
    assert task.digest(received) != replace(task, **change).digest(received)
    assert task.digest(received) != task.digest(ReceivedModel(1, b"print"))


def test_the_digest_does_not_depend_on_how_the_model_came() -> None:
    weights = np.ones(3, np.float32)
    digests = {
        make_task().digest(received)
        for received in (
            ReceivedModel(2, b"print"),
            ReceivedModel(2, b"print", patches=(b"patch",)),
            ReceivedModel(2, b"print", whole=weights),
        )
    }
    assert len(digests) == 1


SCORE = Score(np.array([[3, 1], [0, 2]]), 1.25)


@pytest.mark.parametrize("scores", [None, SiteScores(SCORE), SiteScores(SCORE, SCORE)])
def test_figures_make_the_same_result_again(scores: SiteScores | None) -> None:
    result = RoundResult(b"upload", None, 24, scores, 0.5, 3.0, 0.25, 2.0, 0.5, version=7)
    again = RoundResult.from_figures(json.loads(json.dumps(result.figures())), b"upload", 7)
    assert (again.scores is None) == (scores is None)
    assert again.figures() == result.figures()
    assert (again.score_seconds, again.train_seconds, again.compress_seconds) == (0.25, 2.0, 0.5)
    earlier = {k: v for k, v in result.figures().items() if not k.endswith("_seconds")}
    assert RoundResult.from_figures(earlier, b"upload", 7).train_seconds == 0.0
    assert (again.payload, again.version, again.weights) == (b"upload", 7, None)
