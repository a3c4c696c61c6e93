"""Colors of land-cover products: known by all the names of a data set, and told apart."""

from itertools import combinations

import numpy as np
import pytest

from data_prep.pictures.color_vision import VISIONS, simulate, to_lab
from data_prep.pictures.map_colors import class_colors
from data_prep.pictures.official_palettes import CORINE, WORLD_COVER, official_colors
from tests.data_prep.pictures.ciede2000 import ciede2000


def difference(one: np.ndarray, other: np.ndarray, vision: str) -> float:
    return float(ciede2000(to_lab(simulate(one, vision)), to_lab(simulate(other, vision))))


def test_products_are_known_by_the_names_of_their_classes() -> None:
    names = ["Tree cover", "Built-up", "Permanent water bodies", "Bare / sparse vegetation"]
    assert official_colors(names) == [(0, 100, 0), (250, 0, 0), (0, 100, 200), (180, 180, 180)]
    coded = [
        "311 Broad-leaved forest",
        "312 - Coniferous forest",
        "313: mixed forest",
        "5.1.2 Water bodies",
    ]
    assert official_colors(coded) == [(128, 255, 0), (0, 166, 0), (77, 255, 0), (128, 242, 230)]


@pytest.mark.parametrize(
    "names",
    [
        ["Grassland", "Cropland"],  # of many legends
        ["Tree cover", "Grassland", "Cropland", "Built-up", "quarry"],
        ["water", "wetland", "grassland", "cropland", "orchard", "broadleaf forest"],
        ["Tree cover", "Built-up", "Water bodies", "Mixed forest"],  # of two legends
        [],
    ],
)
def test_other_classes_have_no_product(names: list[str]) -> None:
    assert official_colors(names) is None


@pytest.mark.parametrize("legend", [WORLD_COVER, CORINE], ids=["worldcover", "corine"])
def test_colors_stay_those_of_the_product_as_far_as_they_can(legend: dict[str, str]) -> None:
    names = list(legend)
    official, colors = official_colors(names), class_colors(names)
    assert official is not None
    assert len(np.unique(colors, axis=0)) == len(names)
    for vision in VISIONS:
        pairs = list(combinations(range(len(names)), 2))
        before = min(
            difference(np.array(official[i]), np.array(official[j]), vision) for i, j in pairs
        )
        after = min(difference(colors[i], colors[j], vision) for i, j in pairs)
        assert after >= min(before, 9)
        if legend is WORLD_COVER:
            assert after >= 8
    changed = [difference(np.array(a), b, "normal") for a, b in zip(official, colors, strict=True)]
    assert np.median(changed) < 12
    assert max(changed) < 36
