"""The recipes of CONTRIBUTING.md work as they stand, from a module outside the source tree."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.ingest.scenes import ingest_scenes
from fl_app.models import build_model
from rsdgc import AGGREGATORS, Compressor, ModelSpec, Scheme, Stamp, decode, make_indicator
from rsdgc.registry import add_code_dir
from tests.data_prep.archives import noise, write_tif

ROOT = Path(__file__).parents[2]
SPEC = ModelSpec.from_shapes({"conv.weight": (8, 4, 3, 3), "fc.weight": (5, 32)})


@pytest.fixture
def recipes(code_dir: Path) -> str:
    """All Python blocks of the guide as one module; return its name."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    (code_dir / "recipes_of_the_guide.py").write_text("\n\n".join(blocks))
    add_code_dir(code_dir)
    return "recipes_of_the_guide"


def compressed(scheme: Scheme, seed: int) -> tuple[np.ndarray, bytes]:
    update = np.random.default_rng(seed).normal(size=SPEC.size).astype(np.float32)
    compressor = Compressor(SPEC, scheme, make_indicator("nsi"))
    sent = compressor.compress(update, np.full(2, 0.5), Stamp(run=1, round=1), 1e6)
    return update, sent.payload


def test_the_value_coding_carries_an_update(recipes: str) -> None:
    update, payload = compressed(Scheme(values=f"{recipes}:BFloat16"), 0)
    sent = decode(payload, SPEC).to_dense()
    kept = sent != 0
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(sent[kept], update[kept], rtol=2**-7)


def test_the_model_is_built(recipes: str) -> None:
    model = build_model(f"{recipes}:two_layers", num_bands=5, num_classes=3, chip_px=8)
    assert model(torch.zeros(2, 5, 8, 8)).shape == (2, 3)


def test_the_aggregation_rule_counts_sites_alike(recipes: str) -> None:
    rule = AGGREGATORS[f"{recipes}:EqualWeights"](SPEC)
    payloads = [compressed(Scheme(values="float32"), seed)[1] for seed in range(2)]
    for key, payload, weight in zip("ab", payloads, (1, 99), strict=True):
        rule.add(key, payload, weight)
    expected = sum(decode(payload, SPEC).to_dense() for payload in payloads) / 2
    np.testing.assert_allclose(rule.aggregate(), expected, rtol=1e-6)


def test_the_label_format_is_ingested(recipes: str, tmp_path: Path) -> None:
    codes = np.repeat(np.repeat(np.arange(36).reshape(6, 6) % 2 + 1, 8, 0), 8, 1)
    for seed, scene in enumerate(("north", "south")):
        write_tif(tmp_path / "archive" / scene / "optical.tif", noise((3, 48, 48), seed))
        np.save(tmp_path / "archive" / scene / "labels.npy", codes)
    store = ingest_scenes(
        tmp_path / "archive",
        tmp_path / "store",
        labels="labels.npy",
        label_format=f"{recipes}:ArrayLabels",
        chip_px=8,
        buffer_px=0,
    )
    assert len(store) == 72
    assert set(store.manifest.column("label").to_pylist()) == {0, 1}
