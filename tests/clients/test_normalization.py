from __future__ import annotations

import numpy as np
import pytest
import torch

from clients.normalization import ModalityNormalizer, Normalization, stack_modalities, to_native
from rsdgc.errors import DataError
from tests.clients.toys import CPU, unit


def normalized(array: np.ndarray, normalization: Normalization) -> np.ndarray:
    return ModalityNormalizer(array.dtype, normalization, CPU).normalize(to_native(array)).numpy()


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", ">u2", "i2", "u4", "i4", "f2", "f4", ">f4", "f8", "?"]
)
def test_every_type_of_raster_keeps_its_values(dtype: str) -> None:
    values = np.array([0, 1, 100, 127], dtype)
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        values[3] = np.iinfo(values.dtype).max
    array = values.reshape(2, 1, 1, 2)
    array.flags.writeable = False
    expected = array.astype(np.float32)
    np.testing.assert_array_equal(normalized(array, unit(1)), expected)


@pytest.mark.parametrize("dtype", ["c8", "S4"])
def test_types_that_cannot_be_trained_on_are_refused(dtype: str) -> None:
    with pytest.raises(DataError, match="ingest"):
        to_native(np.zeros((1, 1, 2, 2), dtype))


def test_pixels_are_normalized_band_by_band() -> None:
    array = np.full((1, 2, 1, 1), 10, np.uint16)
    normalization = Normalization(np.array([4, 10], np.float32), np.array([3, 0], np.float32))
    np.testing.assert_array_equal(normalized(array, normalization).ravel(), [2, 0])


def test_nodata_and_non_finite_pixels_become_the_mean() -> None:
    array = np.array([1, np.nan, np.inf, -9999], np.float32).reshape(1, 1, 2, 2)
    normalization = Normalization(np.array([3], np.float32), np.array([2], np.float32), -9999)
    np.testing.assert_array_equal(normalized(array, normalization).ravel(), [-1, 0, 0, 0])


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("u2", 65535.0), ("f8", -1.7976931348623157e308), ("f4", float("nan"))]
)
def test_nodata_at_the_end_of_a_type(dtype: str, nodata: float) -> None:
    array = np.array([5, nodata], dtype).reshape(1, 1, 1, 2)
    np.testing.assert_array_equal(normalized(array, unit(1, nodata)).ravel(), [5, 0])


def test_the_cache_is_left_as_it_is() -> None:
    native = torch.full((1, 1, 2, 2), 4.0)
    ModalityNormalizer(
        np.dtype(np.float32), Normalization(*[np.ones(1, np.float32)] * 2), CPU
    ).normalize(native)
    assert (native == 4).all()


@pytest.mark.parametrize("std", [[np.nan], [1, 1]])
def test_statistics_that_cannot_normalize_are_refused(std: list[float]) -> None:
    normalization = Normalization(np.zeros(1, np.float32), np.array(std, np.float32))
    with pytest.raises(DataError, match="std"):
        ModalityNormalizer(np.dtype(np.uint8), normalization, CPU)


def test_modalities_of_another_size_are_resampled_to_the_first() -> None:
    coarse = torch.full((2, 1, 4, 4), 3.0)
    x = stack_modalities([torch.zeros(2, 4, 8, 8), coarse])
    assert x.shape == (2, 5, 8, 8)
    assert torch.equal(x[:, 4], torch.full((2, 8, 8), 3.0))


def test_scale_and_offset_are_applied_after_the_cast() -> None:
    array = np.array([0, 10_000, 65_535, 7], np.uint16).reshape(4, 1, 1, 1)
    mean, std = np.array([0.2], np.float32), np.array([0.5], np.float32)
    scaled = Normalization(mean, std, nodata=7, scale=np.array([1e-4]), offset=np.array([-0.1]))
    expected = (array.ravel()[:3] * 1e-4 - 0.1 - 0.2) / 0.5
    found = normalized(array, scaled).ravel()
    np.testing.assert_allclose(found[:3], expected, rtol=1e-5)
    assert found[3] == 0
    negative = Normalization(mean, std, scale=np.array([-1e-4]))
    np.testing.assert_allclose(
        normalized(array, negative).ravel(), (array.ravel() * -1e-4 - 0.2) / 0.5, rtol=1e-5
    )


@pytest.mark.parametrize("scale", [[0.0], [np.nan], [1.0, 2.0]])
def test_scales_that_cannot_be_applied_are_refused(scale: list[float]) -> None:
    normalization = Normalization(*np.ones((2, 1), np.float32), scale=np.array(scale))
    with pytest.raises(DataError, match="cannot be applied to 1 bands"):
        ModalityNormalizer(np.dtype("uint8"), normalization, CPU)
