from __future__ import annotations

import numpy as np
import pytest

from data_prep.synth.land_cover import grow_patches
from data_prep.synth.landscapes import Cover, draw_site
from data_prep.synth.radiometry import draw_spectra
from data_prep.synth.random_fields import FieldMaker
from data_prep.synth.terrain import draw_river
from data_prep.synth.textures import TEXTURES, Pixels, divide_land, dots

PX = 128


def test_every_class_has_a_texture() -> None:
    assert set(TEXTURES) == set(Cover)


@pytest.mark.parametrize("cover", list(Cover))
def test_textures_are_reflectances_that_vary(cover: Cover) -> None:
    rng = np.random.default_rng(3)
    maker = FieldMaker(PX, rng)
    river = draw_river(maker, 8)
    covers = np.full(4, cover)
    patches = grow_patches(maker, covers, np.ones((PX, PX), np.float32), river)
    spectra = draw_spectra(draw_site(0, 2), 0.5, rng)
    colors = TEXTURES[cover](Pixels.of_scene(maker, patches, spectra, pivots=0.5))
    assert colors.shape == (PX * PX, 4)
    assert colors.dtype == np.float32
    assert np.isfinite(colors).all()
    assert colors.min() >= 0
    assert colors.max() < 1
    assert (colors.std(axis=0) > 1e-4).all()


def grid(px: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:px, :px].astype(np.float32)
    return x.ravel(), y.ravel()


def test_plots_divide_blocks() -> None:
    x, y = grid(200)
    plots = divide_land(x, y, np.zeros_like(x), (80, 40), 4, seed=1)
    assert 10 < np.unique(plots.identity).size < 80
    assert (plots.edge >= 0).all()
    assert (plots.edge <= plots.block_edge).all()


def test_dots_fit_their_cells_and_meet_their_share() -> None:
    x, y = grid(300)
    dome = dots(x, y, 10, 0.3, (2, 3), seed=2)
    assert 0 <= dome.min() <= dome.max() <= 1
    mean_square_radius = 19 / 3
    covered = (dome > 0).mean()
    assert covered == pytest.approx(0.3 * np.pi * mean_square_radius / 100, rel=0.2)
