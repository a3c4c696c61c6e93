from __future__ import annotations

import numpy as np
import pytest

from data_prep.synth.landscapes import LANDSCAPES
from data_prep.synth.random_fields import FieldMaker
from data_prep.synth.terrain import draw_river, hillshade, level_lakes, raise_terrain


@pytest.fixture(scope="module")
def relief() -> tuple[np.ndarray, np.ndarray]:
    maker = FieldMaker(192, np.random.default_rng(1))
    river = draw_river(maker, 10)
    elevation = raise_terrain(maker, river, LANDSCAPES["wooded hills"])
    return river.across, elevation


def test_the_river_crosses_the_scene_and_runs_low(relief: tuple[np.ndarray, np.ndarray]) -> None:
    across, elevation = relief
    water = np.abs(across) < 1
    assert 0.01 < water.mean() < 0.35
    assert elevation[water].mean() < elevation[~water].mean()
    assert elevation.min() > 0
    assert elevation.dtype == np.float32


def test_lakes_are_level_and_their_shores_are_not(relief: tuple[np.ndarray, np.ndarray]) -> None:
    _, elevation = relief
    patch = np.zeros((192, 192), dtype=np.int32)
    patch[60:130, 50:120] = 1
    leveled = level_lakes(elevation, patch, np.array([1]))
    assert np.ptp(leveled[patch == 1]) < 1e-3
    far = np.ones_like(patch, dtype=bool)
    far[20:170, 10:160] = False
    np.testing.assert_allclose(leveled[far], elevation[far], rtol=0.02)


def test_hillshade_is_one_on_flat_ground_and_more_toward_the_sun() -> None:
    flat = np.full((16, 16), 100, dtype=np.float32)
    np.testing.assert_allclose(hillshade(flat, 135, 45), 1, rtol=1e-6)
    rising_north = np.repeat(np.arange(16, 0, -1, dtype=np.float32)[:, None], 16, axis=1)
    assert hillshade(rising_north, 180, 45).mean() > 1.05
    assert hillshade(rising_north, 0, 45).mean() < 0.95
