"""Colors of maps: those of the covers that names say, and safe for color-blind readers."""

from itertools import combinations

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from data_prep.pictures.color_vision import VISIONS, simulate, to_lab
from data_prep.pictures.map_colors import SPLIT_COLORS, class_colors, hex_color, site_colors
from data_prep.synth import write_archive
from data_prep.synth.landscapes import CLASSES, Cover
from tests.data_prep.pictures.ciede2000 import ciede2000


def test_land_cover_has_the_colors_of_maps() -> None:
    water, forest, built = class_colors(["Open Water", "conifer forest", "urban"]).astype(int)
    assert water.argmax() == 2
    assert forest.argmax() == 1
    assert built.argmax() == 0


@given(st.lists(st.sampled_from(["corn", "corn-notill", "forest", "x", "y 2", ""]), max_size=45))
def test_colors_differ_whatever_the_names(names: list[str]) -> None:
    colors = class_colors(names)
    assert colors.shape == (len(names), 3)
    assert colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == len(names)


def test_same_covers_get_shades_and_clashing_ones_move() -> None:
    first, second = class_colors(["forest north", "forest south"])
    assert tuple(first) != tuple(second)
    alone = class_colors(["pasture"])[0].tolist()
    assert class_colors(["orchard", "pasture"])[1].tolist() != alone  # alike without red cones


def test_hex_colors_are_css() -> None:
    assert hex_color((78, 121, 167)) == "#4e79a7"
    assert hex_color(np.array([0, 15, 255], np.uint8)) == "#000fff"


def difference(one: np.ndarray, other: np.ndarray, vision: str) -> float:
    return float(ciede2000(to_lab(simulate(one, vision)), to_lab(simulate(other, vision))))


NLCD = [
    "Open Water", "Perennial Ice/Snow", "Developed, Open Space", "Developed, Low Intensity",
    "Developed, Medium Intensity", "Developed, High Intensity", "Barren Land",
    "Deciduous Forest", "Evergreen Forest", "Mixed Forest", "Shrub/Scrub",
    "Grassland/Herbaceous", "Pasture/Hay", "Cultivated Crops", "Woody Wetlands",
    "Emergent Herbaceous Wetlands",
]  # fmt: skip
COVERS = [
    "conifer", "broadleaf", "wetland", "snow", "water", "orchard", "forest", "shrub", "grassland",
    "trees", "cropland", "quarry", "road", "built-up", "bare ground",
]  # fmt: skip


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("names", [NLCD, COVERS], ids=["nlcd", "covers"])
def test_any_two_covers_differ_in_every_vision(names: list[str], vision: str) -> None:
    colors = class_colors(names)
    for one, other in combinations(range(len(names)), 2):
        assert difference(colors[one], colors[other], vision) >= 10, (names[one], names[other])


@pytest.fixture(scope="module")
def touching(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[Cover, Cover]]:
    """Pairs of classes that touch on the label maps of a synthetic site."""
    archive = tmp_path_factory.mktemp("maps") / "archive"
    write_archive(archive, sites=2, scenes_per_site=4, scene_px=384)
    pairs: set[tuple[Cover, Cover]] = set()
    for path in archive.rglob("labels.tif"):
        with rasterio.open(path) as raster:
            labels = raster.read(1)
        for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            edge = (one != other) & (one > 0) & (other > 0)
            codes = np.unique(np.sort([one[edge], other[edge]], axis=0), axis=1)
            pairs |= {(Cover(low), Cover(high)) for low, high in codes.T}
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("vision", VISIONS)
def test_classes_that_touch_on_a_synthetic_map_differ_in_every_vision(
    touching: set[tuple[Cover, Cover]], vision: str
) -> None:
    assert {cover for pair in touching for cover in pair} == set(Cover)
    assert len(touching) >= 25  # of 45
    colors = dict(zip(Cover, class_colors([CLASSES[c][0] for c in Cover]), strict=True))
    for one, other in touching:
        assert difference(colors[one], colors[other], vision) >= 10, (one, other)


@pytest.mark.parametrize("vision", VISIONS)
def test_splits_and_up_to_eight_sites_differ_in_every_vision(vision: str) -> None:
    for colors in (np.array(list(SPLIT_COLORS.values())), site_colors(8)):
        for one, other in combinations(colors, 2):
            assert difference(one, other, vision) >= 10


def test_a_site_keeps_its_color_when_others_join() -> None:
    np.testing.assert_array_equal(site_colors(30)[:7], site_colors(7))
    assert len(np.unique(site_colors(30), axis=0)) == 30


def test_colors_of_many_sites_are_used_again_in_turn() -> None:
    colors, counts = np.unique(site_colors(200), axis=0, return_counts=True)
    assert len(colors) >= 60
    assert counts.max() <= 4


def test_sites_have_no_color_of_a_class_or_a_split() -> None:
    names = ["water", "grassland", "cropland", "built-up", "conifer forest"]
    others = [*SPLIT_COLORS.values(), *class_colors(names)]
    for site in site_colors(4, names):
        for other in others:
            assert difference(site, np.array(other), "normal") >= 5
