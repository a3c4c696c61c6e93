"""Runs of a network from a folder beside the user's data, outside the source tree."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsdgc import registry
from tests.federation import make_data, run, settings

NETWORK = """
from torch import nn

from their_layers import block


def build(num_bands, num_classes):
    return nn.Sequential(
        block(num_bands, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, num_classes),
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
def code_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(registry, "_code_dirs", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "their_network.py").write_text(NETWORK)
    (folder / "their_layers.py").write_text(LAYERS)
    yield folder
    for name in ("their_network", "their_layers"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), sites=2)


def test_a_network_of_a_code_folder_trains_and_is_reported(
    code_dir: Path, data: Path, tmp_path: Path
) -> None:
    own = {"model": "their_network:build", "code_dir": str(code_dir)}
    whole = dict.fromkeys(("budget", "budget_down", "budget_final"), "1x")
    chosen = settings(data, tmp_path / "run", **own, **whole)
    run(chosen, nodes=2, report=True)
    assert (tmp_path / "run" / "report.html").exists()
