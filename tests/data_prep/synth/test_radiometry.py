from __future__ import annotations

import numpy as np

from data_prep.synth.radiometry import NODATA, draw_acquisition, expose, swath
from data_prep.synth.random_fields import FieldMaker
from data_prep.synth.sites import draw_site


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
