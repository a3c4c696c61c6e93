from __future__ import annotations

import numpy as np
import pytest

from data_prep.synth.land_cover import (
    Patches,
    draw_roads,
    grow_patches,
    label_pixels,
    patches_across,
)
from data_prep.synth.landscapes import Cover
from data_prep.synth.random_fields import FieldMaker
from data_prep.synth.terrain import River, draw_river

COVERS = np.array(
    [
        Cover.BUILT_UP,
        Cover.WATER,
        Cover.CROPLAND,
        Cover.BUILT_UP,
        Cover.CONIFER,
        Cover.CONIFER,
        Cover.QUARRY,
        Cover.ORCHARD,
        Cover.WETLAND,
    ]
)
PX = 240


@pytest.fixture(scope="module")
def landscape() -> tuple[Patches, River, np.ndarray]:
    maker = FieldMaker(PX, np.random.default_rng(5))
    river = draw_river(maker, 8)
    elevation = 100 + 10 * maker.smooth(60)
    return grow_patches(maker, COVERS, elevation, river), river, elevation


def test_all_classes_are_placed(landscape: tuple[Patches, River, np.ndarray]) -> None:
    patches, _, _ = landscape
    np.testing.assert_array_equal(np.sort(patches.covers), np.sort(COVERS))
    assert set(np.unique(patches.number)) <= set(range(9))
    assert patches.inside.min() >= 0


def test_a_scene_of_one_class_has_borders_far_away() -> None:
    maker = FieldMaker(96, np.random.default_rng(0))
    river = draw_river(maker, 8)
    covers = np.full(4, Cover.BARE)
    patches = grow_patches(maker, covers, np.ones((96, 96), np.float32), river)
    assert np.isfinite(patches.inside).all()
    assert patches.inside.min() > 20


def test_roads_link_towns_and_leave_lakes_alone(
    landscape: tuple[Patches, River, np.ndarray],
) -> None:
    patches, river, elevation = landscape
    roads = draw_roads(patches, elevation, np.random.default_rng(0))
    lakes = patches.covers[patches.number] == Cover.WATER
    assert 0.003 < roads.mean() < 0.1
    assert not roads[lakes].any()
    labels = label_pixels(patches, river, roads)
    assert (labels[roads] == Cover.BUILT_UP).all()
    assert labels.min() >= 1
    assert labels.max() <= 10


def test_patches_are_larger_than_chips() -> None:
    assert patches_across(96) == 2
    assert 576 / patches_across(576) > 2 * 64
