"""Killed ingestions go on, finished ones are not made again, and broken ones leave nothing."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_hexdigest

from data_prep.ingest import job_results
from data_prep.ingest.aligned import READ_BYTES, read_step
from data_prep.ingest.chips import ChipJob
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.dry_run import plan_facts, plan_image_facts, print_plan
from data_prep.ingest.options import ChipRules, SceneOptions
from data_prep.ingest.plan import plan_scenes
from data_prep.ingest.scenes import ingest_scenes
from data_prep.ingest.sources import hash_file
from data_prep.manifest import column
from data_prep.store import Store
from data_prep.store_writer import write_records
from rsdgc.durable import is_locked
from rsdgc.errors import DataError, RunError, SettingError
from tests.data_prep.archives import (
    LEFT,
    noise,
    stripes,
    write_class_folders,
    write_scene,
    write_tif,
)

ROOT = Path(__file__).parents[3]
MAKE_PART = job_results.run_job


@pytest.fixture
def src(tmp_path: Path) -> Path:
    for i in range(4):
        write_scene(tmp_path / "src" / f"scene-{i}", seed=i, size=64, left=LEFT + 5000 * i)
    return tmp_path / "src"


def same(first: Path, second: Path) -> bool:
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    return all((first / n).read_bytes() == (second / n).read_bytes() for n in names)


def test_a_killed_call_goes_on_with_what_is_left(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ingest_scenes(src, src.parent / "whole", chip_px=8)
    done: list[str] = []
    make_part = job_results.run_job

    def dying(folder: Path, job: ChipJob) -> job_results.JobResult:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.scene)
        return make_part(folder, job)

    monkeypatch.setattr(job_results, "run_job", dying)
    out = src.parent / "store"
    with pytest.raises(KeyboardInterrupt):
        ingest_scenes(src, out, chip_px=8)
    assert not out.exists()
    assert (src.parent / ".store.ingest").is_dir()

    def counting(folder: Path, job: ChipJob) -> job_results.JobResult:
        done.append(job.scene)
        return make_part(folder, job)

    monkeypatch.setattr(job_results, "run_job", counting)
    ingest_scenes(src, out, chip_px=8)
    assert done == [f"scene-{i}" for i in range(4)]
    assert same(out, whole.path)
    assert sorted(p.name for p in src.parent.iterdir()) == ["src", "store", "whole"]


@pytest.mark.slow
@pytest.mark.parametrize("joins", [1, 2, 4])
def test_a_call_killed_while_parts_are_moved_goes_on(
    src: Path, monkeypatch: pytest.MonkeyPatch, joins: int
) -> None:
    for i in range(4):
        write_tif(src / f"scene-{i}" / "dem.tif", noise((64, 64), i), left=LEFT + 5000 * i)
    whole = ingest_scenes(src, src.parent / "whole", chip_px=8)
    copy, copied = shutil.copyfileobj, []

    def dying(source: Any, target: Any, length: int) -> None:
        copied.append(length)
        if len(copied) == joins:
            raise KeyboardInterrupt
        copy(source, target, length)

    monkeypatch.setattr(shutil, "copyfileobj", dying)
    with pytest.raises(KeyboardInterrupt):
        ingest_scenes(src, src.parent / "store", chip_px=8)
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    assert same(whole.path, ingest_scenes(src, src.parent / "store", chip_px=8).path)


@pytest.mark.parametrize("uncopied", [0, 20_000, 2**26])
def test_a_store_is_made_within_the_space_announced(
    src: Path, monkeypatch: pytest.MonkeyPatch, uncopied: int
) -> None:
    monkeypatch.setattr("data_prep.shards.UNCOPIED_BYTES", uncopied)
    facts = plan_facts(src, chip_px=8)
    work = src.parent / ".store.ingest"
    taken = [0]

    def weigh(*_: Any) -> None:
        taken.append(sum(file.stat().st_size for file in work.rglob("*") if file.is_file()))

    copy, run_job = shutil.copyfileobj, job_results.run_job
    monkeypatch.setattr(shutil, "copyfileobj", lambda *a: (copy(*a), a[1].flush(), weigh()))
    monkeypatch.setattr(job_results, "run_job", lambda *a: (run_job(*a), weigh())[0])
    monkeypatch.setattr(
        "data_prep.ingest.finalize.write_records", lambda *a, **k: (write_records(*a, **k), weigh())
    )
    ingest_scenes(src, src.parent / "store", chip_px=8)
    assert max(taken) <= facts["most_disk_bytes"]
    # parts are moved: at no time is there a second copy of all
    assert facts["most_bytes"] < max(taken) < 2 * facts["most_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", bytes(500)])
def test_a_result_that_lost_its_content_is_made_again(
    src: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A loss of power leaves files that have a name and no content."""
    whole = ingest_scenes(src, src.parent / "whole", chip_px=8)
    make_part = job_results.run_job

    def dying(folder: Path, job: ChipJob) -> job_results.JobResult:
        if job.scene == "scene-2":
            (next(folder.glob("*.npz"))).write_bytes(content)
            raise KeyboardInterrupt
        return make_part(folder, job)

    monkeypatch.setattr(job_results, "run_job", dying)
    out = src.parent / "store"
    with pytest.raises(KeyboardInterrupt):
        ingest_scenes(src, out, chip_px=8)
    monkeypatch.setattr(job_results, "run_job", make_part)
    assert same(whole.path, ingest_scenes(src, out, chip_px=8).path)


@pytest.mark.slow
def test_a_process_killed_without_warning_goes_on(src: Path) -> None:
    out = src.parent / "store"
    size = 1500
    for i in range(4):
        values = noise((4, size, size), i)
        write_tif(src / f"scene-{i}" / "optical.tif", values, left=LEFT + 50_000 * i)
        labels = stripes(size, size, 8, (1, 2))
        write_tif(src / f"scene-{i}" / "labels.tif", labels, left=LEFT + 50_000 * i)
    code = (
        "from data_prep.ingest.scenes import ingest_scenes\n"
        "if __name__ == '__main__':\n"
        f"    ingest_scenes({str(src)!r}, {str(out)!r}, chip_px=10, processes=2)\n"
    )
    script = src.parent / "run.py"
    script.write_text(code)
    command = [sys.executable, str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        work = src.parent / ".store.ingest" / "parts"
        while not list(work.glob("*.npz")) and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    made = len(list(work.glob("*.npz")))
    assert made >= 1
    assert not out.exists()
    # the workers end with their parent, and give the lock back
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not is_locked(src.parent / ".store.lock"):
            break
        time.sleep(0.1)
    subprocess.run(command, env=environment, check=True)
    whole = ingest_scenes(src, src.parent / "whole", chip_px=10, processes=1)
    assert same(out, whole.path)


def test_the_same_call_does_nothing_and_a_change_is_seen(src: Path) -> None:
    out = src.parent / "store"
    ingest_scenes(src, out, chip_px=8)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    ingest_scenes(src, out, chip_px=8)
    # touched, but the content is the same
    os.utime(src / "scene-0" / "optical.tif")
    ingest_scenes(src, out, chip_px=8)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(DataError, match="exists already"):
        ingest_scenes(src, out, chip_px=16)
    write_tif(src / "scene-0" / "optical.tif", noise((4, 64, 64), 77), nodata=0)
    with pytest.raises(DataError, match="exists already"):
        ingest_scenes(src, out, chip_px=8)
    store = ingest_scenes(src, out, chip_px=8, overwrite=True)
    np.testing.assert_array_equal(store.take([0])[0][0], noise((4, 64, 64), 77)[:, :8, :8])


def test_class_folders_are_not_made_again_either(tmp_path: Path) -> None:
    src = write_class_folders(tmp_path / "src", classes=2, images=3)
    ingest_class_folders(src, tmp_path / "store")
    before = (tmp_path / "store" / "meta.json").stat().st_mtime_ns
    ingest_class_folders(src, tmp_path / "store")
    assert (tmp_path / "store" / "meta.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="exists already"):
        ingest_class_folders(src, tmp_path / "store", seed=1)


def test_another_process_at_the_same_store_is_refused(src: Path) -> None:
    with (
        FileLock(src.parent / ".store.lock"),
        pytest.raises(DataError, match=r"another process is making .*store"),
    ):
        ingest_scenes(src, src.parent / "store", chip_px=8)


def test_a_dead_worker_is_named_and_its_parts_stay(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_results, "run_job", _die)
    with pytest.raises(RunError, match="a process of the ingestion ended"):
        ingest_scenes(src, src.parent / "store", chip_px=8, processes=3)
    assert (src.parent / ".store.ingest").is_dir()
    monkeypatch.undo()
    assert len(ingest_scenes(src, src.parent / "store", chip_px=8)) == 256


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_stores_are_the_same_whoever_does_the_jobs(src: Path, processes: int) -> None:
    filters = list(warnings.filters)
    alone = ingest_scenes(src, src.parent / "alone", chip_px=8, processes=1)
    shared = ingest_scenes(src, src.parent / "shared", chip_px=8, processes=processes)
    assert same(shared.path, alone.path)
    assert warnings.filters == filters


def test_a_scene_that_fails_in_a_thread_or_a_process_is_left_out(src: Path) -> None:
    for name in ("scene-0", "scene-1"):
        path = src / name / "optical.tif"
        path.write_bytes(path.read_bytes()[:-9000])
    store = ingest_scenes(src, src.parent / "store", chip_px=8, processes=3)
    assert sorted(item.path for item in store.meta.skipped) == ["scene-0", "scene-1"]
    assert len(store) == 128


def test_files_are_known_by_their_xxh3(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = np.random.default_rng(0).bytes(2**19 + 77)
    path.write_bytes(content)
    assert hash_file(path) == xxh3_128_hexdigest(content)
    # whatever needs the file says why it cannot be read
    assert not hash_file(tmp_path / "none")


@given(
    row_bytes=st.integers(1, 2**26), block=st.integers(1, 2000), unit=st.sampled_from([1, 48, 64])
)
def test_reads_are_of_whole_blocks_and_of_whole_units_where_these_are_small(
    row_bytes: int, block: int, unit: int
) -> None:
    rows = read_step(row_bytes, block, unit)
    assert rows % block == 0
    assert rows == block or (rows <= 1024 and rows * row_bytes <= READ_BYTES)
    whole = math.lcm(block, unit)
    if whole <= 1024 and whole * row_bytes <= READ_BYTES:
        assert rows % unit == 0


def _die(folder: Path, job: ChipJob) -> job_results.JobResult:
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    return MAKE_PART(folder, job)


def test_progress_counts_bytes_to_the_end(src: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    ingest_scenes(src, src.parent / "s", chip_px=8, progress=lambda *r: seen.append(r))
    total = 4 * 4 * 64 * 64 * 2
    assert [done for _, done, _ in seen] == [total // 4 * i for i in (1, 2, 3, 4)]
    assert {whole for _, _, whole in seen} == {total}
    with pytest.raises(SettingError, match="processes is 0"):
        ingest_scenes(src, src.parent / "t", chip_px=8, processes=0)


def test_dry_runs_say_what_would_be_made_and_write_nothing(
    src: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (src / "scene-1" / "optical.tif").write_text("broken")
    facts = plan_facts(src, chip_px=10)
    print_plan(facts)
    assert [(s["name"], s["windows"]) for s in facts["scenes"]] == [
        (f"scene-{i}", 36) for i in (0, 2, 3)
    ]
    assert facts["most_samples"] == 108
    assert facts["most_bytes"] == 108 * 4 * 100 * 2
    assert facts["read_bytes"] == 3 * 4 * 64 * 64 * 2
    assert [item["path"] for item in facts["skipped"]] == ["scene-1"]
    text = capsys.readouterr().out
    for words in ("scene-3", "64×64", "at most 108 samples", "scene-1: ", "nothing was written"):
        assert words in text
    assert [path.name for path in src.parent.iterdir()] == ["src"]
    store = ingest_scenes(src, src.parent / "store", chip_px=10)
    assert len(store) == 108


def test_dry_runs_of_images_and_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = write_class_folders(tmp_path / "images", classes=2, images=3)
    facts = plan_image_facts(src)
    print_plan(facts)
    assert facts["images"] == {"class-0": 3, "class-1": 3}
    assert (facts["most_samples"], facts["most_bytes"]) == (6, 6 * 3 * 64)
    assert "class-1" in capsys.readouterr().out
    write_scene(tmp_path / "scene", size=16)
    assert plan_facts(tmp_path / "scene", patch_px=3)["most_bytes"] == 16 * 16 * 4 * 2


def test_jobs_do_not_depend_on_processes_and_cover_every_window(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.ingest.chips.JOB_BYTES", 4 * 64 * 2 * 20)
    monkeypatch.setattr("data_prep.ingest.chips.WIDE_BYTES", 4 * 64 * 2 * 16)
    options = SceneOptions(chip_px=8, stride_px=5, min_valid=0.0, min_label=0.0)
    plan = plan_scenes(src, options)
    windows = [(j.scene, r, c) for j in plan.jobs for r in j.rows for c in j.cols]
    assert len(plan.jobs) > 8
    assert len(windows) == len(set(windows)) == 4 * 12 * 12
    store = ingest_scenes(
        src, src.parent / "store", chip_px=8, stride_px=5, min_valid=0.0, min_label=0.0
    )
    monkeypatch.undo()
    plain = ingest_scenes(
        src, src.parent / "plain", chip_px=8, stride_px=5, min_valid=0.0, min_label=0.0
    )
    np.testing.assert_array_equal(by_place(store), by_place(plain))


def by_place(store: Store) -> np.ndarray:
    order = np.lexsort([column(store.manifest, n).astype(str) for n in ("col", "row", "scene")])
    return store.take(order)[0]


@pytest.mark.parametrize(
    "options", [{"edge": "wrap"}, {"split_by": "x"}, {"unknown": "x"}], ids=str
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    option = "--" + next(iter(options)).replace("_", "-")
    with pytest.raises(SettingError, match=f"{option} is"):
        SceneOptions(**options)
    with pytest.raises(SettingError):
        ChipRules(0, 1, 0.5, 0.5)
