from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.ingest import job_results
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.pixel_mode import PixelJob
from data_prep.ingest.plan import plan_scenes
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import noise, quadrants, write_tif


def test_patches_equal_those_of_the_padded_scene(pixels_store: Store) -> None:
    padded = np.pad(noise((7, 40, 40)), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    (patches,) = pixels_store.take(np.arange(len(pixels_store)))
    assert patches.shape == (4 * 18 * 18, 7, 5, 5)
    rows, cols = column(pixels_store.manifest, "row"), column(pixels_store.manifest, "col")
    for patch, r, c in zip(patches, rows, cols, strict=True):
        np.testing.assert_array_equal(patch, padded[:, r : r + 5, c : c + 5])


def test_fields_stay_whole_and_patches_hold_no_test_pixel(pixels_store: Store) -> None:
    meta = pixels_store.meta
    assert (meta.kind, meta.patch_px, meta.chip_px) == ("pixels", 5, 5)
    assert meta.classes == ["class 1", "class 2"]
    split, block = column(pixels_store.manifest, "split"), column(pixels_store.manifest, "block")
    for name in set(block):
        assert len(set(split[block == name]) - {"buffer"}) == 1
    place = np.stack([column(pixels_store.manifest, n) for n in ("row", "col")], axis=1)
    train, test = place[split == "train"], place[split == "test"]
    assert np.abs(train[:, None] - test[None]).max(axis=2).min() > 2
    assert meta.splits.class_counts["test"] == [324, 324]


def test_statistics_are_of_the_train_pixels_themselves(pixels_store: Store) -> None:
    train = np.flatnonzero(column(pixels_store.manifest, "split") == "train")
    middles = pixels_store.take(train)[0][:, :, 2, 2].astype(np.float64)
    (meta,) = pixels_store.meta.modalities
    np.testing.assert_allclose(meta.mean, middles.mean(axis=0))
    np.testing.assert_allclose(meta.std, middles.std(axis=0))
    assert meta.count == [len(train)] * 7


def test_scenes_of_several_sizes_share_the_arrays(tmp_path: Path) -> None:
    cubes = {}
    for i, size in enumerate((30, 90, 21)):
        cubes[f"scene-{i}"] = noise((3, size, 150), i).astype("float32")
        folder = tmp_path / "src" / f"scene-{i}"
        write_tif(folder / "cube.tif", cubes[f"scene-{i}"], left=500_000 + 1e4 * i)
        labels = quadrants(size, 150, (1, 2, 2, 1))
        labels[: size // 3, ::7] = 0
        write_tif(folder / "labels.tif", labels, left=500_000 + 1e4 * i)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", patch_px=11)
    chosen = np.random.default_rng(0).integers(0, len(store), 200)
    (patches,) = store.take(chosen)
    for patch, row in zip(patches, store.manifest.take(chosen).to_pylist(), strict=True):
        padded = np.pad(cubes[row["scene"]], ((0, 0), (5, 5), (5, 5)), mode="reflect")
        expected = padded[:, row["row"] : row["row"] + 11, row["col"] : row["col"] + 11]
        np.testing.assert_array_equal(patch, expected)


def test_copies_small_scenes_and_unlabeled_ones_are_refused(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for name in ("a", "b"):
        write_tif(src / name / "cube.tif", noise((3, 40, 40)), crs=None)
        labels = quadrants(40, 40, (1, 2, 2, 1))
        labels[20] = 0
        write_tif(src / name / "labels.tif", labels, crs=None)
    store = ingest_scenes(src, tmp_path / "store", patch_px=3)
    assert [item.reason for item in store.meta.skipped] == ["the same pixels as scene a"]
    assert set(column(store.manifest, "scene")) == {"a"}
    with pytest.raises(DataError, match="too small for patches of 99 px"):
        ingest_scenes(src, tmp_path / "no", patch_px=99)
    for name in ("a", "b"):
        write_tif(src / name / "labels.tif", quadrants(40, 40, (0, 0, 0, 0)), crs=None)
    with pytest.raises(DataError, match="no pixel is labeled"):
        ingest_scenes(src, tmp_path / "no", patch_px=3)


@pytest.fixture
def cubes(tmp_path: Path) -> Path:
    for i in range(3):
        place = {"left": 500_000 + 1e4 * i}
        write_tif(tmp_path / "src" / f"scene-{i}" / "cube.tif", noise((3, 300, 40), i), **place)
        labels = quadrants(300, 40, (1, 2, 2, 1))
        labels[::9] = 0
        write_tif(tmp_path / "src" / f"scene-{i}" / "labels.tif", labels, **place)
    return tmp_path / "src"


def contents(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.path.iterdir()}


@pytest.mark.slow
def test_processes_and_jobs_do_not_change_the_store(
    cubes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ingest_scenes(cubes, tmp_path / "alone", patch_px=5, processes=1)
    together = ingest_scenes(cubes, tmp_path / "together", patch_px=5, processes=2)
    assert contents(alone) == contents(together)
    monkeypatch.setattr("data_prep.ingest.pixel_mode.JOB_BYTES", 1)
    plan = plan_scenes(cubes, SceneOptions(patch_px=5))
    assert len(plan.jobs) == 3 * 5
    assert plan.most_samples == 3 * 300 * 40
    cut = ingest_scenes(cubes, tmp_path / "cut", patch_px=5)
    assert (
        cut.take(np.arange(len(cut)))[0].tobytes() == alone.take(np.arange(len(alone)))[0].tobytes()
    )
    for name in ("label", "split", "row", "col", "offset"):
        assert column(cut.manifest, name).tolist() == column(alone.manifest, name).tolist()


@pytest.mark.slow
def test_a_killed_call_goes_on_with_what_is_left(
    cubes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ingest_scenes(cubes, tmp_path / "whole", patch_px=5)
    done: list[str] = []
    make_part = job_results.run_job

    def dying(folder: Path, job: PixelJob) -> job_results.JobResult:
        if len(done) == 2:
            done.append("killed")
            raise KeyboardInterrupt
        done.append(job.scene)
        return make_part(folder, job)

    monkeypatch.setattr(job_results, "run_job", dying)
    with pytest.raises(KeyboardInterrupt):
        ingest_scenes(cubes, tmp_path / "store", patch_px=5)
    assert not (tmp_path / "store").exists()
    store = ingest_scenes(cubes, tmp_path / "store", patch_px=5)
    assert done == ["scene-0", "scene-1", "killed", "scene-2"]
    assert contents(store) == contents(whole)
