from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from fl_app.conflicting_settings import conflicting_settings
from fl_app.settings import Settings
from tests.federation import run, settings


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "rs-dgc", "local-steps": 1}, "momentum=0.9 does nothing in rounds of one step"),
        ({"method": "fedavg", "local-steps": 1}, "set momentum=0 and server-momentum=0.9"),
        ({"method": "topk", "local-steps": 1, "momentum": 0.5}, "momentum=0.5 does nothing"),
        ({"method": "dgc", "local-steps": 1, "momentum": 0.5}, "momentum=0.5 does nothing"),
        ({"optimizer": "adamw", "local-steps": 1}, "the sign of the gradient"),
        ({"method": "dgc"}, "is for rounds of one step, not local-epochs=1"),
        ({"method": "rs-dgc-paper", "local-steps": 7}, "not local-steps=7"),
        (
            {"method": "dgc", "local-steps": 1, "server-momentum": 0.01},
            "momentum-correction=0.9 and server-momentum=0.01 multiply",
        ),
        (
            {"optimizer": "sgd-nesterov", "momentum": 0},
            "is plain SGD: set optimizer=sgd, or momentum=0.9",
        ),
        (
            {"optimizer": "sgd-nesterov", "method": "dgc", "local-steps": 1},
            "is plain SGD: set optimizer=sgd, or momentum-correction=0",
        ),
        (
            {"optimizer": "sgd-nesterov", "local-steps": 1},
            "momentum=0.9 multiplies the learning rate by 1.9 in rounds of one step",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named_in_one_line(
    given: dict[str, Any], says: str
) -> None:
    (text,) = conflicting_settings(Settings.from_mapping({"evaluate-every": 50, **given}))
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"method": "fedavg"},
        {"method": "topk", "optimizer": "adamw"},
        {"method": "topk", "optimizer": "sgd-nesterov"},
        {"method": "fedavg", "optimizer": "sgd-nesterov", "momentum": 0.5},
        {"method": "dgc", "local-steps": 1},
        {"method": "rs-dgc-paper", "local-steps": 1},
        {"method": "rs-dgc-static", "momentum-correction": 0},
        {"method": "fedavg", "local-steps": 1, "momentum": 0, "server-momentum": 0.9},
        {"method": "fedavg", "local-steps": 1, "server-momentum": 0.9},
    ],
)
def test_settings_that_make_sense_are_not_named(given: dict[str, Any]) -> None:
    assert not list(conflicting_settings(Settings.from_mapping({"evaluate-every": 50, **given})))


@pytest.mark.parametrize(("rounds", "every", "named"), [(50, 1, 1), (49, 1, 0), (5000, 2, 0)])
def test_scoring_after_every_step_of_a_long_run_is_named(
    rounds: int, every: int, named: int
) -> None:
    given = {"method": "dgc", "local-steps": 1, "rounds": rounds, "evaluate-every": every}
    texts = list(conflicting_settings(Settings.from_mapping(given)))
    assert len(texts) == named
    assert all("set evaluate-every=50" in text for text in texts)


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg", "dgc", "topk", "stc"])
@pytest.mark.parametrize("length", [{"local-steps": 1}, {"local-steps": 5}, {"local-epochs": 2}])
@pytest.mark.parametrize("momentum", ["auto", 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd-nesterov"])
def test_the_remedies_silence_the_warnings(
    method: str, length: dict[str, int], momentum: float | str, optimizer: str
) -> None:
    """Following each text's own words ends at settings without any warning."""
    chosen = {"method": method, "momentum": momentum, "optimizer": optimizer}
    given: dict[str, Any] = {**chosen, **length}
    for _ in range(5):
        texts = list(conflicting_settings(Settings.from_mapping(given)))
        if not texts:
            return
        remedy = texts[0].partition(": set ")[2].partition(", or")[0]
        pairs = re.findall(r"([a-z-]+)=([a-z0-9.]+)", remedy)
        assert pairs, texts
        given |= dict(pairs)
    pytest.fail(f"{given}: {texts}")


def test_the_run_logs_the_warning(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"method": "fedavg", "budget": "1x", "local_steps": 1}
    run(settings(data, tmp_path / "run", rounds=1, **given))
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "rounds of one step" in warnings[0]
