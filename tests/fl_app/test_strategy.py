from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from fl_app.settings import Settings
from fl_app.strategy import _warm_up_rounds, cautions, check_budgets
from rsdgc import ModelSpec
from rsdgc.errors import SettingError
from strategies.sites import DataInfo, ModalityInfo, SiteInfo, SiteManager
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
    ],
)
def test_settings_that_make_no_sense_are_named_in_one_line(
    given: dict[str, Any], says: str
) -> None:
    (text,) = cautions(Settings.from_mapping({"evaluate-every": 50, **given}))
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"method": "fedavg"},
        {"method": "topk", "optimizer": "adamw"},
        {"method": "dgc", "local-steps": 1},
        {"method": "rs-dgc-paper", "local-steps": 1},
        {"method": "rs-dgc-static", "momentum-correction": 0},
        {"method": "fedavg", "local-steps": 1, "momentum": 0, "server-momentum": 0.9},
        {"method": "fedavg", "local-steps": 1, "server-momentum": 0.9},
    ],
)
def test_settings_that_make_sense_are_not_named(given: dict[str, Any]) -> None:
    assert not list(cautions(Settings.from_mapping({"evaluate-every": 50, **given})))


@pytest.mark.parametrize(("rounds", "every", "named"), [(50, 1, 1), (49, 1, 0), (5000, 2, 0)])
def test_scoring_after_every_step_of_a_long_run_is_named(
    rounds: int, every: int, named: int
) -> None:
    given = {"method": "dgc", "local-steps": 1, "rounds": rounds, "evaluate-every": every}
    texts = list(cautions(Settings.from_mapping(given)))
    assert len(texts) == named
    assert all("set evaluate-every=50" in text for text in texts)


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg", "dgc", "topk", "stc"])
@pytest.mark.parametrize("length", [{"local-steps": 1}, {"local-steps": 5}, {"local-epochs": 2}])
@pytest.mark.parametrize("momentum", ["auto", 0.5])
def test_the_remedies_silence_the_warnings(
    method: str, length: dict[str, int], momentum: float | str
) -> None:
    """Following each text's own words ends at settings without any warning."""
    given: dict[str, Any] = {"method": method, "momentum": momentum, **length}
    for _ in range(5):
        texts = list(cautions(Settings.from_mapping(given)))
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
    run(settings(data, tmp_path / "run", rounds=1, method="fedavg", local_steps=1))
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "rounds of one step" in warnings[0]


@pytest.mark.parametrize(
    ("given", "rounds"),
    [
        ({"method": "dgc"}, 4),
        ({"method": "dgc", "local-epochs": 3}, 2),
        # 100 and 50 chips are 7 and 4 steps, 5.5 on average: four epochs are 22 rounds.
        ({"method": "dgc", "local-steps": 1, "batch-size": 16}, 22),
        ({"method": "rs-dgc-paper", "local-steps": 2, "batch-size": 16}, 11),
        ({"method": "rs-dgc-paper", "warm-up-rounds": 3}, 3),
        ({"method": "rs-dgc"}, 0),
        ({"method": "topk", "local-steps": 1}, 0),
    ],
)
def test_the_published_warm_up_is_four_epochs(given: dict[str, Any], rounds: int) -> None:
    modality = ModalityInfo("optical", ("red",), 16)
    sites = SiteManager(DataInfo("made up", True, ("a", "b"), (modality,)))
    for number, chips in enumerate((100, 50)):
        sites.sites[f"s{number}"] = SiteInfo(f"s{number}", number, chips, 0, ("optical",))
    assert _warm_up_rounds(Settings.from_mapping(given), sites) == rounds


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": 3}, "budget=3: a budget of 3 bytes .*: allow at least"),
        ({"budget-down": "4000x"}, "budget-down=4000x: .*: allow at least"),
        ({"budget-final": "5"}, "budget-final=5: .*: allow at least"),
    ],
)
def test_a_budget_that_is_too_small_is_named(changes: dict[str, Any], words: str) -> None:
    spec = ModelSpec.from_shapes({"conv": (8, 3, 3, 3), "head": (3, 8)})
    whole = dict.fromkeys(("budget", "budget-down", "budget-final"), "1x")
    check_budgets(Settings.from_mapping(whole), spec)
    with pytest.raises(SettingError, match=words):
        check_budgets(Settings.from_mapping(whole | changes), spec)
