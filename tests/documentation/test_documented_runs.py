"""The tutorial and the guides run from their first block to the last, in a folder of their own.

The network of docs/own-network.md, the recipes of CONTRIBUTING.md and the notebooks have test files
of their own.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import load_file

from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from data_prep.synth import write_archive
from fl_app import simulation
from tests.command import rsdgc
from tests.documentation.pages import PAGES, Block, blocks
from tests.federation import simulate_over_loopback

GUIDES = ("docs/tutorial.md", "docs/predict.md", "docs/add-a-coding.md")
DETERMINISTIC = ("synth", "ingest", "partition")
"""Commands whose output is the same on every machine, so that the page has to show it."""


@pytest.fixture
def folder(code_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; modules that are imported from it are forgotten after the test."""
    monkeypatch.chdir(code_dir)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("RSDGC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(simulation, "simulate", simulate_over_loopback)
    return code_dir


def prepare_data() -> None:
    """Make the tutorial's ``data/``, smaller, for guides that start from it."""
    write_archive("archive", sites=2, scenes_per_site=1, scene_px=192)
    ingest_scenes("archive", "store", chip_px=16, buffer_px=8)
    partition("store", "data", scheme="folder")


def run_block(
    block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Write, import or run a block; return what its last command printed if that is to be shown."""
    shown = ""
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(Path.cwd()))
            exec(compile(block.text, block.place, "exec"), {"__name__": "snippet"})
        plt.close("all")
    for words in block.commands():
        if words[0] == "rsdgc":
            capsys.readouterr()
            code = rsdgc(monkeypatch, *words[1:])
            output = capsys.readouterr()
            assert code == 0, output.err
            shown += output.out if words[1] in DETERMINISTIC else ""
    return shown


def missing_lines(shown: str, printed: str) -> list[str]:
    """Return the lines of a page that were not printed; ``…`` stands for anything."""
    lines = [line for line in shown.splitlines() if line.strip("… ")]
    patterns = [".*".join(map(re.escape, line.strip().split("…"))) for line in lines]
    return [
        line
        for line, pattern in zip(lines, patterns, strict=True)
        if not re.search(rf"^\s*{pattern}\s*$", printed, re.MULTILINE)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_runs_as_it_stands(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--data data/" in PAGES[page] and "rsdgc partition" not in PAGES[page]:
        prepare_data()
    monkeypatch.setenv("COLUMNS", "200")  # whatever the terminal of the tests is
    printed, ran = "", 0
    for block in blocks(page):
        if block.language == "text":
            if printed:
                assert not missing_lines(block.text, printed), block.place
        elif block.runs:
            printed = run_block(block, monkeypatch, capsys)
            ran += 1
    assert ran >= 2
    if page == "docs/tutorial.md":
        assert Path("map.png").stat().st_size > 10_000
        assert Path("run/report.html").exists()
    if page == "docs/predict.md":
        assert capsys.readouterr().out.startswith("torch.Size([8, ")
        maps = sorted(Path("maps").rglob("*.tif"))
        assert len(maps) == 2
        with rasterio.open(maps[0]) as file:
            assert file.shape == (256, 256)
            assert (file.read(1) > 0).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "part", "changed"),
    [
        ("small-cnn", "head", {"stage1.0.weight", "head.bias"}),
        ("tests.fl_app.batch_norm_network:build", "head,4", {"3.weight", "4.running_mean"}),
    ],
)
def test_the_lines_that_merge_the_adapters_of_a_run(
    model: str,
    part: str,
    changed: set[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare_data()
    words = ["simulate", "--data", "data/", "--model", model, "--rounds", "2", "local-steps=3"]
    words += ["budget=3x", "budget-down=3x"]
    assert rsdgc(monkeypatch, *words, "--out", "first") == 0
    Path("first/model.safetensors").rename("backbone.safetensors")
    words += ["init-weights=backbone.safetensors", "adapters=lora", f"train-only={part}"]
    assert rsdgc(monkeypatch, *words, "adapter-rank=3", "--out", "run") == 0
    file, use = (block for block in blocks("docs/pretrained.md") if block.language == "python")
    run_block(file, monkeypatch, capsys)
    names: dict[str, object] = {"__name__": "snippet"}
    exec(compile(use.text.replace("small-cnn", model), use.place, "exec"), names)
    merged = names["network"].state_dict()  # type: ignore[attr-defined]
    delivered, started = load_file("run/model.safetensors"), load_file("backbone.safetensors")
    assert all(not torch.equal(delivered[name], started[name]) for name in changed)
    for name, tensor in delivered.items():
        torch.testing.assert_close(merged[name], tensor, msg=name)


def test_the_snippets_of_the_data_guide(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive(Path("archive"), sites=2, scenes_per_site=1, scene_px=256)
    ingest_scenes("archive", "store", chip_px=64, buffer_px=32, val_share=0.1)
    names: dict[str, object] = {"__name__": "snippet", "width": 16}
    np.save("store/dem.valid-000.npy", np.full((2, 1, 16, 2), 255, "uint8"))
    for block in blocks("docs/data.md"):
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
    assert names["valid"].shape == (2, 1, 16, 16)  # type: ignore[attr-defined]
    assert "common" in names
    assert sys.modules["data_prep.dataset"]
