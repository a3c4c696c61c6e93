"""A machine that builds another model before training is sent what the channel transform needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from clients.model_parts import ModelParts
from clients.site import Site
from clients.state import StateFolder
from data_prep.dataset import open_data
from fl_app import client_app
from fl_app.models import build_model
from rsdgc import ModelSpec
from rsdgc.patches import fingerprint
from tests.federation import grid, serve, settings
from tests.loopback import LoopbackGrid

pytestmark = pytest.mark.slow


def run_federation(data: Path, out: Path, **changes: Any) -> tuple[LoopbackGrid, dict[str, Any]]:
    run = settings(data, out, rounds=4, **changes)
    network = grid(run)
    serve(network, run)
    client_app.opened_sites.clear()
    return network, safetensors.numpy.load_file(out / "model.safetensors")


def test_a_site_with_another_reference_is_sent_the_servers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = run_federation(data, tmp_path / "expected")
    inner = Site.__init__

    def init(self: Site, name: str, *arguments: Any, **named: Any) -> None:
        inner(self, name, *arguments, **named)
        if name == "site-01":  # as another release of PyTorch might draw the first weights
            self._reference = self._reference + np.float32(1)
            self._reference_fingerprint = fingerprint(self._reference)

    monkeypatch.setattr(Site, "__init__", init)
    _, model = run_federation(data, tmp_path / "run")
    for name, values in expected.items():
        # Not to the bit: the bytes of the second message enter the next budget.
        np.testing.assert_allclose(model[name], values, atol=1e-3)
    rounds = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    assert sum('"resynced": true' in line for line in rounds) == 1
    state_dir = next((tmp_path / "run" / "state").iterdir())
    for site in ("site-00", "site-01"):
        folder = StateFolder(tmp_path / "run" / "state", int(state_dir.name), site, _spec(data))
        assert bool(folder.load().states[-1].reference) == (site == "site-01")


def _spec(data: Path) -> ModelSpec:
    store = open_data(data).store
    model = build_model("small-cnn", store.num_bands, len(store.classes), store.chip_px, 0)
    return ModelParts(model).spec


def test_the_transform_enters_the_result(data: Path, tmp_path: Path) -> None:
    _, plain = run_federation(data, tmp_path / "plain", transform="none")
    _, turned = run_federation(data, tmp_path / "turned", transform="channels")
    assert any(not np.array_equal(plain[name], turned[name]) for name in plain)
