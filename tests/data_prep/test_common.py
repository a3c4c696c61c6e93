"""Sums that sites share: they add up to those of all pixels, and nothing malformed passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from data_prep.common import (
    LayerSums,
    SiteSums,
    merge_sites,
    site_sums,
)
from data_prep.dataset import open_data
from data_prep.ingest import ingest_scenes
from data_prep.manifest import column
from data_prep.normalizing import normalizing_statistics
from data_prep.partition import partition
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import write_scene


def test_sites_sums_add_up_to_the_store_s_own(scenes_store: Store, tmp_path: Path) -> None:
    data = partition(scenes_store.path, tmp_path / "data", scheme="folder")
    sums = [site_sums(data, name) for name in data.sites]
    both = merge_sites(sums)
    (meta,) = scenes_store.meta.modalities
    layer = both.layers["optical"]
    np.testing.assert_allclose(layer.mean, meta.mean, rtol=1e-6)
    np.testing.assert_allclose(layer.std, meta.std, rtol=1e-6)
    assert layer.count.tolist() == meta.count
    labels = column(scenes_store.manifest, "label")
    train = column(scenes_store.manifest, "split") == "train"
    assert list(both.class_counts) == np.bincount(labels[train]).tolist()


def test_a_whole_store_tells_what_its_ingestion_has_counted(scenes_store: Store) -> None:
    """A large archive is not read again for it."""
    known = site_sums(open_data(scenes_store.path), 0).layers["optical"]
    chips, _ = open_data(scenes_store.path).site(0).split("train")
    (read,) = scenes_store.band_sums(chips)
    np.testing.assert_array_equal(known.count, read.count)
    np.testing.assert_allclose((known.mean, known.m2), (read.mean, read.m2), rtol=1e-7)


def test_pixels_are_added_up_by_themselves(pixels_store: Store) -> None:
    sums = site_sums(open_data(pixels_store.path), 0)
    (meta,) = pixels_store.meta.modalities
    np.testing.assert_allclose(sums.layers["cube"].mean, meta.mean)
    assert sums.layers["cube"].count.tolist() == meta.count


def test_scales_and_offsets_are_applied(tmp_path: Path) -> None:
    """Two sites with one reflectance, stored in other counts, normalise to the same."""
    found = []
    for i, (scale, offset) in enumerate(((1.0, 0.0), (0.5, -10.0))):
        write_scene(tmp_path / f"src-{i}", bands=2, size=64)
        with rasterio.open(tmp_path / f"src-{i}" / "optical.tif", "r+") as target:
            values = target.read()
            target.write(((values - offset) / scale).round().astype("uint16"))
            target.scales, target.offsets = (scale,) * 2, (offset,) * 2
        store = ingest_scenes(tmp_path / f"src-{i}", tmp_path / f"store-{i}", chip_px=8)
        found.append(site_sums(open_data(store.path), 0).layers["optical"])
        mean, std = normalizing_statistics(store.meta.modalities[0])
        np.testing.assert_allclose((mean, std), (found[i].mean, found[i].std), rtol=1e-6)
    np.testing.assert_allclose(found[0].mean, found[1].mean, rtol=1e-6)
    np.testing.assert_allclose(found[0].std, found[1].std, rtol=1e-6)


@given(
    st.lists(
        st.lists(st.integers(0, 60_000), min_size=0, max_size=20), min_size=1, max_size=5
    ).filter(any),
    st.randoms(),
)
def test_any_order_gives_the_statistics_of_all_pixels(sites: list[list[int]], random: Any) -> None:
    sums = [_of(np.array(values, float)) for values in sites]
    random.shuffle(sums)
    layer = merge_sites(sums).layers["a"]
    pixels = np.array([value for values in sites for value in values], float)
    assert layer.count[0] == len(pixels)
    np.testing.assert_allclose(layer.mean[0], pixels.mean(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(layer.std[0], pixels.std(), rtol=1e-7, atol=1e-6)


def _of(values: np.ndarray) -> SiteSums:
    mean = values.mean() if len(values) else 0.0
    m2 = ((values - mean) ** 2).sum()
    layer = LayerSums(("b",), *(np.array([v], float) for v in (len(values), mean, m2)))
    return SiteSums({"a": layer}, ("x",), (len(values),))


def test_what_is_sent_is_plain_and_comes_back(scenes_store: Store) -> None:
    sums = site_sums(open_data(scenes_store.path), 0)
    back = SiteSums.from_mapping(json.loads(json.dumps(sums.to_mapping())))
    assert back.classes == sums.classes
    assert back.class_counts == sums.class_counts
    np.testing.assert_array_equal(back.layers["optical"].m2, sums.layers["optical"].m2)
    assert len(json.dumps(sums.to_mapping())) < 600


@pytest.mark.parametrize(
    "change",
    [
        {"layers": None},
        {"layers": ["b"]},
        {"a count": [1.0, 2.0]},
        {"a mean": [float("nan")]},
        {"a m2": [-1.0]},
        {"a count": [-1.0]},
        {"a count": [0.0]},
        {"class-counts": [1, 2]},
        {"class-counts": [-1]},
        {"class-counts": ["x"]},
    ],
    ids=str,
)
def test_malformed_sums_of_a_peer_are_refused(change: dict[str, Any]) -> None:
    good = _of(np.array([1.0, 2.0])).to_mapping()
    with pytest.raises(DataError, match="use one version"):
        SiteSums.from_mapping(good | change)


def test_sites_that_differ_are_refused() -> None:
    one = _of(np.array([1.0]))
    layer = one.layers["a"]
    with pytest.raises(DataError, match="sites differ in layers or bands"):
        merge_sites([one, SiteSums({"c": layer}, ("x",), (1,))])
    two = {"a": layer, "c": layer}
    other_order = SiteSums(dict(reversed(two.items())), ("x",), (1,))
    with pytest.raises(DataError, match=r"differ in layers or bands: c \(b\); a \(b\) and a"):
        merge_sites([SiteSums(two, ("x",), (1,)), other_order])
    with pytest.raises(DataError, match="sites differ in classes"):
        merge_sites([one, SiteSums({"a": layer}, ("y",), (1,))])
    with pytest.raises(DataError, match="no site has sent statistics"):
        merge_sites([])
