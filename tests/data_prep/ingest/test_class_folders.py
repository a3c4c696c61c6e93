from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.manifest import column
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import noise, write_class_folders, write_tif


def test_chips_equal_the_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src", classes=2, images=5)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert store.classes == ["class-0", "class-1"]
    (values,) = store.take(np.arange(10))
    for c in range(2):
        for i in range(5):
            expected = noise((3, 8, 8), 100 * c + i, 0, 256, "uint8")
            np.testing.assert_array_equal(values[5 * c + i], expected)
    assert column(store.manifest, "label").tolist() == [0] * 5 + [1] * 5
    assert store.meta.splits.class_counts["test"] == [1, 1]
    assert store.manifest.column("scene")[6].as_py() == "class-1/image-01.tif"


def test_statistics_are_of_the_train_split(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src")
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    train = np.flatnonzero(column(store.manifest, "split") == "train")
    values = store.take(train)[0].astype(np.float64)
    (meta,) = store.meta.modalities
    assert meta.bands == ["red", "green", "blue"]
    np.testing.assert_allclose(meta.mean, values.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(meta.std, values.std(axis=(0, 2, 3)))
    assert meta.count == [24 * 64] * 3


def test_other_sizes_are_cropped_or_padded_to_the_commonest(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src", classes=1, images=4)
    big, small = noise((3, 12, 10), 7, 0, 256, "uint8"), noise((3, 8, 6), 8, 0, 256, "uint8")
    write_tif(tmp_path / "src" / "class-0" / "x1.tif", big, crs=None)
    write_tif(tmp_path / "src" / "class-0" / "x2.tif", small, crs=None)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert store.chip_px == 8
    (values,) = store.take([4, 5])
    np.testing.assert_array_equal(values[0], big[:, 2:10, 1:9])
    np.testing.assert_array_equal(values[1][:, :, 1:7], small)
    np.testing.assert_array_equal(values[1][:, :, 0], small[:, :, 0])
    assert store.meta.notes == ["2 images cropped or padded to 8×8 px"]


def test_chip_px_resamples_the_whole_image(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src", classes=1, images=2)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store", chip_px=4)
    expected = noise((3, 8, 8), 0, 0, 256, "uint8").reshape(3, 4, 2, 4, 2).mean(axis=(2, 4))
    assert np.abs(store.take([0])[0][0] - expected).max() <= 1


def test_broken_files_are_quarantined_or_fatal(tmp_path: Path) -> None:
    src = write_class_folders(tmp_path / "src", classes=2, images=4)
    (src / "class-0" / "notes.tif").write_text("not a raster")
    (src / "class-1" / "readme.txt").write_text("passed over")
    (src / "empty").mkdir()
    write_tif(src / "class-0" / "odd.tif", noise((2, 8, 8), 1, 0, 256, "uint8"), crs=None)
    whole = noise((3, 64, 64), 1, 0, 256, "uint8")
    cut = write_tif(src / "class-1" / "cut.tif", whole, crs=None, compress="deflate")
    cut.write_bytes(cut.read_bytes()[:-6000])
    store = ingest_class_folders(src, tmp_path / "store")
    assert len(store) == 8
    reasons = {item.path: item.reason for item in store.meta.skipped}
    assert set(reasons) == {"class-0/notes.tif", "class-0/odd.tif", "class-1/cut.tif", "empty"}
    assert "2 bands of uint8, the others have 3" in reasons["class-0/odd.tif"]
    with pytest.raises(DataError, match="strict"):
        ingest_class_folders(src, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_other_image_formats_and_alpha(tmp_path: Path) -> None:
    for i in range(3):
        values = noise((4, 8, 8), i, 0, 256, "uint8")
        write_tif(tmp_path / "src" / "a" / f"{i}.png", values, crs=None, driver="PNG")
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert store.meta.notes == ["3 images have an alpha band, which is not read as a band"]
    np.testing.assert_array_equal(store.take([1])[0][0], noise((4, 8, 8), 1, 0, 256, "uint8")[:3])


def test_equal_images_go_to_one_split(tmp_path: Path) -> None:
    for i in range(10):
        values = noise((3, 8, 8), i // 2, 0, 256, "uint8")
        write_tif(tmp_path / "src" / "a" / f"{i}.tif", values, crs=None)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store", test_share=0.4)
    split = column(store.manifest, "split")
    assert (split[::2] == split[1::2]).all()
    assert (split == "test").sum() == 4


def test_same_seed_same_store(tmp_path: Path) -> None:
    src = write_class_folders(tmp_path / "src")
    for name in "ab":
        ingest_class_folders(src, tmp_path / name, seed=3)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_progress_goes_to_the_callback(tmp_path: Path) -> None:
    src = write_class_folders(tmp_path / "src", classes=1, images=2)
    seen: list[tuple[str, int, int]] = []
    ingest_class_folders(src, tmp_path / "a", progress=lambda *report: seen.append(report))
    assert seen == [("0", 2 * 3 * 8 * 8, 2 * 3 * 8 * 8)]


@pytest.mark.parametrize("options", [{"chip_px": 0}, {"test_share": 1.5}])
def test_wrong_settings_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    src = write_class_folders(tmp_path / "src", classes=1, images=2)
    with pytest.raises(SettingError):
        ingest_class_folders(src, tmp_path / "store", **options)


def test_missing_and_empty_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        ingest_class_folders(tmp_path / "nowhere", tmp_path / "store")
    (tmp_path / "src" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no class folders with images"):
        ingest_class_folders(tmp_path / "src", tmp_path / "store")
    (tmp_path / "src" / "a" / "x.tif").write_text("")
    with pytest.raises(DataError, match="no readable image"):
        ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_folders_of_one_name_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src", classes=3)
    for old, new in (("class-0", "Fore\u0302t"), ("class-1", "For\u00eat"), ("class-2", "eau")):
        (tmp_path / "src" / old).rename(tmp_path / "src" / new)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert store.classes == ["eau", "For\u00eat"]
    names = {1: "Fore\u0302t", 2: "eau"}
    store = ingest_class_folders(tmp_path / "src", tmp_path / "listed", classes=names)
    assert store.classes == ["For\u00eat", "eau"]
