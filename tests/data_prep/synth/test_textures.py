from __future__ import annotations

import numpy as np
import pytest

from data_prep.synth.brush import Canvas
from data_prep.synth.cover_classes import Cover
from data_prep.synth.landcover import grow_patches
from data_prep.synth.plots import divide, dots
from data_prep.synth.random_fields import FieldMaker
from data_prep.synth.sites import draw_site
from data_prep.synth.spectra import Palette
from data_prep.synth.terrain import draw_river
from data_prep.synth.textures import PAINTERS

PX = 128


def test_every_class_has_a_painter() -> None:
    assert set(PAINTERS) == set(Cover)


@pytest.mark.parametrize("cover", list(Cover))
def test_painters_give_textured_reflectance(cover: Cover) -> None:
    rng = np.random.default_rng(3)
    maker = FieldMaker(PX, rng)
    river = draw_river(maker, 8)
    deck = np.full(4, cover)
    patches = grow_patches(maker, deck, np.ones((PX, PX), np.float32), river)
    canvas = Canvas(maker, patches, Palette(draw_site(0, 2), 0.5, rng), pivots=0.5)
    painted = PAINTERS[cover](canvas.brush(np.ones((PX, PX), dtype=bool)))
    assert painted.shape == (PX * PX, 4)
    assert painted.dtype == np.float32
    assert np.isfinite(painted).all()
    assert painted.min() >= 0
    assert painted.max() < 1
    assert (painted.std(axis=0) > 1e-4).all()


def grid(px: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:px, :px].astype(np.float32)
    return x.ravel(), y.ravel()


def test_parcels_partition_blocks() -> None:
    x, y = grid(200)
    parcels = divide(x, y, np.zeros_like(x), (80, 40), 4, seed=1)
    parts = np.unique(parcels.identity).size
    assert 10 < parts < 80
    assert (parcels.edge >= 0).all()
    assert (parcels.edge <= parcels.block_edge).all()


def test_dots_fit_their_cells_and_meet_their_share() -> None:
    x, y = grid(300)
    dome, radius = dots(x, y, 10, 0.3, (2, 3), seed=2)
    assert 0 <= dome.min() <= dome.max() <= 1
    covered = (dome > 0).mean()
    assert covered == pytest.approx(0.3 * np.pi * np.mean(radius**2) / 100, rel=0.2)
