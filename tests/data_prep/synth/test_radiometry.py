from __future__ import annotations

import numpy as np
import pytest

from data_prep.synth.landscapes import Cover, draw_site
from data_prep.synth.radiometry import (
    NODATA,
    draw_acquisition,
    draw_group_means,
    draw_spectra,
    expose,
    pull_means,
    spread_points,
    swath,
)
from data_prep.synth.random_fields import FieldMaker


def test_the_swath_is_tilted_and_covers_most_of_the_scene() -> None:
    for seed in range(20):
        acquisition = draw_acquisition(draw_site(0, 0), np.random.default_rng(seed))
        inside = swath(200, acquisition)
        assert 0.8 < inside.mean() < 0.99
        assert inside[100, 100]
        assert inside[0, 5:-5].argmax() != inside[-1, 5:-5].argmax()


def test_counts_are_nodata_outside_the_swath_and_only_there() -> None:
    site = draw_site(0, 0)
    rng = np.random.default_rng(0)
    acquisition = draw_acquisition(site, rng)
    ground = np.full((4, 128, 128), 0.1, dtype=np.float32)
    flat = np.ones((128, 128), dtype=np.float32)
    counts = expose(ground, flat, acquisition, site, FieldMaker(128, rng))
    inside = swath(128, acquisition)
    assert counts.dtype == np.uint16
    assert (counts[:, ~inside] == NODATA).all()
    assert (counts[:, inside] > NODATA).all()
    assert 500 < np.median(counts[:, inside]) < 2500


def test_spectra_are_reflectances_that_differ_between_sites() -> None:
    spectra = [draw_spectra(draw_site(0, i), 0.5, np.random.default_rng(i)) for i in range(2)]
    for name in ("soil", "canopy", "deep water"):
        assert spectra[0][name].shape == (4,)
        assert (spectra[0][name] > 0).all()
        assert (spectra[0][name] < 1).all()
        assert not np.allclose(spectra[0][name], spectra[1][name])


def test_woody_classes_overlap_in_every_band_and_water_keeps_its_color() -> None:
    rng = np.random.default_rng(0)
    many = np.repeat([Cover.BROADLEAF, Cover.CONIFER, Cover.ORCHARD, Cover.WATER], 400)
    targets = draw_group_means(many, 0.2, rng).reshape(4, 400, 4)
    assert np.isnan(targets[3]).all()
    spread = targets[:3].std(axis=1).max(axis=0)
    apart = np.ptp(targets[:3].mean(axis=1), axis=0)
    assert (apart < 2 * spread).all()


def test_a_full_pull_makes_patch_means_equal_to_the_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("data_prep.synth.radiometry.PULL", 1)
    rng = np.random.default_rng(2)
    pixels = rng.uniform(0.05, 0.3, size=(400, 4)).astype(np.float32)
    patch = np.repeat(np.array([0, 1], dtype=np.int32), 200)
    targets = np.array([[0.1, 0.2, 0.2, 0.3], [np.nan] * 4], dtype=np.float32)
    pulled = pull_means(pixels, patch, targets)
    np.testing.assert_allclose(pulled[:200].mean(axis=0), targets[0], rtol=1e-4)
    np.testing.assert_array_equal(pulled[200:], pixels[200:])


def test_spreading_points_keeps_the_mean_and_lessens_the_variance() -> None:
    noise = FieldMaker(128, np.random.default_rng(0)).white()
    assert spread_points(noise, 0.3).mean() == pytest.approx(noise.mean(), abs=1e-3)
    assert spread_points(noise, 0.3).std() < 0.8
    np.testing.assert_allclose(spread_points(np.ones((2, 8, 8), np.float32), 0.4), 1, rtol=1e-6)
