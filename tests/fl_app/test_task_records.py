"""Tasks of the server that a site refuses, and how it trains as the settings say."""

from __future__ import annotations

import math
from typing import Any

import pytest
from flwr.app import ConfigRecord

from fl_app import task_records
from fl_app.settings import Settings
from fl_app.task_records import read_value, train_settings
from rsdgc.errors import RunError


@pytest.mark.parametrize(("value", "default"), [("7", 0), (7, b""), (b"7", 0.0)])
def test_a_field_of_another_type_is_refused(value: Any, default: Any) -> None:
    with pytest.raises(RunError, match=r"round=.*install the same version"):
        read_value(ConfigRecord({"round": value}), "round", default)


def test_a_whole_number_may_stand_for_a_float() -> None:
    value = read_value(ConfigRecord({"budget-bytes": 500}), "budget-bytes", 0.0)
    assert (value, type(value)) == (500.0, float)


def test_sites_train_as_the_run_s_settings_say() -> None:
    settings = Settings.from_mapping({"local-epochs": 3, "batch-size": 7, "jitter": 0.5})
    chosen = train_settings(settings, learning_rate=0.25)
    assert (chosen.lr, chosen.epochs, chosen.batch_size, chosen.jitter) == (0.25, 3, 7, 0.5)
    assert not chosen.balanced_loss
    assert not chosen.balanced_batches
    for setting in ("class-weights", "sampling"):
        chosen = train_settings(Settings.from_mapping({setting: "balanced"}), learning_rate=0.25)
        assert chosen.balanced_loss == (setting == "class-weights")
        assert chosen.balanced_batches == (setting == "sampling")


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_task_without_a_usable_learning_rate_is_refused(rate: float) -> None:
    with pytest.raises(RunError, match=r"learning-rate=.*install the same version"):
        task_records._learning_rate(ConfigRecord({"learning-rate": rate}))
