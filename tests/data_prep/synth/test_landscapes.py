from __future__ import annotations

import numpy as np
import pytest

from data_prep.synth.landscapes import CLASSES, LANDSCAPES, Cover, draw_patch_covers, draw_site


def test_every_class_has_a_name_and_a_color() -> None:
    assert list(CLASSES) == list(Cover)
    names, colors = zip(*CLASSES.values(), strict=True)
    assert len(set(names)) == len(set(colors)) == 10


@pytest.mark.parametrize("key", LANDSCAPES)
def test_landscapes_have_five_classes_or_more(key: str) -> None:
    assert len(LANDSCAPES[key].mix) == 10
    assert np.count_nonzero(LANDSCAPES[key].mix) >= 5
    assert sum(LANDSCAPES[key].mix) == pytest.approx(1, abs=0.02)


def test_sites_differ_in_zone_mix_and_radiometry() -> None:
    sites = [draw_site(0, index) for index in range(8)]
    assert len({site.epsg for site in sites}) == 8
    assert len({site.gain.tobytes() for site in sites}) == 8
    assert len({site.mix.tobytes() for site in sites}) == 8
    assert all(32601 <= site.epsg <= 32760 and 1 <= site.epsg % 100 <= 60 for site in sites)


def test_a_site_is_decided_by_seed_and_number() -> None:
    first, again, other = draw_site(7, 2), draw_site(7, 2), draw_site(8, 2)
    np.testing.assert_array_equal(first.mix, again.mix)
    assert not np.array_equal(first.gain, other.gain)


@pytest.mark.parametrize("index", range(4))
def test_patches_meet_the_mix(index: int) -> None:
    site = draw_site(1, index)
    covers = draw_patch_covers(site, 5, 9, np.random.default_rng(0))
    assert covers.shape == (5, 9)
    counts = np.bincount(covers.ravel(), minlength=11)[1:]
    np.testing.assert_allclose(counts, site.mix * 45, atol=1.01)
