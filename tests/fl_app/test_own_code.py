"""Runs of a network from a folder beside the user's data, outside the source tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from rsdgc.errors import SettingError
from tests.federation import make_data, run, settings

NETWORK = """
from torch import nn

from their_layers import block


def build(num_bands, num_classes):
    shared = nn.Linear(8, 8)  # two names, one tensor
    return nn.Sequential(
        block(num_bands, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        shared, nn.ReLU(), shared, nn.Linear(8, num_classes),
    )
"""
LAYERS = """
from torch import nn


def block(channels_in, channels_out):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3), nn.BatchNorm2d(channels_out), nn.ReLU()
    )
"""


@pytest.fixture
def own(code_dir: Path) -> dict[str, Any]:
    """Settings of a run of the network, with budgets that it fits into."""
    (code_dir / "their_network.py").write_text(NETWORK)
    (code_dir / "their_layers.py").write_text(LAYERS)
    whole = dict.fromkeys(("budget", "budget_down", "budget_final"), "1x")
    return {"model": "their_network:build", "code_dir": str(code_dir), **whole}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), sites=2)


def test_a_network_of_a_code_folder_trains_and_is_reported(
    own: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    chosen = settings(data, tmp_path / "run", **own)
    run(chosen, nodes=2, report=True)
    assert (tmp_path / "run" / "report.html").exists()


def test_a_site_that_lacks_the_code_is_named_and_the_run_goes_on(
    own: dict[str, Any], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def deny(message: Message, reply: Message) -> Message:
        """Reply as the second node would, which has another machine's modules."""
        if message.metadata.message_type == "query" and message.metadata.dst_node_id == 102:
            record = reply.content.config_records["site"]
            record["model-code"] = "their_network 0123456789abcdef (1 file)"
        return reply

    chosen = settings(data, tmp_path / "run", **own, rounds=1)
    run(chosen, nodes=2, fault=deny)
    assert (
        "site site-01 is left out: other code: its code of model 'their_network:build'"
        in caplog.text
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["num_sites"] == 1


def test_a_model_that_no_site_can_import_ends_the_run_with_its_reason(
    data: Path, tmp_path: Path
) -> None:
    chosen = settings(data, tmp_path / "run", model="no_such_network:build", join_timeout_s=0.1)
    with pytest.raises(SettingError, match="no module 'no_such_network'"):
        run(chosen, nodes=2)
    assert not (tmp_path / "run").exists()
