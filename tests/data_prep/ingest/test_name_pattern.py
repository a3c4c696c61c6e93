"""``--pattern``: its grammar, and archives whose names it explains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.ingest.dry_run import plan_facts, print_plan
from data_prep.ingest.name_pattern import NameParts, NamePattern, first_match
from data_prep.ingest.scenes import ingest_scenes
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import noise, stripes, write_tif

SIZE = 32


def ingest(src: Path, *patterns: str, **options: Any) -> Store:
    options = {"chip_px": 8, "overwrite": True, "patterns": patterns} | options
    return ingest_scenes(src, src.parent / "store", **options)


def described(store: Store) -> dict[str, list[str]]:
    return {modality.name: modality.bands for modality in store.meta.modalities}


@pytest.mark.parametrize(
    ("pattern", "name", "parts"),
    [
        ("{scene}_{band}.tif", "a/b_c_B02.TIF", NameParts("a", scene="b_c", band="B02")),
        ("{modality}/{scene}.*", "x/rgb/t1.jp2", NameParts("x", scene="t1", modality="rgb")),
        (
            "{date}_*_{band}.tif",
            "2019-06-06_l2a_B1.tif",
            NameParts("", band="B1", date="2019-06-06"),
        ),
        ("tile?.tif", "tile7.tif", NameParts("")),
        ("a[1].tif", "a[1].tif", NameParts("")),
    ],
)
def test_patterns_read_names(pattern: str, name: str, parts: NameParts) -> None:
    assert NamePattern.parse(pattern).match(name) == parts


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{scene}.tif", "a.tiff"),
        ("{date}.tif", "20191340.tif"),
        ("a/*.tif", "a.tif"),
        ("a?.tif", "a/.tif"),
    ],
)
def test_patterns_that_do_not_match(pattern: str, name: str) -> None:
    assert NamePattern.parse(pattern).match(name) is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "is empty: write for example"),
        ("{sceen}.tif", r"has \{sceen\}: choose from \{scene\}, \{modality\}, \{band\}, \{date\}"),
        ("{scene}{band}.tif", r"nothing between \{scene\} and \{band\}"),
        ("{scene}*.tif", "nothing between"),
        ("{scene}_{scene}.tif", "twice"),
        ("{scene.tif", "a brace alone"),
    ],
)
def test_wrong_patterns_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        NamePattern.parse(pattern)


@given(
    scene=st.from_regex(r"[a-z0-9_]+", fullmatch=True),
    band=st.from_regex(r"[a-zA-Z0-9]+", fullmatch=True),
    folder=st.sampled_from(["", "site", "site/more"]),
)
def test_what_is_put_together_is_taken_apart(scene: str, band: str, folder: str) -> None:
    name = f"{folder}/{scene}_{band}.tif".lstrip("/")
    patterns = [NamePattern.parse("{date}.tif"), NamePattern.parse("{scene}_{band}.tif")]
    assert first_match(patterns, name) == NameParts(folder, scene=scene, band=band)


def test_scenes_bands_and_labels_in_one_folder(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i, scene in enumerate(("north_1", "south_2")):
        place = {"left": 500_000 + 9_000 * i}
        for j, band in enumerate(("red", "nir")):
            write_tif(src / f"{scene}_{band}.tif", noise((SIZE, SIZE), 10 * i + j), **place)
        write_tif(src / f"{scene}_labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)
    write_tif(src / "overview.tif", noise((SIZE, SIZE)))
    store = ingest(src, "{scene}_{modality}.tif")
    assert [scene.name for scene in store.meta.scenes] == ["north_1", "south_2"]
    assert described(store) == {"nir": ["nir"], "red": ["red"]}
    assert [item.path for item in store.meta.skipped] == ["overview.tif"]


def test_folders_of_images_and_masks_with_sites(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i in range(4):
        place, site = {"left": 500_000 + 9_000 * i}, src / f"site-{i // 2}"
        write_tif(site / "images" / f"t{i}.tif", noise((3, SIZE, SIZE), i), **place)
        write_tif(site / "masks" / f"t{i}.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)
    store = ingest(src, "{modality}/{scene}.tif", labels="masks")
    assert len(store) == 64
    assert described(store) == {"images": ["band1", "band2", "band3"]}
    assert [(s.name, s.folder) for s in store.meta.scenes][::2] == [
        ("site-0/t0", "site-0"),
        ("site-1/t2", "site-1"),
    ]


def test_dates_make_scenes(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i, date in enumerate(("20190606", "2020-06-10")):
        for j, band in enumerate(("B03", "B04")):
            write_tif(src / f"{band}_{date}.tif", noise((SIZE, SIZE), 10 * i + j))
    write_tif(src / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    store = ingest(src, "{band}_{date}.tif", split_by="date")
    assert [(s.name, s.date) for s in store.meta.scenes] == [
        ("src_2019-06-06", "2019-06-06"),
        ("src_2020-06-10", "2020-06-10"),
    ]
    assert described(store) == {"bands": ["B03", "B04"]}


def test_globs_name_the_modalities_of_a_pattern(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i, scene in enumerate("ab"):
        place = {"left": 500_000 + 9_000 * i}
        for j, name in enumerate(("x1", "x2", "h")):
            write_tif(src / f"{scene}_{name}.tif", noise((SIZE, SIZE), 10 * i + j), **place)
    write_tif(src / "town.tif", stripes(SIZE, 1000, 8, (1, 2)))
    globs = ["optical=*_x?.tif", "height=*_h.tif"]
    store = ingest(src, "{scene}_{band}.tif", modalities=globs, labels="town.tif")
    assert described(store) == {"optical": ["x1", "x2"], "height": ["h"]}


def test_a_pattern_that_matches_nothing_shows_names(tmp_path: Path) -> None:
    write_tif(tmp_path / "src" / "image.tif", noise((2, SIZE, SIZE)))
    write_tif(tmp_path / "src" / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    with pytest.raises(DataError, match=r"no file like x_\{band\}.tif \(image.tif\)"):
        ingest(tmp_path / "src", "x_{band}.tif")


def test_dry_runs_show_what_matched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = tmp_path / "src"
    for j, name in enumerate(("a_B1", "a_B2", "other")):
        write_tif(src / f"{name}.tif", noise((SIZE, SIZE), j))
    write_tif(src / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    print_plan(plan_facts(src, chip_px=8, patterns=["{scene}_{band}.tif"]))
    shown = capsys.readouterr().out
    assert "matched: a: bands = a_B1.tif (B1), a_B2.tif (B2)" in shown
    assert "skipped: other.tif: no --pattern matches it" in shown
