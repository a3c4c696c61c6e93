"""The tables of docs/odd-archives.md: each archive is made, each command run, each remedy tried."""

from __future__ import annotations

import re
import shlex
import zlib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_prep.rasters import RASTER_SUFFIXES
from data_prep.store import Store
from fl_app.cli import app
from tests.data_prep.archives import LEFT, noise, stripes, write_tif
from tests.data_prep.ingest.test_pieces import write_netcdf

GUIDE = (Path(__file__).parents[3] / "docs" / "odd-archives.md").read_text(encoding="utf-8")
SIZE = 32


def rows(heading: str) -> list[list[str]]:
    """Cells of the table of a section."""
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[1:]]


def expanded(text: str) -> list[str]:
    """Expand braces as a shell does."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", text)
    if match is None:
        return [text]
    return [
        name
        for part in match[1].split(",")
        for name in expanded(text[: match.start()] + part + text[match.end() :])
    ]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def make(src: Path, cell: str) -> None:
    """Write the files of a cell; numbers at the end of ``tile`` and ``area`` are places."""
    for name in (name for text in quoted(cell) for name in expanded(text)):
        path, seed = src / name, zlib.crc32(name.encode())
        place = {"left": LEFT}
        if match := re.fullmatch(r"(tile|area)(\d)", path.stem):
            place["left"] += int(match[2]) * (10 * SIZE if match[1] == "tile" else 50_000)
        if path.suffix == ".nc":
            values = {
                n: noise((SIZE, SIZE), i, dtype="int16") for i, n in enumerate(("ndvi", "height"))
            }
            write_netcdf(path, values)
        elif "labels" in path.stem or path.parent.name == "masks":
            wide = {"tile": 2 * SIZE, "area": 6000}
            width = next((w for kind, w in wide.items() if kind in cell), SIZE)
            crs = None if "cube" in cell else "EPSG:32633"
            write_tif(path, stripes(SIZE, width, 8, (1, 2)), crs=crs)
        elif "QA_PIXEL" in name:
            write_tif(path, np.full((SIZE, SIZE), 21824, "uint16"))
        elif path.stem == "clouds":
            write_tif(path, stripes(SIZE, SIZE, 8, (0, 1)))
        else:
            bands = 3 if path.stem == "rgb" or path.parent.name in ("images", "forest") else 1
            driver = "ENVI" if path.suffix == ".dat" else "GTiff"
            write_tif(path, noise((bands, SIZE, SIZE), seed), driver=driver, **place)


def run(src: Path, out: Path, options: str) -> tuple[int, str]:
    common = ["--chip", "8", "--buffer", "0", "--test", "0"]
    if "class-folders" in options:
        common = ["--test", "0"]
    arguments = ["ingest", str(src), *common, *shlex.split(options), "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, str(result.exception or "")


@pytest.mark.parametrize(("files", "options", "scenes", "modalities"), rows("Names of files"))
def test_names_mean_what_the_guide_says(
    tmp_path: Path, files: str, options: str, scenes: str, modalities: str
) -> None:
    make(tmp_path / "src", files)
    code, message = run(tmp_path / "src", tmp_path / "store", " ".join(quoted(options)))
    assert (code, message) == (0, "")
    meta = Store.open(tmp_path / "store").meta
    assert [scene.name for scene in meta.scenes] == quoted(scenes)
    assert [modality.name for modality in meta.modalities] == quoted(modalities)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "options", "line", "because", "remedy"), rows("What is refused, and why")
)
def test_what_is_refused_has_a_remedy_that_helps(
    tmp_path: Path, files: str, options: str, line: str, because: str, remedy: str
) -> None:
    assert because
    make(tmp_path / "src", files)
    code, message = run(tmp_path / "src", tmp_path / "store", " ".join(quoted(options)))
    assert code != 0
    assert line in message
    assert "\n" not in message
    assert not (tmp_path / "store").exists()
    code, message = run(tmp_path / "src", tmp_path / "store", " ".join(quoted(remedy)))
    assert (code, message) == (0, "")


def test_the_suffixes_of_rasters_are_those_of_the_guide() -> None:
    listed = GUIDE.partition("Files are rasters if they end in ")[2].partition(". Files of")[0]
    assert set(re.findall(r"\.\w+", listed)) == RASTER_SUFFIXES
