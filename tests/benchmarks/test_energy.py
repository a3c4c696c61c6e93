from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks import energy
from rsdgc import ModelSpec

SPEC = ModelSpec.from_shapes({"conv": (16, 8, 3, 3), "bias": (16,)})


def fake_codec() -> ModuleType:
    """Round to steps of 2^(qp / 4), as NNCodec does, and pickle."""
    module: Any = ModuleType("nncodec.nn")

    def encode(tensors: dict[str, Any], args: dict[str, Any], *, incremental: bool) -> bytes:
        step = 2 ** (args["qp"] / 4)
        rounded = {name: np.rint(array / step) * step for name, array in tensors.items()}
        return pickle.dumps({name: array.astype(np.float16) for name, array in rounded.items()})

    module.encode, module.decode = encode, pickle.loads
    return module  # type: ignore[no-any-return]


def test_nncodec_has_a_row_for_each_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncodec", ModuleType("nncodec"))
    monkeypatch.setitem(sys.modules, "nncodec.nn", fake_codec())
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal(SPEC.size).astype(np.float32) for _ in range(3)]
    updates = energy.Updates(SPEC, vectors[0], vectors[0], vectors[1], vectors[1:])
    _, _, fine, coarse = energy.nncodec(updates, [-20, 4])
    assert fine.startswith("| -20 | 2× | 1.000 | ")
    energies = [float(row.split(" | ")[2]) for row in (fine, coarse)]
    assert energies[1] < 0.8


def test_bases_have_a_row_for_each_size() -> None:
    """Updates of one axis, which only a basis of all channels finds."""
    rng = np.random.default_rng(0)
    axis = np.linspace(1, 2, 8)[:, None, None]
    vectors = [
        np.r_[(axis * rng.standard_normal((16, 1, 3, 3))[:, 0, None]).ravel(), np.zeros(16)].astype(
            np.float32
        )
        for _ in range(3)
    ]
    updates = energy.Updates(SPEC, np.zeros_like(vectors[0]), sum(vectors), vectors[0], vectors)
    rows = list(energy.bases(updates, [20.0], [2, 8]))
    names, _, energies = zip(*(row.strip("| ").split(" | ") for row in rows[2:]), strict=True)
    assert names == ("none", "2", "8")
    none, small, whole = map(float, energies)
    assert none < small < whole


def test_nncodec_that_is_not_installed_is_said_before_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(energy, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["energy", "nowhere", "--nncodec", "-38"])
    with pytest.raises(SystemExit):
        energy.main()
    assert "pip install nncodec" in capsys.readouterr().err
