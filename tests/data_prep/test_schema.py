"""Records that another party wrote: each field is checked, and no name leads out of the folder."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset import open_data
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, write_class_folders, write_scene


@pytest.fixture
def copy(scenes_store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes_store.path, tmp_path / "store"))


@pytest.fixture
def divided(copy: Path, tmp_path: Path) -> Path:
    return partition(copy, tmp_path / "divided", sites=3).path


def edit(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def modality(**fields: object) -> Callable[[Any], object]:
    return lambda meta: meta["modalities"][0].update(fields)


def shard(**fields: object) -> Callable[[Any], object]:
    return lambda meta: meta["modalities"][0]["shards"][0].update(fields)


def field(**fields: object) -> Callable[[Any], object]:
    return lambda record: record.update(fields)


SPOILT_STORES: dict[str, tuple[Callable[[Any], object], str]] = {
    "absolute shard": (shard(file="/etc/passwd"), "'/etc/passwd' is not the name of a file"),
    "shard above": (shard(file="../x.npy"), r"'\.\./x.npy' is not the name of a file"),
    "shard without a name": (shard(file=""), "is not the name of a file"),
    "shard with a NUL": (shard(file="a\0b"), "is not the name of a file"),
    "long name": (shard(file="a" * 300), "is longer than 240 bytes"),
    "negative rows": (shard(rows=-1), "shards.0.rows"),
    "rows of another file": (
        shard(rows=7),
        "manifest.parquet has 576 rows for the store's 7 chips",
    ),
    "rows beyond 64 bits": (shard(rows=2**70), "more than 64 bits"),
    "rows as text": (shard(rows="many"), "modalities.0.shards.0.rows"),
    "dtype": (modality(dtype="object"), "'object' is not one of int8"),
    "dtype of a structure": (modality(dtype="i4,i8"), "'i4,i8' is not one of int8"),
    "dtype of another size": (modality(dtype="uint8"), "meta.json says 576 of uint8"),
    "no bands": (modality(bands=[]), "modalities.0.bands"),
    "fewer bands": (modality(bands=["a"]), "4 values for 1 bands"),
    "nodata": (modality(nodata=1e9), "1000000000.0 is not a value of uint16"),
    "nodata of a fraction": (modality(nodata=0.5), "0.5 is not a value of uint16"),
    "factor 0": (modality(factor=0), "modalities.0.factor"),
    "factor": (modality(factor=3), "factor 3 of modality optical does not divide 8 px"),
    "std below 0": (modality(std=[1.0, 2.0, -1.0, 1.0]), "-1.0 is negative"),
    "no statistics": (modality(mean=[]), "has no mean or no std"),
    "no modality": (field(modalities=[]), "modalities"),
    "the same modality": (lambda m: m["modalities"].append(m["modalities"][0]), "stands twice"),
    "the same class": (field(classes=["a", "b", "a"]), "'a' stands twice"),
    "classes without codes": (field(class_codes=[1]), "1 class_codes for 3 classes"),
    "a surrogate": (field(name="\ud800"), r"'\\ud800' is not valid Unicode"),
    "a surrogate as key": (lambda m: m["left_out"].update({"\udfff": 1}), "not valid Unicode"),
    "infinity": (field(splits={"test_share": float("inf")}), "inf"),
    "chip of no pixels": (field(chip_px=0), "chip_px 0 and patch_px 0 of chips"),
    "huge chip": (field(chip_px=10**9), "chip_px"),
    "pixels": (field(kind="pixels"), "patch_px 0 and chip_px 8 of pixel data"),
    "a kind": (field(kind="\x1b[2J"), "kind: "),
    "an unknown key": (field(extra=1), "extra: "),
    "a split": (lambda m: m["splits"]["counts"].update(tset=1), "splits.counts.tset"),
    "counts of classes": (
        lambda m: m["splits"]["class_counts"].update(test=[1]),
        "splits.class_counts.test has 1 classes",
    ),
}


@pytest.mark.parametrize("case", SPOILT_STORES)
def test_a_spoilt_store_is_refused_in_one_line(case: str, copy: Path) -> None:
    change, reason = SPOILT_STORES[case]
    edit(copy / "meta.json", change)
    with pytest.raises(DataError, match=reason) as caught:
        Store.open(copy)
    text = str(caught.value)
    assert text.isprintable(), text
    assert str(copy) in text
    assert text.endswith("again")


SPOILT_PARTITIONS: dict[str, tuple[Callable[[Any], object], str]] = {
    "site above": (field(sites=["../../store/manifest"]), "is not the name of a file"),
    "absolute site": (field(sites=["/etc/passwd"]), "is not the name of a file"),
    "the parent": (field(sites=[".."]), "is not the name of a file"),
    "a site of two lines": (field(sites=["a\nb"]), "is not a plain name"),
    "a long site": (field(sites=["x" * 10**6]), "is longer than 240 bytes"),
    "twice": (field(sites=["a", "a"]), "'a' stands twice"),
    "no sites": (field(sites=[]), "sites"),
    "unknown site": (field(sites=["site-77"]), r"site-77.parquet is missing"),
    "lacking": (field(lacking={"nobody": ["optical"]}), "'nobody' is not one of the sites"),
    "classes": (field(classes=["a", "b", "c"]), "has other classes than"),
    "store": (field(store=""), "'' is not a path"),
    "elsewhere": (field(store="../../.."), "which is not there: put it there, or partition again"),
    "a store with a NUL": (field(store="a\0b"), "is not a path"),
    "a list of stores": (field(store=[1]), "store: "),
}


@pytest.mark.parametrize("case", SPOILT_PARTITIONS)
def test_a_spoilt_partition_is_refused_in_one_line(case: str, divided: Path) -> None:
    change, reason = SPOILT_PARTITIONS[case]
    edit(divided / "partition.json", change)
    with pytest.raises(DataError, match=reason) as caught:
        open_data(divided).site(0)
    text = str(caught.value)
    assert text.isprintable(), text
    assert str(divided) in text


@pytest.mark.parametrize("record", ["meta.json", "partition.json"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[" * 100 + b"]" * 100, "nested too deeply"),
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not in UTF-8"),
        (b"[1, 2]", "it has no schema_version: name another folder, or"),
        (b"{}", "it has no schema_version"),
        (b'{"schema_version": 4}', "schema version 4, .*: install a newer rsdgc, or"),
        (b'{"schema_version": NaN}', "is not a number of JSON"),
        (b'{"schema_version": 1e999}', "is not a number of JSON"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"schema_version": "\x1b[31m"}', "not JSON"),
        (b'{"schema_version": "\\u001b[31m"}', r"schema version '\\x1b\[31m'"),
    ],
)
def test_what_is_not_a_record_is_refused(
    record: str, content: bytes, reason: str, copy: Path, divided: Path
) -> None:
    folder = copy if record == "meta.json" else divided
    (folder / record).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        open_data(folder)
    assert str(caught.value).isprintable()


def test_a_huge_record_is_not_read(copy: Path) -> None:
    with (copy / "meta.json").open("wb") as file:
        file.truncate(2**33)  # without content
    tracemalloc.start()
    with pytest.raises(DataError, match="8589934592 bytes, and at most"):
        Store.open(copy)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_a_pipe_in_place_of_a_file_is_not_waited_for(copy: Path) -> None:
    for name in ("meta.json", "manifest.parquet", "optical-000.npy"):
        content = (copy / name).read_bytes()
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(DataError, match=name):
            Store.open(copy)
        (copy / name).unlink()
        (copy / name).write_bytes(content)


@pytest.mark.parametrize("name", ["meta.json", "manifest.parquet", "optical-000.npy"])
def test_a_link_out_of_a_store_is_refused(name: str, copy: Path, tmp_path: Path) -> None:
    (copy / name).rename(tmp_path / "outside")
    (copy / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=f"{name} is a link that leads out of"):
        Store.open(copy)
    (copy / name).unlink()
    (tmp_path / "outside").rename(copy / "inside")
    (copy / name).symlink_to("inside")
    assert len(Store.open(copy))


@pytest.mark.parametrize("name", ["meta.json", "manifest.parquet", "optical-000.npy"])
def test_a_link_to_itself_is_refused(name: str, copy: Path) -> None:
    (copy / name).unlink()
    (copy / name).symlink_to(name)
    with pytest.raises(DataError, match=r"(has neither meta\.json|is missing)"):
        open_data(copy)


def test_a_link_out_of_a_partition_is_refused(divided: Path, tmp_path: Path) -> None:
    (divided / "sites").rename(tmp_path / "outside")
    (divided / "sites").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="is a link that leads out of"):
        open_data(divided).site(0)


def test_a_store_that_is_a_link_itself_is_opened(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)
    assert len(Store.open(tmp_path / "link")) == len(Store.open(copy))


def test_names_become_one_printable_line(copy: Path) -> None:
    """A site that opens the store of another party tells them to the server and to its terminal."""
    edit(copy / "meta.json", field(classes=["a\nINFO : done", "\x1b[2J", "\u202eb"], name="x\ty"))
    edit(copy / "meta.json", modality(name="opt\rical"))
    meta = Store.open(copy).meta
    assert meta.classes == ["a INFO : done", "\\x1b[2J", "\\u202eb"]
    assert (meta.name, meta.modalities[0].name) == ("x y", "opt ical")


def test_an_archive_s_names_become_plain_or_are_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src", classes=2)
    (tmp_path / "src" / "class-1").rename(tmp_path / "src" / "cl\x1bass\n1")
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert store.classes == ["cl\\x1bass 1", "class-0"]
    (tmp_path / "src" / "class-0").rename(tmp_path / "src" / "cl\x1bass\t1")
    with pytest.raises(DataError, match=r"stands twice: rename it"):
        ingest_class_folders(tmp_path / "src", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_whose_name_is_not_plain_is_not_a_site(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b\x1b[2J")):
        write_scene(tmp_path / "src" / name / "scene", seed=seed, left=LEFT + 5000 * seed)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", chip_px=8)
    with pytest.raises(DataError, match=r"the folder 'b\\x1b\[2J' cannot name a site"):
        partition(store.path, tmp_path / "divided", scheme="folder")
