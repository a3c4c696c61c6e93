from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from benchmarks import gpu


@pytest.mark.slow
def test_the_benchmark_runs_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU it shows that every figure is measured, not how fast a GPU is."""
    words = ["--device", "cpu", "--models", "small-resnet", "--px", "16", "--chips", "16"]
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(
        sys, "argv", ["gpu", *words, "--batch-size", "8", "--steps", "1", "--json", str(path)]
    )
    gpu.main()
    figures = json.loads(path.read_text())["figures"]
    names = [figure["what"].partition(": ")[2] for figure in figures]
    assert names == [
        "training, cached",
        "training, streamed",
        "training, augmented",
        "scoring",
        "peak memory of training",
        "model to the host",
        "model to the device",
        "NSI and encoding at 100×",
        "NSI and encoding at 1000×",
    ]
    assert capsys.readouterr().out.count("| small-resnet") == len(names)
    measured = [figure["value"] for figure in figures if figure["value"] is not None]
    assert len(measured) == len(names) - 1  # a CPU's peak memory is not measured
    assert all(math.isfinite(value) and value > 0 for value in measured)
