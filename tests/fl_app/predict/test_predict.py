"""Maps of whole scenes: values, georeference, names, and going on after an interruption."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.warp import transform

from data_prep.ingest.scenes import ingest_scenes
from data_prep.rasters import category_names
from fl_app.delivered_model import load_delivered
from fl_app.interruption import ENDED_BY_CTRL_C
from fl_app.predict import PredictOptions, predict_scenes, unfinished
from tests.command import rsdgc
from tests.data_prep.archives import LEFT, TOP, UTM, write_tif
from tests.fl_app.predict.conftest import BANDS, CHIP_PX, CODES, imagery, write_named
from tests.killed_process import forkserver, start_process


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read()


def by_hand(run: Path, image: np.ndarray, corners: list[tuple[int, int]], px: int) -> np.ndarray:
    """Probabilities of windows, [n, K], of an image whose value 0 is nodata."""
    model = load_delivered(run)
    mean, std = (x.reshape(-1, 1, 1) for x in (model.statistics[0].mean, model.statistics[0].std))
    chips = []
    for row, col in corners:
        window = image[:, row : row + px, col : col + px].astype(np.float32)
        chips.append(np.where(window == 0, 0, (window - mean) / std))
    with torch.inference_mode():
        logits = model.network(torch.from_numpy(np.stack(chips).astype(np.float32)))
    return torch.softmax(logits, 1).numpy()


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """90 × 100 px, which are no multiple of a chip, with a corner of nodata."""
    image = imagery(112, seed=5)[0][:, :90, :100]
    image[:, :20, :30] = 0
    image[0, 50, 50] = 0
    return write_named(tmp_path / "field.tif", image, nodata=0)


def test_values_are_those_of_the_network_on_100_windows(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path
) -> None:
    out = scene.parent / "map.tif"
    words = ["predict", trained, scene, "--out", out, "--stride", CHIP_PX, "--probabilities"]
    assert rsdgc(monkeypatch, *words) == 0
    image = read(scene)
    # The last row and column of windows, which are moved to the edge, overlap with others.
    corners = [(row, col) for row in range(0, 80, 8) for col in range(0, 88, 8)]
    corners = [c for c in corners if (image[0, c[0] : c[0] + 8, c[1] : c[1] + 8] > 0).mean() >= 0.5]
    corners = corners[-100:]
    assert len(corners) == 100
    expected = by_hand(trained, image, corners, CHIP_PX)
    chances, codes = read(scene.parent / "map-probabilities.tif"), read(out)[0]
    shown = np.stack([chances[:, row + 4, col + 4] for row, col in corners])
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    np.testing.assert_array_equal(
        [codes[row + 4, col + 4] for row, col in corners], np.array(CODES)[expected.argmax(1)]
    )


def test_overlapping_windows_are_blended(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path
) -> None:
    words = ["predict", trained, scene, "--out", scene.parent / "map.tif", "--probabilities"]
    assert rsdgc(monkeypatch, *words) == 0  # the default stride is half a chip
    image = read(scene)
    rows, cols = [*range(0, 81, 4), 82], [*range(0, 93, 4)]
    sums, weights = np.zeros((3, 90, 100)), np.zeros((90, 100))
    tent = 1 - np.abs((np.arange(8) + 0.5) / 4 - 1) * (1 - 1 / 8)
    corners = [
        (row, col)
        for row in rows
        for col in cols
        if (image[:, row : row + 8, col : col + 8] > 0).all(0).mean() >= 0.5
    ]
    weight = tent[:, None] * tent
    for (row, col), chances in zip(corners, by_hand(trained, image, corners, 8), strict=True):
        sums[:, row : row + 8, col : col + 8] += chances[:, None, None] * weight
        weights[row : row + 8, col : col + 8] += weight
    known = (image > 0).all(0) & (weights > 0)
    shown = read(scene.parent / "map-probabilities.tif")
    np.testing.assert_array_equal(np.isfinite(shown[0]), known)
    np.testing.assert_allclose(
        shown[:, known], (sums / np.maximum(weights, 1e-9))[:, known], atol=1e-5
    )


def test_a_map_is_a_geotiff_with_colors_names_and_nodata(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scene.parent / "map.tif"
    assert rsdgc(monkeypatch, "predict", trained, scene, "--out", out) == 0
    assert "class " in capsys.readouterr().out
    with rasterio.open(out) as file, rasterio.open(scene) as source:
        assert file.crs == UTM
        assert (file.transform, file.shape) == (source.transform, source.shape)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.nodata == 0
        colors = file.colormap(1)
        values = file.read(1)
        image = source.read()
        names = json.loads(file.tags()["CLASSES"])
    assert len({colors[code] for code in CODES}) == len(CODES)
    assert names == {str(code): f"class {code}" for code in CODES}
    assert category_names(out) == {code: f"class {code}" for code in CODES}
    assert (values[(image == 0).any(0)] == 0).all()
    assert set(np.unique(values)) <= {0, *CODES}
    assert sorted(path.name for path in scene.parent.iterdir()) == [
        "field.tif",
        "map.tif",
        "map.tif.aux.xml",
    ]


def test_an_interrupted_map_is_continued(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = scene.parent / "whole.tif", scene.parent / "map.tif"
    assert rsdgc(monkeypatch, "predict", trained, scene, "--out", whole) == 0
    add = unfinished.UnfinishedMap.add

    def add_some(self: unfinished.UnfinishedMap, row: object) -> None:
        add(self, row)  # type: ignore[arg-type]
        if self.rows_done == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(unfinished.UnfinishedMap, "add", add_some)
    assert rsdgc(monkeypatch, "predict", trained, scene, "--out", out) == ENDED_BY_CTRL_C
    assert not out.exists()
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(unfinished.UnfinishedMap, "add", add)
    assert rsdgc(monkeypatch, "predict", trained, scene, "--out", out) == 0
    assert "continuing after row 7 of 22" in capsys.readouterr().err
    np.testing.assert_array_equal(read(out), read(whole))
    assert not (scene.parent / ".map.tif.unfinished").exists()
    # What was begun with other options is not continued.
    monkeypatch.setattr(unfinished.UnfinishedMap, "add", add_some)
    other = ["predict", trained, scene, "--out", scene.parent / "other.tif"]
    assert rsdgc(monkeypatch, *other) == ENDED_BY_CTRL_C
    monkeypatch.setattr(unfinished.UnfinishedMap, "add", add)
    assert rsdgc(monkeypatch, *other, "--stride", "8") == 0
    assert "continuing" not in capsys.readouterr().err


@pytest.mark.parametrize("left", ["disk full", "killed before", "killed after"])
def test_any_part_that_is_left_of_a_map_is_continued(
    monkeypatch: pytest.MonkeyPatch,
    trained: Path,
    scene: Path,
    left: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, folder = scene.parent / "map.tif", scene.parent / ".map.tif.unfinished"
    words = ["predict", trained, scene, "--out", out]
    if left == "disk full":
        reserve, calls = os.posix_fallocate, iter(range(9))

        def fill(*place: int) -> None:
            if next(calls) == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            reserve(*place)

        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", fill)
            assert rsdgc(monkeypatch, *words) == 2
        assert f"{folder / 'valid'}: no space left on device: free" in capsys.readouterr().err
    else:  # while the folder was made, or deleted
        names = (
            ["probabilities", ".key.77.draft"] if left == "killed before" else ["rows", "usable"]
        )
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"9")
    assert rsdgc(monkeypatch, *words) == 0
    assert not folder.exists()
    out.unlink()
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    assert rsdgc(monkeypatch, *words) == 2
    assert "was not left by a prediction" in capsys.readouterr().err
    assert (folder / "thesis.tex").read_text() == "precious"


def predict_and_stop(words: list[str | Path], ready: Any) -> None:
    """Predict until the first row is done, and then hold still."""

    def stop(self: unfinished.UnfinishedMap, row: object) -> None:
        ready.set()
        signal.pause()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfinished.UnfinishedMap, "add", stop)
        rsdgc(patch, *words)


@pytest.mark.slow
def test_a_map_is_made_by_one_process_at_a_time_and_a_killed_one_keeps_nobody_away(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps, other = scene.parent / "maps", scene.parent / "other.tif"
    shutil.copy(scene, other)
    words: list[str | Path] = ["predict", trained, scene, "--out", maps]
    ready = forkserver().Event()
    process = start_process(predict_and_stop, [*words, "--probabilities"], ready)
    assert ready.wait(240)
    # The scene that is at work comes second, and is noticed before the first one is begun.
    several = ["predict", trained, other, scene, "--out", maps]
    # One map would be the other's probabilities.
    shutil.copy(scene, scene.parent / "field-probabilities.tif")
    third = ["predict", trained, scene.parent / "field-probabilities.tif", "--out", maps]
    for each, name in ((words, "field"), (several, "field"), (third, "field-probabilities")):
        assert rsdgc(monkeypatch, *each, "--force") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == (
            f"error: another process is making {maps / name}.tif: wait for it, or choose another "
            "--out"
        )
    assert not (maps / "other.tif").exists()
    assert rsdgc(monkeypatch, "predict", trained, other, "--out", maps) == 0
    process.kill()
    process.join()
    assert rsdgc(monkeypatch, *words, "--probabilities") == 0
    names = ["field-probabilities.tif", "field.tif", "field.tif.aux.xml"]
    names += ["other.tif", "other.tif.aux.xml"]
    assert sorted(path.name for path in maps.iterdir()) == names


def test_a_map_that_another_process_has_made_meanwhile_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps, other = scene.parent / "maps", scene.parent / "other.tif"
    shutil.copy(scene, other)
    make = unfinished.UnfinishedMap.__init__

    def make_both(self: unfinished.UnfinishedMap, target: Path, *rest: Any) -> None:
        if target == maps / "field.tif":
            with monkeypatch.context() as patch:
                patch.setattr(unfinished.UnfinishedMap, "__init__", make)
                assert rsdgc(patch, "predict", trained, other, "--out", maps, "--stride", "8") == 0
        make(self, target, *rest)

    monkeypatch.setattr(unfinished.UnfinishedMap, "__init__", make_both)
    assert rsdgc(monkeypatch, "predict", trained, scene, other, "--out", maps) == 2
    assert f"{maps / 'other.tif'} is a map of another model" in capsys.readouterr().err
    assert (maps / "field.tif").exists()


def test_files_where_probabilities_would_be_stay(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, chances = scene.parent / "map.tif", scene.parent / "map-probabilities.tif"
    words = ["predict", trained, scene, "--out", out, "--probabilities"]
    shutil.copy(scene, chances)
    assert rsdgc(monkeypatch, *words, "--force") == 2
    assert f"{chances} exists and is no predicted map" in capsys.readouterr().err
    assert chances.read_bytes() == scene.read_bytes()
    chances.unlink()
    assert rsdgc(monkeypatch, *words) == 0
    # those of another stride beside a map are not taken for its own
    other = scene.parent / "other.tif"
    assert rsdgc(monkeypatch, *words[:4], other, "--probabilities", "--stride", "8") == 0
    shutil.copy(scene.parent / "other-probabilities.tif", chances)
    assert rsdgc(monkeypatch, *words) == 2
    assert f"{chances} is a map of another model" in capsys.readouterr().err
    chances.unlink()
    assert rsdgc(monkeypatch, *words) == 0
    assert "stands already" not in capsys.readouterr().err
    for name in ("a", "a-probabilities"):
        shutil.copy(scene, scene.parent / f"{name}.tif")
    two = [scene.parent / "a.tif", scene.parent / "a-probabilities.tif"]
    assert rsdgc(monkeypatch, "predict", trained, *two, "--out", out.parent / "x", words[-1]) == 2
    assert "the probabilities of a: predict them apart" in capsys.readouterr().err


def test_what_belonged_to_a_replaced_map_goes_with_it(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = scene.parent / "maps"
    chances = maps / "field-probabilities.tif"
    words = ["predict", trained, scene, "--out", maps]
    assert rsdgc(monkeypatch, *words, "--probabilities") == 0
    assert rsdgc(monkeypatch, *words) == 2
    assert "replace it with --force" in capsys.readouterr().err
    old = read(chances)
    (maps / "notes.txt").write_text("mine")
    assert rsdgc(monkeypatch, *words, "--stride", "8", "--force") == 0
    names = ["field.tif", "field.tif.aux.xml"]
    assert sorted(path.name for path in maps.iterdir()) == [*names, "notes.txt"]
    assert rsdgc(monkeypatch, *words, "--stride", "8", "--probabilities", "--force") == 0
    assert not np.array_equal(read(chances), old, equal_nan=True)
    # Left alone, as where only the map was moved away, they belong to no new map either.
    (maps / "field.tif").unlink()
    assert rsdgc(monkeypatch, *words) == 2
    assert f"{chances} is a map of another model" in capsys.readouterr().err
    assert chances.exists()
    assert rsdgc(monkeypatch, *words, "--force") == 0
    assert not chances.exists()
    # The disk is full before the new map is: the old one keeps what it has.
    assert rsdgc(monkeypatch, *words, "--probabilities", "--force") == 0
    copy = rasterio.shutil.copy

    def fill(source: Path, target: Path, **how: Any) -> None:
        copy(source, target, **how)
        raise RasterioIOError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rasterio.shutil, "copy", fill)
        assert rsdgc(patch, *words, "--force") == 2
    assert chances.exists()


def test_files_like_those_of_a_replaced_map_stay(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path
) -> None:
    maps = scene.parent / "maps"
    words = ["predict", trained, scene, "--out", maps]
    assert rsdgc(monkeypatch, *words) == 0
    chances = maps / "field-probabilities.tif"
    write_tif(chances, read(scene).astype(np.float32))  # another program's
    before = chances.read_bytes()
    assert rsdgc(monkeypatch, *words, "--stride", "8", "--force") == 0
    assert chances.read_bytes() == before
    chances.unlink()
    namesake = scene.parent / "field-probabilities.tif"
    shutil.copy(scene, namesake)
    assert rsdgc(monkeypatch, "predict", trained, namesake, "--out", maps) == 0
    before = chances.read_bytes()
    assert rsdgc(monkeypatch, *words, "--force") == 0
    assert chances.read_bytes() == before


def test_names_of_a_replaced_map_go_where_the_new_one_has_none(trained: Path, scene: Path) -> None:
    out = scene.parent / "map.tif"
    sidecar = scene.parent / "map.tif.aux.xml"
    model = load_delivered(trained)
    # GDAL's list of names has no place for a code below 0.
    unnamed = dataclasses.replace(model, class_codes=(-5, 42, 95))
    predict_scenes(model, [scene], out, PredictOptions())
    assert category_names(out)
    predict_scenes(unnamed, [scene], out, PredictOptions(force=True))
    assert not sidecar.exists()
    predict_scenes(model, [scene], out, PredictOptions(force=True))
    written = sidecar.read_text() + "<!-- statistics of another program -->"
    sidecar.write_text(written)
    predict_scenes(unnamed, [scene], out, PredictOptions(force=True))
    assert sidecar.read_text() == written


def test_a_sidecar_of_another_file_is_kept(
    trained: Path,
    scene: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = scene.parent / "map.tif"
    sidecar = scene.parent / "map.tif.aux.xml"
    sidecar.write_bytes(b"<PAMDataset>\xff</PAMDataset>")  # of a file that is elsewhere now
    before = sidecar.read_bytes()
    words = ["predict", trained, scene, "--out", out]
    assert rsdgc(monkeypatch, *words) == 2
    assert "map.tif.aux.xml exists and belongs to no map" in capsys.readouterr().err
    assert (sidecar.read_bytes(), out.exists()) == (before, False)
    assert rsdgc(monkeypatch, *words, "--force") == 0
    names = category_names(out)
    out.unlink()  # as after an interruption between the names and the map
    assert rsdgc(monkeypatch, *words) == 0
    assert category_names(out) == names


def square(path: Path, side: float) -> Path:
    """Write a polygon from the upper left corner of the scene."""
    ring = [[LEFT, TOP], [LEFT + side, TOP], [LEFT + side, TOP - side], [LEFT, TOP - side]]
    crs = {"type": "name", "properties": {"name": UTM}}
    area = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    feature = {"type": "Feature", "properties": {}, "geometry": area}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    return path


@pytest.mark.parametrize("changed", ["polygons", "zip", "bands", "sidecar"])
def test_a_map_of_what_has_changed_does_not_stand(
    monkeypatch: pytest.MonkeyPatch,
    trained: Path,
    scene: Path,
    changed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = scene.parent
    source, more = scene, []

    def change(number: int) -> None:
        if changed == "polygons":
            square(folder / "area.geojson", 300.0 + 200 * number)
        elif changed == "zip":
            image = write_named(folder / "in" / "a.tif", read(scene)[:, number:], nodata=0)
            with zipfile.ZipFile(folder / "all.zip", "w") as file:
                file.write(image, "a/optical.tif")
        elif changed == "bands":
            bands = ", ".join(f'"{name}"' for name in (BANDS, BANDS[::-1])[number])
            (folder / "all.toml").write_text(
                '[[scene]]\nname = "a"\n[scene.modalities.optical]\n'
                f'files = "field.tif"\nbands = [{bands}]\n'
            )
        elif number:
            offset = '<PAMRasterBand band="1"><Offset>7</Offset></PAMRasterBand>'
            Path(f"{scene}.aux.xml").write_text(f"<PAMDataset>{offset}</PAMDataset>")

    change(0)
    if changed == "polygons":
        more = ["--aoi", folder / "area.geojson"]
    elif changed != "sidecar":
        source = folder / ("all.zip" if changed == "zip" else "all.toml")
    words = ["predict", trained, source, *more, "--out", folder / "map.tif"]
    assert rsdgc(monkeypatch, *words) == 0
    assert rsdgc(monkeypatch, *words) == 0
    assert "stands already" in capsys.readouterr().err
    change(1)
    assert rsdgc(monkeypatch, *words) == 2
    assert "replace it with --force" in capsys.readouterr().err


def test_a_scene_whose_name_leads_out_of_the_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = scene.parent / "all.toml"
    for name in ("../../a", str(scene.parent / "b")):
        description.write_text(
            f'[[scene]]\nname = "{name}"\nmodalities = {{optical = "field.tif"}}\n'
        )
        words = ["predict", trained, description, "--out", scene.parent / "maps" / "deep"]
        assert rsdgc(monkeypatch, *words) == 2
        assert "give the scene another name" in capsys.readouterr().err


def test_nodata_is_given_for_modalities_that_are_read(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", trained, scene, "--out", scene.parent / "map.tif", "--nodata"]
    for text, message in (
        ("optcal=5", "--nodata for optcal: choose from the modalities, optical"),
        ("optical=1.5", "--nodata optical=1.5 is not a value of uint16"),
    ):
        assert rsdgc(monkeypatch, *words, text) == 2
        assert message in capsys.readouterr().err
    value = int(read(scene)[0, 60, 60])
    assert rsdgc(monkeypatch, *words, f"optical={value}") == 0
    assert read(scene.parent / "map.tif")[0, 60, 60] == 0


def test_complete_maps_stay_and_nothing_else_is_replaced(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scene.parent / "maps" / "field.tif"
    words = ["predict", trained, scene, "--out", scene.parent / "maps"]
    assert rsdgc(monkeypatch, *words) == 0
    before = out.stat().st_mtime_ns
    assert rsdgc(monkeypatch, *words) == 0
    assert "stands already" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == before
    assert rsdgc(monkeypatch, *words, "--stride", "8") == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert rsdgc(monkeypatch, *words, "--stride", "8", "--force") == 0
    assert out.stat().st_mtime_ns > before
    precious = read(scene)
    assert rsdgc(monkeypatch, "predict", trained, scene, "--out", scene, "--force") == 2
    assert "is no predicted map" in capsys.readouterr().err
    np.testing.assert_array_equal(read(scene), precious)


def test_bands_are_matched_by_name(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, image = scene.parent, read(scene)
    words = ["predict", trained, "--out", folder / "maps"]
    write_named(folder / "turned.tif", image[::-1], BANDS[::-1], nodata=0)
    write_tif(folder / "unnamed.tif", image[[1, 0, 2]], nodata=0)
    given = [*words, folder / "unnamed.tif", "--bands", "green,blue,red"]
    assert rsdgc(monkeypatch, *words, scene, folder / "turned.tif") == 0
    assert rsdgc(monkeypatch, *given) == 0
    first = read(folder / "maps" / "field.tif")
    np.testing.assert_array_equal(read(folder / "maps" / "turned.tif"), first)
    np.testing.assert_array_equal(read(folder / "maps" / "unnamed.tif"), first)
    capsys.readouterr()
    write_named(folder / "infrared.tif", image, ("green", "red", "nir"), nodata=0)
    for name, more, message in (
        ("unnamed.tif", (), "has the bands band1, band2, band3 in modality optical, and the run"),
        ("infrared.tif", (), "trained on blue, green, red: name the file's bands with --bands"),
        ("field.tif", ("--bands", "a,b"), "has 3 bands, and --bands names 2"),
        ("nowhere.tif", (), "nowhere.tif is not a folder"),
    ):
        assert rsdgc(monkeypatch, *words, folder / name, *more) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.splitlines()[-1].startswith("error: ")


def test_a_folder_of_scenes_with_scale_and_mask(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path
) -> None:
    """As floats with another scale and offset the same ground gives the same map."""
    archive, image = scene.parent / "archive", read(scene)
    for name in ("a", "b"):
        (archive / "oslo" / name).mkdir(parents=True)
        shutil.copy(scene, archive / "oslo" / name / "optical.tif")
        write_tif(archive / "oslo" / name / "labels.tif", np.ones((90, 100), np.uint8))
    floats = np.where(image == 0, np.nan, image.astype(np.float32) * 2 + 10)
    other = write_named(archive / "oslo" / "b" / "optical.tif", floats)
    with rasterio.open(other, "r+") as file:
        file.scales, file.offsets = [0.5] * 3, [-5.0] * 3
    mask = np.zeros((90, 100), np.uint8)
    mask[60:] = 3
    for name in ("a", "b"):
        write_tif(archive / "oslo" / name / "clouds.tif", mask)
    words = ["predict", trained, archive, "--out", scene.parent / "maps", "--mask", "clouds=3"]
    assert rsdgc(monkeypatch, *words) == 0
    first, second = (read(scene.parent / "maps" / "oslo" / f"{name}.tif") for name in ("a", "b"))
    np.testing.assert_array_equal(first, second)
    assert (first[0, 60:] == 0).all()
    assert (first[0, 40:60] > 0).mean() > 0.99


def test_a_scene_without_crs_and_smaller_than_a_chip(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path
) -> None:
    small = write_named(scene.parent / "small.tif", read(scene)[:, 60:67, 60:70], crs=None)
    out = scene.parent / "map.tif"
    assert rsdgc(monkeypatch, "predict", trained, small, "--out", out) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(out) as file:
            assert file.crs is None
            assert file.shape == (7, 10)
            assert (file.read(1) > 0).all()


def declare(path: Path, **attributes: object) -> None:
    """Write attributes into a raster without a place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "r+") as file:
            for name, value in attributes.items():
                setattr(file, name, value)


def test_a_place_without_a_crs_stays(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path
) -> None:
    """As where a site has a grid of its own, which no CRS describes."""
    local = write_named(scene.parent / "local.tif", read(scene), crs=None, nodata=0)
    place = Affine(2.0, 0.5, 310.0, 0.5, -2.0, 720.0)
    declare(local, transform=place)
    words = ["predict", trained, local, "--out", scene.parent / "map.tif", "--probabilities"]
    assert rsdgc(monkeypatch, *words) == 0
    for name in ("map.tif", "map-probabilities.tif"):
        with rasterio.open(scene.parent / name) as file:
            assert file.transform == place
            assert file.crs is None


def test_what_a_header_declares_in_vain_is_noted(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_named(scene.parent / "raw.tif", read(scene), crs=None, nodata=0)
    declare(raw, crs=UTM)
    assert rsdgc(monkeypatch, "predict", trained, raw, "--out", scene.parent / "map.tif") == 0
    assert "note: raw: raw.tif has a CRS and no position in it" in capsys.readouterr().err


def test_an_empty_map_is_noted(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.zeros_like(read(scene))
    image[:, ::4] = read(scene)[:, ::4]  # a quarter of every window is valid
    sparse = write_named(scene.parent / "sparse.tif", image, nodata=0)
    words = ["predict", trained, sparse, "--out", scene.parent / "map.tif"]
    assert rsdgc(monkeypatch, *words) == 0
    assert "note: sparse: no window has the share of valid pixels" in capsys.readouterr().err
    assert rsdgc(monkeypatch, *words, "--min-valid", "0.1", "--force") == 0
    assert "no window" not in capsys.readouterr().err
    assert (read(scene.parent / "map.tif") > 0).any()


@pytest.mark.slow
def test_patches_label_their_central_pixels(
    monkeypatch: pytest.MonkeyPatch, patches: Path, tmp_path: Path
) -> None:
    image = imagery(48, seed=3)[0]
    image[:, 20, 20] = 0
    scene = write_named(tmp_path / "scene.tif", image, nodata=0)
    words = ["predict", patches, scene, "--out", tmp_path / "map.tif", "--probabilities"]
    assert rsdgc(monkeypatch, *words) == 0
    chances = read(tmp_path / "map-probabilities.tif")
    assert np.isnan(chances[:, 20, 20]).all()
    padded = np.pad(image, [(0, 0), (2, 2), (2, 2)], mode="reflect")
    pixels = [(0, 0), (47, 47), (0, 30), (21, 21), (5, 46)]
    expected = by_hand(patches, padded, pixels, 5)
    shown = np.stack([chances[:, row, col] for row, col in pixels])
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    words = ["predict", patches, scene, "--out", tmp_path / "coarse.tif", "--stride", "4"]
    assert rsdgc(monkeypatch, *words) == 0
    codes = read(tmp_path / "coarse.tif")[0]
    assert (codes[:4, :4] == codes[0, 0]).all()


def test_a_run_without_its_statistics_says_so(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = scene.parent / "old"
    shutil.copytree(trained, old)
    (old / "inputs.json").unlink()
    config = json.loads((old / "config.json").read_text())
    words = ["predict", old, scene, "--out", scene.parent / "map.tif"]
    assert rsdgc(monkeypatch, *words) == 0  # its data are where they were
    (scene.parent / "map.tif").unlink()
    config["data"]["path"] = "/nowhere"
    (old / "config.json").write_text(json.dumps(config))
    assert rsdgc(monkeypatch, *words) == 2
    assert "name a site's store with --data" in capsys.readouterr().err
    assert rsdgc(monkeypatch, *words, "--data", trained.parent / "store") == 0
    assert rsdgc(monkeypatch, "predict", old, scene, "--out", "x.tif", "--best") == 2
    assert "leave out --best" in capsys.readouterr().err
    (old / "summary.json").unlink()
    assert rsdgc(monkeypatch, *words) == 2
    assert (
        "is not complete: wait for its end, or continue it with rsdgc simulate --resume"
        in capsys.readouterr().err
    )


def test_a_store_gives_statistics_and_not_its_classes(trained: Path, tmp_path: Path) -> None:
    image, labels = imagery(48, seed=2)
    other = np.array([0, 1, 2, 3], np.uint8)[np.searchsorted(CODES, labels, side="right")]
    write_named(tmp_path / "archive" / "a" / "optical.tif", image, nodata=0)
    write_tif(tmp_path / "archive" / "a" / "labels.tif", other, nodata=0)
    ingest_scenes(tmp_path / "archive", tmp_path / "store", chip_px=CHIP_PX, buffer_px=0)
    model = load_delivered(trained, data=tmp_path / "store")
    assert model.class_codes == CODES
    assert model.statistics[0].mean.tolist() != load_delivered(trained).statistics[0].mean.tolist()
    # a run that did not record its codes: those of the store are of other classes
    old = shutil.copytree(trained, tmp_path / "old")
    (old / "inputs.json").unlink()
    assert load_delivered(old, data=tmp_path / "store").class_codes == (1, 2, 3)
    assert load_delivered(old, data=trained.parent / "store").class_codes == CODES


def test_pixels_of_another_size_are_noted(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = write_named(scene.parent / "coarse.tif", read(scene), nodata=0, pixel=30.0, left=LEFT)
    out = scene.parent / "map.tif"
    assert rsdgc(monkeypatch, "predict", trained, coarse, "--out", out) == 0
    text = "pixels are 30 m wide on the ground, those of training were 10 m"
    assert text in capsys.readouterr().err
    # A degree of longitude is shorter here, at 45 degrees north, than one of latitude.
    (x,), (y,) = transform(UTM, "EPSG:4326", [LEFT], [TOP])
    for meters, noted in ((10, False), (30, True)):
        degrees = meters / 111_320
        place = Affine(degrees / 0.705, 0, x, 0, -degrees, y)
        write_named(coarse, read(scene), nodata=0, crs="EPSG:4326", transform=place)
        assert rsdgc(monkeypatch, "predict", trained, coarse, "--out", out, "--force") == 0
        assert (text in capsys.readouterr().err) == noted
    model = dataclasses.replace(load_delivered(trained), pixel_m=0.0)
    predict_scenes(model, [coarse], out, PredictOptions(force=True))
    assert "pixels are" not in capsys.readouterr().err  # a run that did not record them


def test_masks_without_a_nodata_value_count_like_one(
    monkeypatch: pytest.MonkeyPatch, trained: Path, scene: Path, tmp_path: Path
) -> None:
    image = read(scene)
    masked = write_named(tmp_path / "masked.tif", np.where(image == 0, 999, image), nodata=None)
    with rasterio.open(masked, "r+") as target:
        target.write_mask((image != 0).all(axis=0))
    # one band alone is invalid there, which a mask of all bands cannot say
    image[:, 50, 50] = 0
    declared = write_named(tmp_path / "declared.tif", image, nodata=0)
    maps = []
    for path in (masked, declared):
        out = path.with_name(f"{path.stem}-map.tif")
        assert rsdgc(monkeypatch, "predict", trained, path, "--out", out, "--probabilities") == 0
        maps.append(read(next(out.parent.glob(f"{out.stem}*prob*.tif"), out)))
    np.testing.assert_array_equal(*maps)
