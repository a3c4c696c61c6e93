"""Runs of a network from a folder beside the user's data, outside the source tree."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

from fl_app.client_app import app as client_app
from fl_app.delivered_model import load_delivered
from fl_app.models import build_model
from rsdgc.errors import SettingError
from tests.federation import grid, make_data, run, serve, settings

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


DRAWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_bands, num_classes):
        super().__init__()
        self.register_buffer("order", torch.randperm(16))
        self.register_buffer("gain", torch.rand(num_bands), persistent=False)
        self.conv, self.head = nn.Conv2d(num_bands, 8, 3, padding=1), nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.conv(x * self.gain.view(1, -1, 1, 1)).mean(3)
        return self.head(x[:, :, self.order].view(x.size(0), 8, -1).mean(1))
"""


def test_a_delivered_network_has_the_buffers_that_its_sites_had(
    own: dict[str, Any], data: Path, tmp_path: Path, code_dir: Path
) -> None:
    (code_dir / "their_buffers.py").write_text(DRAWN)
    chosen = settings(data, tmp_path / "run", **own | {"model": "their_buffers:Net"}, seed=5)
    run(chosen, nodes=2)
    expected = build_model("their_buffers:Net", 3, 3, 16, seed=5)
    network = load_delivered(tmp_path / "run").network
    for name, buffer in expected.named_buffers():
        assert torch.equal(network.get_buffer(name), buffer)
    assert not torch.equal(network.conv.weight, expected.conv.weight)


SURROUNDED = """
import os

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_bands, num_classes):
        super().__init__()
        factor = float(os.environ.get("RSDGC_TEST_FACTOR", 1))
        self.conv, self.norm = nn.Conv2d(num_bands, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)
        if KIND == "statistics":
            nn.init.constant_(self.norm.running_mean, factor)
        if KIND == "gain":
            self.register_buffer("gain", torch.full((8,), factor))
        if KIND == "hidden":
            self.register_buffer("gain", torch.tensor(factor, dtype=torch.bfloat16), False)
        if KIND == "order":
            self.register_buffer("order", torch.arange(8).roll(int(factor)))
        if KIND == "mask":
            mask = torch.where(torch.arange(8) < factor, -torch.inf, 1.0)
            self.register_buffer("mask", mask)

    def forward(self, x):
        x = self.norm(self.conv(x)).mean((2, 3))
        if KIND in ("gain", "hidden"):
            x = x * self.gain.float()
        if KIND == "order":
            x = x[:, self.order]
        if KIND == "mask":
            x = torch.where(torch.isfinite(self.mask), x, 0)
        return self.head(x)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["statistics", "gain", "hidden", "order", "mask"])
def test_a_site_whose_constants_differ_is_sent_those_of_the_server(
    own: dict[str, Any],
    data: Path,
    tmp_path: Path,
    code_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    (code_dir / "their_surrounded.py").write_text(f"KIND = {kind!r}\n" + SURROUNDED)

    def digest(out: str, *, elsewhere: bool) -> tuple[str, int]:
        """Return the model of a run, and how often a site asked for the frozen part."""
        how = own | {"model": "their_surrounded:Net", "rounds": 2}
        chosen = settings(data, tmp_path / out, **how, state_dir=str(tmp_path / f"{out}-sites"))
        loopback = grid(chosen, nodes=2)

        def at_its_machine(message: Message, context: Context) -> Message:
            with monkeypatch.context() as patch:
                if elsewhere and context.node_id == 102:
                    patch.setenv("RSDGC_TEST_FACTOR", "3")
                return client_app(message, context)

        loopback.app = at_its_machine
        serve(loopback, chosen)
        summary = json.loads((tmp_path / out / "summary.json").read_text())
        assert summary["refused"] == {}
        tasks = [m for m in loopback.seen if m.metadata.message_type == "train"]
        assert {len(m.content["task"]["frozen"]) for m in tasks} == {16}
        sent = sum("frozen" in m.content for m in loopback.seen)
        content = (tmp_path / out / "model.safetensors").read_bytes()
        return hashlib.sha256(content).hexdigest(), sent

    plain, sent = digest("plain", elsewhere=False)
    assert sent == 0
    assert digest("mended", elsewhere=True) == (plain, 1)


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
