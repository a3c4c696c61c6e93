"""Sums of sites add up to those of all pixels; statistics travel exactly, to where they fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.common_statistics import (
    CommonStatistics,
    ModalityStatistics,
    ModalitySums,
    SiteSums,
    merge_sites,
    normalization_of,
    outlying_sites,
    site_sums,
)
from data_prep.dataset import open_data
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.partition import partition
from data_prep.schema import ModalityMeta
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import write_scene


def test_sites_sums_add_up_to_the_store_s_own(scenes_store: Store, tmp_path: Path) -> None:
    data = partition(scenes_store.path, tmp_path / "data", scheme="folder")
    sums = [site_sums(data, name) for name in data.sites]
    total = merge_sites(sums)
    (meta,) = scenes_store.meta.modalities
    modality = total.modalities["optical"]
    np.testing.assert_allclose(modality.mean, meta.mean, rtol=1e-6)
    np.testing.assert_allclose(modality.std, meta.std, rtol=1e-6)
    assert modality.count.tolist() == meta.count
    labels = column(scenes_store.manifest, "label")
    train = column(scenes_store.manifest, "split") == "train"
    assert list(total.class_counts) == np.bincount(labels[train]).tolist()


def test_a_store_that_is_one_site_has_the_sums_of_its_ingestion(scenes_store: Store) -> None:
    """A large archive is not read again."""
    known = site_sums(open_data(scenes_store.path), 0).modalities["optical"]
    chips, _ = open_data(scenes_store.path).site(0).split("train")
    (read,) = scenes_store.band_sums(chips)
    np.testing.assert_array_equal(known.count, read.count)
    np.testing.assert_allclose((known.mean, known.m2), (read.mean, read.m2), rtol=1e-7)


def test_a_pixel_counts_without_its_patch(pixels_store: Store) -> None:
    sums = site_sums(open_data(pixels_store.path), 0)
    (meta,) = pixels_store.meta.modalities
    np.testing.assert_allclose(sums.modalities["cube"].mean, meta.mean)
    assert sums.modalities["cube"].count.tolist() == meta.count


def test_scales_and_offsets_are_applied(tmp_path: Path) -> None:
    """Two sites with one reflectance, stored in other counts, normalize to the same."""
    sums = []
    for i, (scale, offset) in enumerate(((1.0, 0.0), (0.5, -10.0))):
        write_scene(tmp_path / f"src-{i}", bands=2, size=64)
        with rasterio.open(tmp_path / f"src-{i}" / "optical.tif", "r+") as target:
            values = target.read()
            target.write(((values - offset) / scale).round().astype("uint16"))
            target.scales, target.offsets = (scale,) * 2, (offset,) * 2
        store = ingest_scenes(tmp_path / f"src-{i}", tmp_path / f"store-{i}", chip_px=8)
        sums.append(site_sums(open_data(store.path), 0).modalities["optical"])
        mean, std = normalization_of(store.meta.modalities[0])
        np.testing.assert_allclose((mean, std), (sums[i].mean, sums[i].std), rtol=1e-6)
    np.testing.assert_allclose(sums[0].mean, sums[1].mean, rtol=1e-6)
    np.testing.assert_allclose(sums[0].std, sums[1].std, rtol=1e-6)


@given(
    st.lists(
        st.lists(st.integers(0, 60_000), min_size=0, max_size=20), min_size=1, max_size=5
    ).filter(any),
    st.randoms(),
)
def test_any_order_gives_the_statistics_of_all_pixels(sites: list[list[int]], random: Any) -> None:
    sums = [_of(np.array(values, float)) for values in sites]
    random.shuffle(sums)
    modality = merge_sites(sums).modalities["a"]
    pixels = np.array([value for values in sites for value in values], float)
    assert modality.count[0] == len(pixels)
    np.testing.assert_allclose(modality.mean[0], pixels.mean(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(modality.std[0], pixels.std(), rtol=1e-7, atol=1e-6)


def _of(values: np.ndarray) -> SiteSums:
    mean = values.mean() if len(values) else 0.0
    m2 = ((values - mean) ** 2).sum()
    moments = (np.array([v], float) for v in (len(values), mean, m2))
    modality = ModalitySums(*moments, ("b",))
    return SiteSums({"a": modality}, ("x",), (len(values),))


def test_sums_are_sent_as_plain_lists_and_come_back(scenes_store: Store) -> None:
    sums = site_sums(open_data(scenes_store.path), 0)
    back = SiteSums.from_mapping(json.loads(json.dumps(sums.to_mapping())))
    assert back.classes == sums.classes
    assert back.class_counts == sums.class_counts
    np.testing.assert_array_equal(back.modalities["optical"].m2, sums.modalities["optical"].m2)
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
        {"class-counts": [True]},
        {"class-counts": [float("inf")]},
        {"class-counts": 1},
        {"classes": "a"},
        {"classes": b""},
        {"layers": ["a", "a"]},
        {"layers": []},
        {"layers": [["a"]]},
        {"a mean": ["1.0"]},
        {"a mean": [[1.0]]},
        {"a mean": [10**400]},
        {"a bands": [1]},
        {"more": [1]},
    ],
    ids=str,
)
def test_malformed_sums_of_a_peer_are_refused(change: dict[str, Any]) -> None:
    good = _of(np.array([1.0, 2.0])).to_mapping()
    with pytest.raises(DataError, match="use one version"):
        SiteSums.from_mapping(good | change)


def test_sites_that_differ_are_refused() -> None:
    one = _of(np.array([1.0]))
    modality = one.modalities["a"]
    other = ModalitySums(modality.count, modality.mean, modality.m2, ("c",))
    with pytest.raises(DataError, match="sites differ in the bands of modality a: c and b"):
        merge_sites([one, SiteSums({"a": other}, ("x",), (1,))])
    with pytest.raises(DataError, match="sites differ in classes"):
        merge_sites([one, SiteSums({"a": modality}, ("y",), (1,))])
    with pytest.raises(DataError, match="no site has sent statistics"):
        merge_sites([])


def test_a_modality_s_sums_are_those_of_the_sites_that_have_it() -> None:
    one, two = _of(np.array([1.0])), _of(np.array([3.0]))
    both = SiteSums({"c": two.modalities["a"], "a": two.modalities["a"]}, ("x",), (1,))
    merged = merge_sites([one, both])
    assert [merged.modalities["a"].mean, merged.modalities["c"].mean] == [[2.0], [3.0]]
    assert list(merged.modalities) == ["a", "c"]


MODALITIES = {"optical": ["B02", "B03", "B08"], "dem": ["elevation"]}
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def modalities(**bands: list[str]) -> list[ModalityMeta]:
    return [ModalityMeta(name=n, bands=b, dtype="uint16") for n, b in (bands or MODALITIES).items()]


def statistics(numbers: np.ndarray) -> CommonStatistics:
    """Return statistics of :data:`MODALITIES` from float32 [8]."""
    (mean, std), (mean2, std2) = numbers[:6].reshape(2, 3), numbers[6:].reshape(2, 1)
    return CommonStatistics(
        {
            "optical": ModalityStatistics(("B02", "B03", "B08"), mean, std),
            "dem": ModalityStatistics(("elevation",), mean2, std2),
        }
    )


def assert_same(one: CommonStatistics, two: CommonStatistics) -> None:
    assert list(one.modalities) == list(two.modalities)
    for name, modality in one.modalities.items():
        assert modality.bands == two.modalities[name].bands
        for key in ("mean", "std"):
            ours, theirs = getattr(modality, key), getattr(two.modalities[name], key)
            assert ours.dtype == theirs.dtype == np.float32
            assert ours.tobytes() == theirs.tobytes()


@given(arrays(np.float32, 8, elements=NUMBERS))
def test_common_statistics_travel_bit_for_bit(numbers: np.ndarray) -> None:
    numbers[[3, 4, 5, 7]] = np.abs(numbers[[3, 4, 5, 7]])  # standard deviations
    common = statistics(numbers)
    packed = common.pack()
    assert len(packed) == 4 + 8 * 4
    assert_same(CommonStatistics.unpack(packed, modalities()), common)
    assert_same(CommonStatistics.from_json(common.to_json()), common)


def test_packed_bytes_stay_what_they_are() -> None:
    packed = statistics(np.arange(8, dtype=np.float32)).pack()
    numbers = "000000000000803f0000004000004040000080400000a0400000c0400000e040"
    assert packed.hex() == "e7321ff6" + numbers


@pytest.mark.parametrize(
    "bands",
    [
        {"optical": ["B02", "B03", "B08"]},
        {"optical": ["B02", "B08", "B03"], "dem": ["elevation"]},
        {"dem": ["elevation"], "optical": ["B02", "B03", "B08"]},
        {"optical": ["B02", "B03", "B08"], "srtm": ["elevation"]},
    ],
    ids=["fewer modalities", "other order of bands", "other order of modalities", "other name"],
)
def test_a_site_of_other_modalities_refuses_them(bands: dict[str, list[str]]) -> None:
    packed = statistics(np.ones(8, np.float32)).pack()
    with pytest.raises(DataError, match="for other modalities or bands than this site's"):
        CommonStatistics.unpack(packed, modalities(**bands))


def test_damaged_or_infinite_statistics_are_refused() -> None:
    packed = statistics(np.ones(8, np.float32)).pack()
    for wrong in (packed[:-1], packed + b"\0", b""):
        with pytest.raises(DataError, match="for other modalities"):
            CommonStatistics.unpack(wrong, modalities())
    with pytest.raises(DataError, match="are not finite"):
        CommonStatistics.unpack(packed[:-4] + b"\0\0\xc0\x7f", modalities())


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", '{"a": 1}', '{"a": {"bands": ["b"], "mean": [1, 2], "std": [1]}}'),
        '{"a": {"bands": ["b"], "mean": [1e99], "std": [1]}}',  # beyond float32
    ],
)
def test_a_damaged_file_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="these are not common statistics"):
        CommonStatistics.from_json(text)


def test_common_statistics_override_the_store_s_own(scenes_store: Store) -> None:
    (meta,) = scenes_store.meta.modalities
    sums = site_sums(open_data(scenes_store.path), 0)
    common = CommonStatistics.of(merge_sites([sums, sums]))
    mean, std = normalization_of(meta, common)
    np.testing.assert_array_equal(mean, sums.modalities["optical"].mean.astype(np.float32))
    np.testing.assert_allclose(std, sums.modalities["optical"].std, rtol=1e-6)
    np.testing.assert_allclose((mean, std), normalization_of(meta), rtol=1e-6)
    with pytest.raises(DataError, match="do not have modality optical"):
        normalization_of(meta, CommonStatistics({}))


def test_sums_far_off_all_others_are_named() -> None:
    def sums(mean: float, m2: float = 100.0) -> SiteSums:
        bands = ModalitySums(np.array([10.0]), np.array([mean]), np.array([m2]), ("B1",))
        return SiteSums({"optical": bands}, ("a",), (1,))

    usual = {"north": sums(0.2), "south": sums(0.3), "west": sums(1000.0)}
    assert outlying_sites(usual) == {}
    assert list(outlying_sites(usual | {"east": sums(-1e8)})) == ["east"]
    assert list(outlying_sites(usual | {"east": sums(0.2, 1e20)})) == ["east"]
    # of two sites nobody knows which one is wrong
    assert outlying_sites({"north": sums(0.2), "east": sums(1e9)}) == {}
    huge = sums(1e31).to_mapping()
    with pytest.raises(DataError, match="a mean or a deviation beyond 1e\\+30"):
        SiteSums.from_mapping(huge)
