"""Faults around the files: rights, links, full or missing outputs, sources that are gone."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import rasterio

from data_prep.ingest.archive import open_archive
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.dry_run import plan_facts
from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from data_prep.rasters import read_header
from data_prep.staging import check_space
from rsdgc.errors import DataError, RunError, SettingError
from tests.data_prep.archives import noise, stripes, write_class_folders, write_scene, write_tif

NOBODY = 65534
VRT = """<VRTDataset rasterXSize="32" rasterYSize="32">
<VRTRasterBand dataType="Byte" band="1"><ColorInterp>{interpretation}</ColorInterp><SimpleSource>
<SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.fixture
def user_folder() -> Iterator[Path]:
    """A folder of a user without root's rights, which pass over all others."""
    folder = Path(tempfile.mkdtemp(prefix="rsdgc-user-"))
    as_root = os.geteuid() == 0
    if as_root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if as_root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700)
        shutil.rmtree(folder)


def test_folders_and_files_without_the_right_to_read_cost_their_scene(user_folder: Path) -> None:
    src = user_folder / "src"
    for number, name in enumerate("abc"):
        write_scene(src / name, seed=number, size=32)
    (src / "a").chmod(0)
    (src / "b" / "optical.tif").chmod(0)
    store = ingest_scenes(src, user_folder / "store", chip_px=8)
    reasons = {item.path: item.reason for item in store.meta.skipped if item.refused}
    assert set(reasons) == {"a", "b"}
    for reason in reasons.values():
        assert reason.endswith("Permission denied: give this user the right to read it")
    with pytest.raises(DataError, match=r"--strict"):
        ingest_scenes(src, user_folder / "strict", chip_px=8, strict=True)
    # the remedy helps
    (src / "a").chmod(0o700)
    (src / "b" / "optical.tif").chmod(0o600)
    again = ingest_scenes(src, user_folder / "store", chip_px=8, overwrite=True)
    assert len(again.meta.scenes) == 3
    src.chmod(0)
    with pytest.raises(DataError, match=r"src cannot be read: Permission denied"):
        open_archive(src)


def test_class_folders_without_the_right_to_read_are_listed(user_folder: Path) -> None:
    src = write_class_folders(user_folder / "src")
    (src / "class-1").chmod(0)
    (src / "class-2" / "image-03.tif").chmod(0)
    store = ingest_class_folders(src, user_folder / "store")
    assert {"class-1", "class-2/image-03.tif"} <= {item.path for item in store.meta.skipped}


def test_outputs_that_may_not_be_written_are_refused(user_folder: Path) -> None:
    write_scene(user_folder / "src", size=32)
    closed = user_folder / "closed"
    closed.mkdir(mode=0o500)
    match = r"closed/store cannot be written: Permission denied: choose an output folder \(--out\)"
    with pytest.raises(SettingError, match=match):
        ingest_scenes(user_folder / "src", closed / "store", chip_px=8)
    store = ingest_scenes(user_folder / "src", user_folder / "store", chip_px=8)
    with pytest.raises(SettingError, match=r"closed/data cannot be written"):
        partition(store.path, closed / "data", scheme="iid", sites=2)


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "src", size=32)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"choose another output folder"):
        ingest_scenes(tmp_path / "src", tmp_path / "file" / "store", chip_px=8)


@pytest.mark.slow
def test_a_store_that_does_not_fit_leaves_nothing_and_goes_on_later(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full: writing fails half way."""
    write_scene(tmp_path / "src", size=256)
    command = [
        sys.executable,
        "-m",
        "fl_app.cli",
        "ingest",
        "src",
        "--chip",
        "16",
        "--out",
        "store",
    ]
    small = 2**16

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        preexec_fn=limit,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert "store cannot be written: File too large" in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "store").exists()
    assert len(ingest_scenes(tmp_path / "src", tmp_path / "store", chip_px=16)) > 0


def test_a_store_is_not_begun_on_a_disk_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(tmp_path / "src", size=64)
    write_class_folders(tmp_path / "images")
    room = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr("data_prep.staging.shutil.disk_usage", lambda _: room)
    for make, src in ((ingest_scenes, "src"), (ingest_class_folders, "images")):
        with pytest.raises(RunError, match=r"0\.1 MB free, and at most 1\.. MB .*--no-check-space"):
            make(tmp_path / src, tmp_path / "store")
        assert not list(tmp_path.glob(".store*")) + list(tmp_path.glob("store"))
        assert len(make(tmp_path / src, tmp_path / f"{src}-store", check_space=False)) > 0


def test_what_a_killed_call_left_counts_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "done.npy").write_bytes(bytes(1000))
    room = shutil.disk_usage(tmp_path)._replace(free=500)
    monkeypatch.setattr("data_prep.staging.shutil.disk_usage", lambda _: room)
    check_space(tmp_path, 1500)
    check_space(tmp_path, 0)
    with pytest.raises(RunError, match="are needed: free space there"):
        check_space(tmp_path, 1501)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    elsewhere = write_scene(tmp_path / "disk" / "c", seed=2, size=32)
    src = tmp_path / "src"
    for number, name in enumerate("ab"):
        write_scene(src / name, seed=number, size=32)
    (src / "c").symlink_to(elsewhere)
    (src / "0-again").symlink_to(src / "a")
    (src / "b" / "loop").symlink_to(src)
    (src / "gone").symlink_to(tmp_path / "nowhere")
    facts = plan_facts(src, chip_px=8)
    assert [scene["name"] for scene in facts["scenes"]] == ["a", "b", "c"]
    reasons = {item["path"]: item["reason"] for item in facts["skipped"]}
    assert reasons["0-again"] == "a link to a, which is listed already"
    assert reasons["b/loop"] == "a link to ., which is listed already"
    assert len(ingest_scenes(src, tmp_path / "store", chip_px=8).meta.scenes) == 3


@pytest.mark.parametrize("interpretation", ["Palette", "Gray"])
def test_a_color_table_that_is_missing_leaves_values_as_they_are(
    tmp_path: Path, interpretation: str
) -> None:
    values = noise((32, 32), 0, 0, 9, "uint8")
    write_tif(tmp_path / "values.bin", values)
    path = tmp_path / "image.vrt"
    path.write_text(VRT.format(interpretation=interpretation, source="values.bin"))
    header = read_header(path)
    assert not header.palette
    noted = "declares a color table and has none" in " ".join(header.notes)
    assert noted == (interpretation == "Palette")


def test_a_mosaic_whose_source_is_gone_costs_its_scene(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for name in "ab":
        write_tif(src / name / "image.tif", noise((1, 32, 32), ord(name), 1, 99, "uint8"), crs=None)
        write_tif(src / name / "labels.tif", stripes(32, 32, 8, (1, 2)), crs=None)
    (src / "b" / "image.tif").unlink()
    (src / "b" / "image.vrt").write_text(VRT.format(interpretation="Gray", source="gone.tif"))
    store = ingest_scenes(src, tmp_path / "store", chip_px=8)
    assert [scene.name for scene in store.meta.scenes] == ["a"]
    (item,) = [item for item in store.meta.skipped if item.refused]
    assert "gone.tif" in item.reason
    assert item.reason.endswith(": copy the missing file there")


def test_band_names_in_other_encodings_do_not_stop_a_file(tmp_path: Path) -> None:
    """ENVI's headers are often in Latin-1."""
    path = write_tif(tmp_path / "a.img", noise((2, 8, 8)), driver="ENVI")
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("WAELDER", "Wiesen")
    side = path.with_suffix(".hdr")
    side.write_bytes(side.read_bytes().replace(b"WAELDER", "Wälder".encode("latin-1")))
    path.with_name("a.img.aux.xml").unlink(missing_ok=True)
    header = read_header(path)
    assert header.names == ("band1", "band2")
    assert "a.img has band names that are not UTF-8" in header.notes[0]
