"""The commands of docs/predict.md work as they stand, and docs/commands.md knows all commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import rasterio
import typer

from fl_app import cli, simulation
from fl_app.settings import Settings
from tests.command import rsdgc
from tests.federation import grid, serve

DOCS = Path(__file__).parents[1] / "docs"
GUIDE = (DOCS / "predict.md").read_text(encoding="utf-8")


def run_over_loopback(settings: Settings, *, num_sites: int, cpus_per_site: int) -> None:
    """Stand in for Flower's processes, which take a minute to start."""
    serve(grid(settings, nodes=num_sites), settings)


@pytest.mark.slow
def test_the_guide_to_using_a_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulation, "simulate", run_over_loopback)
    blocks = re.findall(r"```\n(rsdgc .*?)```", GUIDE, re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert [words[1] for words in commands] == [
        *("synth", "ingest", "partition", "simulate", "predict", "export")
    ]
    for words in commands:
        assert rsdgc(monkeypatch, *words[1:]) == 0, capsys.readouterr().err
    maps = sorted((tmp_path / "maps").rglob("*.tif"))
    assert len(maps) == 2
    with rasterio.open(maps[0]) as file:
        assert file.shape == (256, 256)
        assert (file.read(1) > 0).mean() > 0.9
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.startswith("torch.Size([8, ")


def test_every_command_is_in_the_list() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    for name in typer.main.get_command(cli.app).commands:  # type: ignore[attr-defined]
        assert f"`{name}`" in page, name
