from __future__ import annotations

import numpy as np

from data_prep.synth.cover_classes import Cover
from data_prep.synth.sites import draw_site
from data_prep.synth.spectra import Palette, group_targets, pull_means


def test_palettes_are_reflectances_that_differ_between_sites() -> None:
    palettes = [Palette(draw_site(0, i), 0.5, np.random.default_rng(i)) for i in range(2)]
    for name in ("soil", "canopy", "deep water"):
        assert palettes[0][name].shape == (4,)
        assert (palettes[0][name] > 0).all()
        assert (palettes[0][name] < 1).all()
        assert not np.allclose(palettes[0][name], palettes[1][name])
    assert palettes[0].table("soil", "grass").shape == (2, 4)


def test_woody_classes_overlap_in_every_band_and_water_keeps_its_colour() -> None:
    rng = np.random.default_rng(0)
    many = np.repeat([Cover.BROADLEAF, Cover.CONIFER, Cover.ORCHARD, Cover.WATER], 400)
    targets = group_targets(many, 0.2, rng).reshape(4, 400, 4)
    assert np.isnan(targets[3]).all()
    spread = targets[:3].std(axis=1).max(axis=0)
    apart = np.ptp(targets[:3].mean(axis=1), axis=0)
    assert (apart < 2 * spread).all()


def test_full_strength_makes_patch_means_equal_to_the_targets() -> None:
    rng = np.random.default_rng(2)
    pixels = rng.uniform(0.05, 0.3, size=(600, 4)).astype(np.float32)
    patch = np.repeat(np.array([0, 1, -1], dtype=np.int32), 200)
    targets = np.array([[0.1, 0.2, 0.2, 0.3], [np.nan] * 4], dtype=np.float32)
    pulled = pull_means(pixels, patch, targets, strength=1)
    np.testing.assert_allclose(pulled[:200].mean(axis=0), targets[0], rtol=1e-4)
    np.testing.assert_array_equal(pulled[200:], pixels[200:])
