"""What sites agreed to normalise by: it travels exactly, and only to where it fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.common import merge_sites, site_sums
from data_prep.dataset import open_data
from data_prep.normalizing import CommonStatistics, LayerStatistics, normalizing_statistics
from data_prep.schema import ModalityMeta
from data_prep.store import Store
from rsdgc.errors import DataError

LAYERS = {"optical": ["B02", "B03", "B08"], "dem": ["elevation"]}
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def modalities(**layers: list[str]) -> list[ModalityMeta]:
    return [ModalityMeta(name=n, bands=b, dtype="uint16") for n, b in (layers or LAYERS).items()]


def statistics(numbers: np.ndarray) -> CommonStatistics:
    """Return statistics of :data:`LAYERS` from float32 [8]."""
    (mean, std), (mean2, std2) = numbers[:6].reshape(2, 3), numbers[6:].reshape(2, 1)
    return CommonStatistics(
        {
            "optical": LayerStatistics(("B02", "B03", "B08"), mean, std),
            "dem": LayerStatistics(("elevation",), mean2, std2),
        }
    )


def assert_same(one: CommonStatistics, two: CommonStatistics) -> None:
    assert list(one.layers) == list(two.layers)
    for name, layer in one.layers.items():
        assert layer.bands == two.layers[name].bands
        for key in ("mean", "std"):
            ours, theirs = getattr(layer, key), getattr(two.layers[name], key)
            assert ours.dtype == theirs.dtype == np.float32
            assert ours.tobytes() == theirs.tobytes()


@given(arrays(np.float32, 8, elements=NUMBERS))
def test_what_is_agreed_on_travels_bit_for_bit(numbers: np.ndarray) -> None:
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
    "here",
    [
        {"optical": ["B02", "B03", "B08"]},
        {"optical": ["B02", "B08", "B03"], "dem": ["elevation"]},
        {"dem": ["elevation"], "optical": ["B02", "B03", "B08"]},
        {"optical": ["B02", "B03", "B08"], "srtm": ["elevation"]},
    ],
    ids=["fewer layers", "other order of bands", "other order of layers", "other name"],
)
def test_a_site_of_other_layers_refuses_it(here: dict[str, list[str]]) -> None:
    packed = statistics(np.ones(8, np.float32)).pack()
    with pytest.raises(DataError, match="of other layers or bands than this site's"):
        CommonStatistics.unpack(packed, modalities(**here))


def test_what_is_damaged_or_not_finite_is_refused() -> None:
    packed = statistics(np.ones(8, np.float32)).pack()
    for wrong in (packed[:-1], packed + b"\0", b""):
        with pytest.raises(DataError, match="of other layers"):
            CommonStatistics.unpack(wrong, modalities())
    with pytest.raises(DataError, match="are not finite"):
        CommonStatistics.unpack(packed[:-4] + b"\0\0\xc0\x7f", modalities())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": 1}', '{"a": {"bands": ["b"], "mean": [1, 2], "std": [1]}}'],
)
def test_a_damaged_file_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="these are no common statistics"):
        CommonStatistics.from_json(text)


def test_the_common_ones_go_over_a_store_s_own(scenes_store: Store) -> None:
    (meta,) = scenes_store.meta.modalities
    sums = site_sums(open_data(scenes_store.path), 0)
    common = CommonStatistics.of(merge_sites([sums, sums]))
    mean, std = normalizing_statistics(meta, common)
    np.testing.assert_array_equal(mean, sums.layers["optical"].mean.astype(np.float32))
    np.testing.assert_allclose(std, sums.layers["optical"].std, rtol=1e-6)
    np.testing.assert_allclose((mean, std), normalizing_statistics(meta), rtol=1e-6)
    with pytest.raises(DataError, match="do not have layer optical"):
        normalizing_statistics(meta, CommonStatistics({}))
