"""What this application takes for granted of Flower, so that an upgrade that breaks it is seen."""

import inspect
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.cli.build import build_fab_from_disk
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from strategies import DenseFedAvg, RsDgc

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("strategy", [RsDgc, DenseFedAvg])
@pytest.mark.parametrize(
    "method",
    ["start", "configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate"],
)
def test_strategies_keep_flowers_signatures(strategy: type[Strategy], method: str) -> None:
    ours = inspect.signature(getattr(strategy, method)).parameters.values()
    flowers = inspect.signature(getattr(Strategy, method)).parameters.values()
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in flowers]


def test_the_bundle_holds_the_code_and_nothing_else() -> None:
    names = set(zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))).namelist())
    code = {
        path.relative_to(ROOT).as_posix()
        for package in ("rsdgc", "clients", "strategies", "data_prep", "fl_app")
        for path in (ROOT / package).rglob("*.py")
    }
    assert code <= names
    assert names - code == {"pyproject.toml", "LICENSE", ".info/CONTENT"}


def test_the_grid_still_has_what_the_exchange_uses() -> None:
    for name in ("push_messages", "pull_messages", "get_node_ids"):
        assert callable(getattr(Grid, name))


def test_fedavg_still_averages_by_the_key_given() -> None:
    assert "weighted_by_key" in inspect.signature(FedAvg.__init__).parameters


def test_an_array_of_bytes_costs_little_more_than_its_bytes() -> None:
    record = ArrayRecord({"packed": Array(np.zeros(10_000, dtype=np.uint8))})
    assert record.count_bytes() <= 10_000 + 200


def test_a_config_counts_its_numbers_at_eight_bytes() -> None:
    assert ConfigRecord({"ratios": [0.5, 0.25]}).count_bytes() == len("ratios") + 16
